// Scans along the middle axis of a contiguous [outer, n, inner] block.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Scan {
  const void* in = nullptr;
  void* out = nullptr;
  std::int64_t* index = nullptr;  // cummax, cummin: where each value came from
  std::int64_t outer = 1, n = 0, inner = 1;
  bool reverse = false;    // start from the end
  bool exclusive = false;  // out[i] does not include in[i]
};

enum class ScanOp : int { sum, prod, logsumexp, max, min, COUNT };

using ScanFn = void (*)(const Scan&);

struct ScanKernels {
  ScanFn scan[static_cast<int>(ScanOp::COUNT)][kDTypeCount] = {};  // sums and products of integers: the input is int64
};

}  // namespace pydlx
