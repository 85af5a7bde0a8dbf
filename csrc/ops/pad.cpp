#include "ops/pad.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/node.h"
#include "kernels/indexing.h"
#include "kernels/resample.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops {

namespace {

// Border and inside in one pass, where only the last three axes change. Undefined where that does not fit.
Tensor pad_planes(const Tensor& x, const Dims& sizes, const Dims& pad, Scalar value) {
  const int axes = std::min(x.ndim(), 3), lead = x.ndim() - axes;
  if (axes == 0 || !x.contiguous_layout() || x.numel() == 0) return {};
  const auto fn = kernels<ResampleKernels>(x.device()).plane_map[width_index(x.dtype())];
  if (!fn) return {};
  PlaneMap k;
  k.outer = 1;
  for (int i = 0; i < lead; ++i) {
    if (sizes[i] != x.sizes()[i]) return {};
    k.outer *= sizes[i];
  }
  std::vector<std::int64_t> index[3] = {{0}, {0}, {0}};
  for (int i = 0; i < axes; ++i) {
    const int at = 3 - axes + i, a = lead + i, pair = 2 * (x.ndim() - 1 - a);
    const std::int64_t n = x.sizes()[a], front = pair < pad.ndim() ? pad[pair] : 0;
    if (sizes[a] > 65536) return {};  // the tables would cost more than they save
    k.in[at] = n;
    k.out[at] = sizes[a];
    index[at].resize(static_cast<std::size_t>(sizes[a]));
    for (std::int64_t j = 0; j < sizes[a]; ++j) index[at][j] = j >= front && j - front < n ? j - front : -1;
  }
  for (int i = 0; i < 3; ++i) k.index[i] = index[i].data();
  const Tensor out = empty(sizes, x.dtype(), x.device());
  store_scalar(k.value, x.dtype(), value);
  k.x = x.data();
  k.y = out.data();
  if (out.numel() > 0) fn(k);
  return out;
}

}  // namespace

Tensor constant_pad(const Tensor& x, const Dims& pad, Scalar value) {
  const char* op = "pad";
  const int pairs = pad.ndim() / 2;
  require(pad.ndim() % 2 == 0, op, "pad", ErrorKind::Value, "expected (front, back) pairs, got ", pad);
  require(pairs <= x.ndim(), op, "pad", ErrorKind::Value, "expected at most ", 2 * x.ndim(), " values for shape ",
          x.sizes(), ", got ", pad);
  require(is_floating(x.dtype()) || x.dtype() == DType::Bool || !value.is_float() || value.f == std::trunc(value.f), op,
          "value", ErrorKind::DType, "expected an integer for a ", x.dtype(), " tensor, got ", value.to_double());
  require_fits(op, "value", value, x.dtype());
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
  Tensor out = pad_planes(x, sizes, pad, value);
  const bool done = out.defined();
  if (!done) {
    out = empty(sizes, x.dtype(), x.device(), format_of(x));
    fill_raw(out, value);
  }
  std::int64_t numel = 1;
  for (auto n : kept) numel *= n;
  if (numel > 0 && !done) {
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
