#include "ops/reduce_core.h"

#include <algorithm>

#include "autograd/mode.h"
#include "kernels/reduce.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/scan.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

bool contains(const Dims& axes, int a) { return std::find(axes.begin(), axes.end(), a) != axes.end(); }

// Adds an axis to a list that is kept innermost first, merging it with the previous one where the strides allow.
void add_axis(int& ndim, std::int64_t* size, std::int64_t* stride, std::int64_t* out_stride, std::int64_t n,
              std::int64_t s, std::int64_t o) {
  if (n == 1) return;
  if (ndim > 0 && s == stride[ndim - 1] * size[ndim - 1] &&
      (!out_stride || o == out_stride[ndim - 1] * size[ndim - 1])) {
    size[ndim - 1] *= n;
    return;
  }
  size[ndim] = n;
  stride[ndim] = s;
  if (out_stride) out_stride[ndim] = o;
  ++ndim;
}

// Kept axes always, and reduced axes unless their order matters, are visited in the order they lie in memory.
Reduce describe(const Tensor& x, const Dims& axes, const Tensor& out, bool ordered) {
  Reduce r;
  r.in = x.data();
  r.out = out.data();
  int order[kMaxDims];
  const int ndim = x.ndim();
  for (int i = 0; i < ndim; ++i) order[i] = ndim - 1 - i;
  const Dims& strides = x.strides();
  // A broadcast axis (stride 0) is walked last: repeating a whole block is cheaper than repeating single elements.
  auto weight = [&](int a) { return strides[a] == 0 ? INT64_MAX : strides[a]; };
  std::stable_sort(order, order + ndim, [&](int a, int b) { return weight(a) < weight(b); });
  for (int k = 0; k < ndim; ++k) {
    const int i = order[k];
    if (contains(axes, i)) continue;
    r.outer_numel *= x.sizes()[i];
    add_axis(r.outer_ndim, r.outer_size, r.outer_stride, r.out_stride, x.sizes()[i], strides[i], out.strides()[i]);
  }
  for (int k = 0; k < ndim; ++k) {
    const int i = ordered ? ndim - 1 - k : order[k];
    if (!contains(axes, i)) continue;
    r.inner_numel *= x.sizes()[i];
    add_axis(r.inner_ndim, r.inner_size, r.inner_stride, nullptr, x.sizes()[i], strides[i], 0);
  }
  return r;
}

}  // namespace

ReducePlan reduce_plan(const char* op, const Dims& sizes, const std::optional<Dims>& wanted, bool keepdim) {
  ReducePlan p;
  p.axes = wrap_axes(wanted.value_or(Dims{}), sizes.ndim(), op);
  p.wide = sizes;
  for (auto a : p.axes) {
    p.n *= sizes[a];
    p.wide[a] = 1;
  }
  if (keepdim) {
    p.sizes = p.wide;
  } else {
    for (int i = 0; i < sizes.ndim(); ++i)
      if (!contains(p.axes, i)) p.sizes.push_back(sizes[i]);
  }
  return p;
}

Tensor run_reduce(ReduceOp op, const char* name, const Tensor& x, const ReducePlan& plan, DType out_dtype,
                  std::initializer_list<double> params, Tensor* second, DType second_dtype, bool ordered) {
  Tensor wide = empty(plan.wide, out_dtype, x.device());
  Tensor wide2 = second ? empty(plan.wide, second_dtype, x.device()) : Tensor();
  if (wide.numel() > 0) {
    Reduce r = describe(x, plan.axes, wide, ordered);
    if (second) r.out2 = wide2.data();
    std::copy(params.begin(), params.end(), r.param);
    kernel_or_fail(kernels<ReduceKernels>(x.device()).reduce[static_cast<int>(op)][static_cast<int>(x.dtype())], name,
                   x.device(), x.dtype())(r);
  }
  if (second) *second = alias(wide2, plan.sizes, contiguous_strides(plan.sizes), 0);
  return alias(wide, plan.sizes, contiguous_strides(plan.sizes), 0);
}

Tensor restore_axes(const Tensor& g, const Dims& wide) { return g.sizes() == wide ? g : reshape(g, wide); }

Tensor axis_positions(std::int64_t n, int axis, int ndim, Device device) {
  const GradModeGuard off(false);
  Dims sizes = Dims::filled(static_cast<std::size_t>(std::max(ndim, 1)), 1);
  sizes[axis] = n;
  const Tensor ones = full(sizes, 1, DType::Int64, device);
  return sub(cumsum(ones, axis, std::nullopt), wrap_scalar(std::int64_t{1}));
}

Tensor scatter_one(const Tensor& g, const Tensor& index, const Dims& sizes, int axis) {
  if (sizes.empty()) return g;
  return where(eq(axis_positions(sizes[axis], axis, sizes.ndim(), g.device()), index), g, wrap_scalar(std::int64_t{0}));
}

Tensor with_dtype(const Tensor& x, std::optional<DType> dtype) { return dtype ? to_dtype(x, *dtype) : x; }

void require_floating(const char* op, const Tensor& x) {
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert it first, for example with .float()");
}

}  // namespace pydlx::ops
