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
  // Sums and products of integers: the input is int64. Sums of bool, where a backend has them:
  // the output is int64, inner is 1, from first to last, inclusive.
  ScanFn scan[static_cast<int>(ScanOp::COUNT)][kDTypeCount] = {};
};

}  // namespace pydlx
