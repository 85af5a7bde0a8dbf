#include "ops/pad.h"

#include "autograd/node.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops {

Tensor constant_pad(const Tensor& x, const Dims& pad, Scalar value) {
  const char* op = "pad";
  const int pairs = pad.ndim() / 2;
  require(pad.ndim() % 2 == 0, op, "pad", ErrorKind::Value, "expected (front, back) pairs, got ", pad);
  require(pairs <= x.ndim(), op, "pad", ErrorKind::Value, "expected at most ", 2 * x.ndim(), " values for shape ",
          x.sizes(), ", got ", pad);
  require(is_floating(x.dtype()) || !value.is_float(), op, "value", ErrorKind::DType, "expected an integer for a ",
          x.dtype(), " tensor");
  // The part of x that survives cropping, and where it goes.
  Dims sizes = x.sizes(), kept = x.sizes();
  std::int64_t from = x.offset(), to = 0;
  for (int i = 0; i < pairs; ++i) {
    const int a = x.ndim() - 1 - i;
    const std::int64_t front = pad[2 * i], back = pad[2 * i + 1];
    sizes[a] = checked_add(checked_add(sizes[a], front, op), back, op);
    require(sizes[a] >= 0, op, "pad", ErrorKind::Shape, "expected an output size of at least 0 along axis ", a,
            ", got ", sizes[a], " from ", x.sizes()[a], " with ", front, " and ", back);
    const std::int64_t lo = std::max<std::int64_t>(0, -front),
                       hi = std::min(x.sizes()[a], checked_add(x.sizes()[a], back, op));
    kept[a] = std::max<std::int64_t>(0, hi - lo);
    if (kept[a] > 0) from += lo * x.strides()[a];
  }
  Tensor out = full(sizes, value, x.dtype(), x.device());
  std::int64_t numel = 1;
  for (auto n : kept) numel *= n;
  if (numel > 0) {
    for (int i = 0; i < pairs; ++i) to += std::max<std::int64_t>(0, pad[2 * i]) * out.strides()[x.ndim() - 1 - i];
    copy_raw(alias(out, kept, out.strides(), to), alias(x, kept, x.strides(), from));
  }
  if (any_requires_grad(x)) {
    Dims reverse = pad;
    for (auto& p : reverse) p = -p;
    record("constant_pad", out, {&x}, [reverse](Backward& bw) { bw.set(0, constant_pad(bw.grad(), reverse, 0)); });
  }
  return out;
}

}  // namespace pydlx::ops
