// Softmax along the middle axis of a contiguous [outer, n, inner] block.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Softmax {
  const void* in = nullptr;  // forward: x; backward: the gradient
  const void* y = nullptr;   // backward: the forward result
  void* out = nullptr;
  std::int64_t outer = 1, n = 0, inner = 1;
};

using SoftmaxFn = void (*)(const Softmax&);

struct SoftmaxKernels {
  SoftmaxFn forward[2][kDTypeCount] = {};  // [0] softmax, [1] log_softmax
  SoftmaxFn backward[2][kDTypeCount] = {};
};

}  // namespace pydlx
