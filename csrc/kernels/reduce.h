// Reductions over any set of axes. The order of accumulation depends only on the geometry, never on the number of
// threads.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/limits.h"

namespace pydlx {

// out[o] = op over r of in[o, r]. Outer axes index the result, inner axes are reduced; both innermost first, merged
// where possible.
struct Reduce {
  const void* in = nullptr;
  void* out = nullptr;
  void* out2 = nullptr;  // second result, laid out like the first: the mean of var, the indices of argmax
  int outer_ndim = 0, inner_ndim = 0;
  std::int64_t outer_numel = 1, inner_numel = 1;
  std::int64_t outer_size[kMaxDims], outer_stride[kMaxDims], out_stride[kMaxDims];
  std::int64_t inner_size[kMaxDims], inner_stride[kMaxDims];
  double param[2] = {};
};

// Results have the input's dtype (int64 for the sums and products of integers) unless noted.
enum class ReduceOp : int {
  sum,  // sum / param[0] when that is not 0: the mean
  prod,
  nansum,   // NaN counts as 0
  norm1,    // sum |x|
  norm2,    // sqrt(sum x^2)
  var,      // sum (x - mean)^2 / max(0, n - param[0]), its square root when param[1] is not 0; out2 (or null): the mean
  nonzero,  // param[0] 0: how many are not 0 (int64); 1: whether any is (bool); 2: whether all are (bool)
  amax,     // the extrema give NaN when any element is NaN
  amin,
  amax_abs,
  amin_abs,
  argmax,  // out (or null): the value; out2: its first position along the reduced axes (int64); NaN counts as the
           // extremum
  argmin,
  logsumexp,  // log(sum exp x)
  COUNT
};

using ReduceFn = void (*)(const Reduce&);

struct ReduceKernels {
  ReduceFn reduce[static_cast<int>(ReduceOp::COUNT)][kDTypeCount] = {};
};

}  // namespace pydlx
