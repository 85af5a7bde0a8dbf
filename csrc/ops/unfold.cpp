#include "ops/unfold.h"

#include "autograd/node.h"
#include "kernels/pool.h"
#include "kernels/resample.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

struct Blocks {
  Pool geometry;  // planes: images times channels
  Dims image, columns;
};

// Checks and sizes for an image (N, C, H, W).
Blocks make_blocks(const char* op, const Dims& image, const Dims& kernel, const Dims& dilation, const Dims& padding,
                   const Dims& stride) {
  Blocks b;
  Pool& p = b.geometry;
  p.planes = checked_mul(image[0], image[1], op);
  std::int64_t taps = 1, count = 1;
  for (int i = 0; i < 2; ++i) {
    require(kernel[i] > 0 && dilation[i] > 0 && stride[i] > 0 && padding[i] >= 0, op, "kernel_size", ErrorKind::Value,
            "expected kernel, dilation and stride above 0 and padding of at least 0, got ", kernel, ", ", dilation,
            ", ", stride, " and ", padding);
    const std::int64_t extent = checked_add(checked_mul(dilation[i], kernel[i] - 1, op), 1, op);
    const std::int64_t padded = checked_add(image[2 + i], checked_mul(2, padding[i], op), op);
    require(padded >= extent, op, "kernel_size", ErrorKind::Shape, "expected a block no larger than the padded image (",
            padded, " along axis ", i, "), got ", extent);
    p.in[1 + i] = image[2 + i];
    p.kernel[1 + i] = kernel[i];
    p.stride[1 + i] = stride[i];
    p.pad[1 + i] = padding[i];
    p.dilation[1 + i] = dilation[i];
    p.out[1 + i] = (padded - extent) / stride[i] + 1;
    // Steps that are never taken may be of any length; the kernels want to add to them.
    if (p.out[1 + i] == 1) p.stride[1 + i] = 1;
    if (kernel[i] == 1) p.dilation[1 + i] = 1;
    taps = checked_mul(taps, kernel[i], op);
    count = checked_mul(count, p.out[1 + i], op);
  }
  b.image = image;
  b.columns = {image[0], checked_mul(image[1], taps, op), count};
  checked_numel(b.columns, op);
  return b;
}

// Both directions; each is the other's gradient.
Tensor move_blocks(const char* op, const Tensor& x, const Blocks& b, bool to_columns) {
  Tensor y;
  {
    const GradModeGuard off(false);
    const Tensor in = wide_operand(x);
    Tensor out = empty(to_columns ? b.columns : b.image, in.dtype(), in.device());
    const auto& table = kernels<ResampleKernels>(in.device());
    const int t = static_cast<int>(in.dtype());
    const auto fn = kernel_or_fail(to_columns ? table.unfold[t] : table.fold[t], op, in.device(), x.dtype());
    Pool p = b.geometry;
    p.x = to_columns ? in.data() : out.data();
    p.y = to_columns ? out.data() : in.data();
    if (out.numel() > 0) fn(p);
    y = to_dtype(out, x.dtype());
  }
  if (any_requires_grad(x))
    record(op, y, {&x}, [b, to_columns](Backward& bw) {
      bw.set(0, move_blocks(to_columns ? "col2im" : "im2col", bw.grad(), b, !to_columns));
    });
  return y;
}

void check_floating(const char* op, const Tensor& x) {
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert with .float()");
}

}  // namespace

Tensor im2col(const Tensor& x0, const Dims& kernel, const Dims& dilation, const Dims& padding, const Dims& stride) {
  const char* op = "unfold";
  require(x0.ndim() == 3 || x0.ndim() == 4, op, "input", ErrorKind::Shape,
          "expected (N, C, H, W) or (C, H, W), got shape ", x0.sizes());
  check_floating(op, x0);
  const Tensor x = x0.ndim() == 4 ? x0 : unsqueeze(x0, 0);
  Tensor y = move_blocks("im2col", x, make_blocks(op, x.sizes(), kernel, dilation, padding, stride), true);
  return x0.ndim() == 4 ? y : squeeze(y, {0});
}

