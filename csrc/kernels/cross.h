// Cross products.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Cross {
  const void *a = nullptr, *b = nullptr;  // [outer, 3, inner], contiguous
  void* out = nullptr;                    // the same
  std::int64_t outer = 0, inner = 0;
};

struct CrossKernels {
  void (*cross[kDTypeCount])(const Cross&) = {};  // optional
};

}  // namespace pydlx
