// What all reductions share: which axes go, the shapes of the results, and the call of the kernel.
#pragma once
#include <optional>

#include "core/tensor.h"
#include "kernels/reduce.h"

namespace pydlx::ops {

struct ReducePlan {
  Dims axes;           // wrapped and sorted
  Dims wide;           // result sizes with the reduced axes kept as 1
  Dims sizes;          // result sizes asked for
  std::int64_t n = 1;  // elements per result
};
ReducePlan reduce_plan(const char* op, const Dims& sizes, const std::optional<Dims>& axes, bool keepdim);

// Runs a kernel on x; the result has plan.sizes and dtype `out`. With `second`, the kernel's second result goes there
// in dtype `out2`. Index kernels need reduced axes in logical order: give ordered = true. An input with nothing to
// reduce is the caller's business.
Tensor run_reduce(ReduceOp op, const char* name, const Tensor& x, const ReducePlan& plan, DType out,
                  std::initializer_list<double> params = {}, Tensor* second = nullptr, DType out2 = DType::Int64,
                  bool ordered = false);

// Gives a gradient (or saved result) its reduced axes back as size 1, so that it broadcasts against the input.
Tensor restore_axes(const Tensor& g, const Dims& wide);

// 0, 1, ..., n - 1 shaped to lie along `axis` of a tensor with `ndim` dimensions.
Tensor axis_positions(std::int64_t n, int axis, int ndim, Device device);
// The adjoint of picking one element per slice along `axis`: zeros of `sizes` with g (reduced axis of size 1) where
// position == index.
Tensor scatter_one(const Tensor& g, const Tensor& index, const Dims& sizes, int axis);

// dtype= argument: converts first, as PyTorch does.
Tensor with_dtype(const Tensor& x, std::optional<DType> dtype);
// Refuses integers and bools with the remedy.
void require_floating(const char* op, const Tensor& x);

}  // namespace pydlx::ops
