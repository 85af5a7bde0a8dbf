#include "ops/reduce.h"

#include <algorithm>

#include "autograd/node.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"
#include "kernels/reduce.h"

namespace pydlx::ops {

namespace {

bool contains(const Dims& axes, int a) { return std::find(axes.begin(), axes.end(), a) != axes.end(); }

Dims reduced_sizes(const Dims& sizes, const Dims& axes, bool keepdim) {
  Dims out;
  for (int i = 0; i < sizes.ndim(); ++i) {
    if (!contains(axes, i))
      out.push_back(sizes[i]);
    else if (keepdim)
      out.push_back(1);
  }
  return out;
}

// Adds an axis to a list that is kept innermost first, merging it with the previous one where the strides allow.
void add_axis(int& ndim, std::int64_t* size, std::int64_t* stride, std::int64_t* out_stride, std::int64_t n, std::int64_t s,
              std::int64_t o) {
  if (n == 1) return;
  if (ndim > 0 && s == stride[ndim - 1] * size[ndim - 1] && (!out_stride || o == out_stride[ndim - 1] * size[ndim - 1])) {
    size[ndim - 1] *= n;
    return;
  }
  size[ndim] = n;
  stride[ndim] = s;
  if (out_stride) out_stride[ndim] = o;
  ++ndim;
}

Reduce describe(const Tensor& x, const Dims& axes, const Tensor& out_keepdim) {
  Reduce r;
  r.in = x.data();
  r.out = out_keepdim.data();
  for (int i = x.ndim() - 1; i >= 0; --i) {
    const auto n = x.sizes()[i];
    if (contains(axes, i)) {
      r.inner_numel *= n;
      add_axis(r.inner_ndim, r.inner_size, r.inner_stride, nullptr, n, x.strides()[i], 0);
    } else {
      r.outer_numel *= n;
      add_axis(r.outer_ndim, r.outer_size, r.outer_stride, r.out_stride, n, x.strides()[i], out_keepdim.strides()[i]);
    }
  }
  return r;
}

}  // namespace

Tensor sum(const Tensor& x, const Dims& wanted, bool keepdim) {
  const Dims axes = wrap_axes(wanted, x.ndim(), "sum");
  const Tensor in = is_floating(x.dtype()) ? x : to_dtype(x, DType::Int64);
  Tensor wide = empty(reduced_sizes(x.sizes(), axes, true), in.dtype(), x.device());
  if (wide.numel() > 0) {
    const Reduce r = describe(in, axes, wide);
    kernel_or_fail(kernels<ReduceKernels>(x.device()).reduce[static_cast<int>(ReduceOp::sum)][static_cast<int>(in.dtype())], "sum", x.device(),
                   in.dtype())(r);
  }
  const Dims sizes = reduced_sizes(x.sizes(), axes, keepdim);
  Tensor out = alias(wide, sizes, contiguous_strides(sizes), 0);
  if (any_requires_grad(x))
    record("sum", out, {&x}, [is = x.sizes(), wide_sizes = wide.sizes()](Backward& bw) {
      bw.set(0, expand(reshape(bw.grad(), wide_sizes), is));
    });
  return out;
}

}  // namespace pydlx::ops
