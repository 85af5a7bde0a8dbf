#include "ops/softmax.h"

#include "autograd/node.h"
#include "kernels/softmax.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/reduce_core.h"

namespace pydlx::ops {

namespace {

Softmax describe(const Tensor& x, int axis) {
  Softmax k;
  for (int i = 0; i < x.ndim(); ++i) {
    const auto size = x.sizes()[i];
    if (i == axis)
      k.n = size;
    else
      (i < axis ? k.outer : k.inner) *= size;
  }
  if (x.ndim() == 0) k.n = 1;
  return k;
}

// dx = y (g - sum(g y)) for softmax, g - exp(y) sum(g) for log_softmax.
Tensor softmax_backward(const Tensor& g, const Tensor& y, int axis, bool logarithm, bool create_graph) {
  if (create_graph || y.numel() == 0) {
    const Dims axes{axis};
    return logarithm ? sub(g, mul(exp(y), sum(g, axes, true))) : mul(y, sub(g, sum(mul(g, y), axes, true)));
  }
  const Tensor gc = contiguous(g), yc = contiguous(y);
  Tensor dx = empty(y.sizes(), y.dtype(), y.device());
  Softmax k = describe(yc, axis);
  k.in = gc.data();
  k.y = yc.data();
  k.out = dx.data();
  kernel_or_fail(kernels<SoftmaxKernels>(y.device()).backward[logarithm][static_cast<int>(y.dtype())],
                 "softmax_backward", y.device(), y.dtype())(k);
  return dx;
}

Tensor softmax_impl(const char* name, const Tensor& input, std::int64_t wanted, std::optional<DType> dtype,
                    bool logarithm) {
  const Tensor x = with_dtype(input, dtype);
  require_floating(name, x);
  const int axis = wrap_axis(wanted, x.ndim(), name);
  const Tensor xc = contiguous(detach(x));
  Tensor y = empty(x.sizes(), x.dtype(), x.device());
  if (y.numel() > 0) {
    Softmax k = describe(xc, axis);
    k.in = xc.data();
    k.out = y.data();
    kernel_or_fail(kernels<SoftmaxKernels>(x.device()).forward[logarithm][static_cast<int>(x.dtype())], name,
                   x.device(), x.dtype())(k);
  }
  if (any_requires_grad(x))
    record(name, y, {&x}, [y = Saved(y, 0), axis, logarithm](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, t.ndim() == 0 ? zeros_like(t) : softmax_backward(bw.grad(), t, axis, logarithm, bw.create_graph));
    });
  return y;
}

}  // namespace

Tensor softmax(const Tensor& x, std::int64_t axis, std::optional<DType> dtype) {
  return softmax_impl("softmax", x, axis, dtype, false);
}
Tensor log_softmax(const Tensor& x, std::int64_t axis, std::optional<DType> dtype) {
  return softmax_impl("log_softmax", x, axis, dtype, true);
}
Tensor softmin(const Tensor& x, std::int64_t axis, std::optional<DType> dtype) {
  return softmax(neg(with_dtype(x, dtype)), axis, std::nullopt);
}

}  // namespace pydlx::ops
