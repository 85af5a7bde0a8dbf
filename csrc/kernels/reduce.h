// Reductions over any set of axes. The order of accumulation depends only on the geometry, never on the number of threads.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/limits.h"

namespace pydlx {

// out[o] = op over r of in[o, r]. Outer axes index the result, inner axes are reduced; both innermost first, merged where possible.
struct Reduce {
  const void* in = nullptr;
  void* out = nullptr;  // contiguous over the outer axes as listed in out_stride
  int outer_ndim = 0, inner_ndim = 0;
  std::int64_t outer_numel = 1, inner_numel = 1;
  std::int64_t outer_size[kMaxDims], outer_stride[kMaxDims], out_stride[kMaxDims];
  std::int64_t inner_size[kMaxDims], inner_stride[kMaxDims];
  double param[2] = {};
};

enum class ReduceOp : int { sum, COUNT };

using ReduceFn = void (*)(const Reduce&);

struct ReduceKernels {
  ReduceFn reduce[static_cast<int>(ReduceOp::COUNT)][kDTypeCount] = {};  // output dtype = input dtype
};

}  // namespace pydlx
