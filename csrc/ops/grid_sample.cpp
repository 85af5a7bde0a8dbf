#include "ops/grid_sample.h"

#include "autograd/node.h"
#include "kernels/resample.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops {

Tensor grid_sample(const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  const char* op = "grid_sample";
  const int axes = x.ndim() - 2;
  require(axes == 2 || axes == 3, op, "input", ErrorKind::Shape, "expected (N, C, H, W) or (N, C, D, H, W), got shape ",
          x.sizes());
  require(grid.ndim() == x.ndim() && grid.sizes()[0] == x.sizes()[0] && grid.sizes().back() == axes, op, "grid",
          ErrorKind::Shape, "expected (", x.sizes()[0], ", out..., ", axes, ") with ", x.ndim(), " axes for input ",
          x.sizes(), ", got ", grid.sizes());
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert with .float()");
  require(grid.dtype() == x.dtype(), op, "grid", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
          grid.dtype());
  common_device(op, {&x, &grid});
  GridSample k;
  require(mode == "bilinear" || mode == "nearest", op, "mode", ErrorKind::Value,
          "expected 'bilinear' or 'nearest', got '", mode, "'");
  k.mode = mode == "bilinear" ? GridSample::Mode::bilinear : GridSample::Mode::nearest;
  require(padding_mode == "zeros" || padding_mode == "border" || padding_mode == "reflection", op, "padding_mode",
          ErrorKind::Value, "expected 'zeros', 'border' or 'reflection', got '", padding_mode, "'");
  k.padding = padding_mode == "zeros"    ? GridSample::Padding::zeros
              : padding_mode == "border" ? GridSample::Padding::border
                                         : GridSample::Padding::reflection;
  k.align_corners = align_corners;
  k.axes = axes;
  k.batch = x.sizes()[0];
  k.channels = x.sizes()[1];
  k.points = 1;
  Dims sizes{k.batch, k.channels};
  for (int i = 0; i < axes; ++i) {
    const std::int64_t n = x.sizes()[2 + i];
    require(n > 0 && n < (1 << 24), op, "input", ErrorKind::Shape, "expected spatial sizes from 1 to 2^24, got shape ",
            x.sizes());
    k.in[3 - axes + i] = n;
    k.points *= grid.sizes()[1 + i];
    sizes.push_back(grid.sizes()[1 + i]);
  }
  Tensor y;
  {
    const GradModeGuard off(false);
    const Tensor xc = wide_operand(x), gc = wide_operand(grid);
    Tensor out = empty(sizes, xc.dtype(), xc.device());
    const auto fn = kernel_or_fail(kernels<ResampleKernels>(xc.device()).grid_sample[static_cast<int>(xc.dtype())], op,
                                   xc.device(), x.dtype());
    if (out.numel() > 0) {
      GridSample f = k;
      f.x = xc.data();
      f.grid = gc.data();
      f.y = out.data();
      fn(f);
    }
    y = to_dtype(out, x.dtype());
  }
  if (any_requires_grad(x, grid))
    record(op, y, {&x, &grid}, [op, k, x = save(x), grid = save(grid)](Backward& bw) {
      require(!bw.create_graph, op, "", ErrorKind::NotImplemented,
              "expected a first derivative only: the gradient of grid_sample has no derivative (as in PyTorch)");
      const Tensor x0 = x.get(bw), g0 = grid.get(bw);
      const Tensor xc = wide_operand(x0), gc = wide_operand(g0), dy = wide_operand(bw.grad());
      GridSample b = k;
      Tensor dx, dgrid;
      if (bw.needs(0)) dx = zeros_like(xc);
      if (bw.needs(1)) dgrid = zeros_like(gc);
      b.x = xc.data();
      b.grid = gc.data();
      b.dy = dy.data();
      b.dx = data_or_null(dx);
      b.dgrid = data_or_null(dgrid);
      const auto fn =
          kernel_or_fail(kernels<ResampleKernels>(xc.device()).grid_sample_backward[static_cast<int>(xc.dtype())], op,
                         xc.device(), x0.dtype());
      if (dy.numel() > 0) fn(b);
      if (bw.needs(0)) bw.set(0, to_dtype(dx, x0.dtype()));
      if (bw.needs(1)) bw.set(1, to_dtype(dgrid, g0.dtype()));
    });
  return y;
}

}  // namespace pydlx::ops