Tensor col2im(const Tensor& x0, const Dims& size, const Dims& kernel, const Dims& dilation, const Dims& padding,
              const Dims& stride) {
  const char* op = "fold";
  require(x0.ndim() == 2 || x0.ndim() == 3, op, "input", ErrorKind::Shape,
          "expected (N, C kh kw, L) or (C kh kw, L), got shape ", x0.sizes());
  check_floating(op, x0);
  require(size[0] > 0 && size[1] > 0, op, "output_size", ErrorKind::Value, "expected sizes above 0, got ", size);
  const Tensor x = x0.ndim() == 3 ? x0 : unsqueeze(x0, 0);
  require(kernel[0] > 0 && kernel[1] > 0, op, "kernel_size", ErrorKind::Value, "expected sizes above 0, got ", kernel);
  const std::int64_t taps = checked_mul(kernel[0], kernel[1], op);
  require(x.sizes()[1] % taps == 0, op, "input", ErrorKind::Shape,
          "expected channels that are a multiple of the block size ", taps, ", got shape ", x0.sizes());
  const Blocks b =
      make_blocks(op, {x.sizes()[0], x.sizes()[1] / taps, size[0], size[1]}, kernel, dilation, padding, stride);
  require(b.columns == x.sizes(), op, "input", ErrorKind::Shape, "expected ", b.columns[2], " blocks for output size ",
          size, ", got shape ", x0.sizes());
  Tensor y = move_blocks("col2im", x, b, false);
  return x0.ndim() == 3 ? y : squeeze(y, {0});
}

namespace {
Tensor in_format_of(const Tensor& x, const Tensor& y) {
  const MemoryFormat f = format_of(x);
  return f == MemoryFormat::contiguous ? y : to_format(y, f);
}
}  // namespace

Tensor pixel_shuffle(const Tensor& x, std::int64_t r) {
  const char* op = "pixel_shuffle";
  require(x.ndim() >= 3, op, "input", ErrorKind::Shape, "expected at least 3 axes, got shape ", x.sizes());
  require(r > 0, op, "upscale_factor", ErrorKind::Value, "expected a factor above 0, got ", r);
  const int n = x.ndim() - 3;
  const std::int64_t square = checked_mul(r, r, op), c = x.sizes()[n], h = x.sizes()[n + 1], w = x.sizes()[n + 2];
  require(c % square == 0, op, "input", ErrorKind::Shape, "expected channels that are a multiple of ", square,
          ", got shape ", x.sizes());
  Dims split(x.sizes().data(), n), order, joined = split;
  for (auto s : {c / square, r, r, h, w}) split.push_back(s);
  for (int i = 0; i <= n; ++i) order.push_back(i);
  for (int i : {3, 1, 4, 2}) order.push_back(n + i);
  for (auto s : {c / square, h * r, w * r}) joined.push_back(s);
  return in_format_of(x, reshape(permute(reshape(x, split), order), joined));
}

Tensor pixel_unshuffle(const Tensor& x, std::int64_t r) {
  const char* op = "pixel_unshuffle";
  require(x.ndim() >= 3, op, "input", ErrorKind::Shape, "expected at least 3 axes, got shape ", x.sizes());
  require(r > 0, op, "downscale_factor", ErrorKind::Value, "expected a factor above 0, got ", r);
  const int n = x.ndim() - 3;
  const std::int64_t c = x.sizes()[n], h = x.sizes()[n + 1], w = x.sizes()[n + 2];
  require(h % r == 0 && w % r == 0, op, "input", ErrorKind::Shape, "expected height and width that are multiples of ",
          r, ", got shape ", x.sizes());
  Dims split(x.sizes().data(), n), order, joined = split;
  for (auto s : {c, h / r, r, w / r, r}) split.push_back(s);
  for (int i = 0; i <= n; ++i) order.push_back(i);
  for (int i : {2, 4, 1, 3}) order.push_back(n + i);
  for (auto s : {c * r * r, h / r, w / r}) joined.push_back(s);
  return in_format_of(x, reshape(permute(reshape(x, split), order), joined));
}

Tensor channel_shuffle(const Tensor& x, std::int64_t groups) {
  const char* op = "channel_shuffle";
  require(x.ndim() >= 3, op, "input", ErrorKind::Shape, "expected at least 3 axes (N, C, spatial...), got shape ",
          x.sizes());
  require(groups > 0 && x.sizes()[1] % groups == 0, op, "groups", ErrorKind::Value, "expected a divisor of the ",
          x.sizes()[1], " channels, got ", groups);
  Dims split{x.sizes()[0], groups, x.sizes()[1] / groups};
  for (int i = 2; i < x.ndim(); ++i) split.push_back(x.sizes()[i]);
  return reshape(transpose(reshape(x, split), 1, 2), x.sizes());
}

}  // namespace pydlx::ops
