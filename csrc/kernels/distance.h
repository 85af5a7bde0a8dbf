// Euclidean distances between all rows of two sets, all contiguous.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Distances {
  std::int64_t batch = 0, rows_a = 0, rows_b = 0, features = 0;
  const void *a = nullptr, *b = nullptr;  // [batch, rows_a, features], [batch, rows_b, features]
  void* out = nullptr;                    // forward: [batch, rows_a, rows_b]
  // backward: the gradient divided by the distance, [batch, rows_a, rows_b]; da and db, shaped like a and b, may be
  // null.
  const void* slope = nullptr;
  void *da = nullptr, *db = nullptr;
};

struct DistanceKernels {  // optional; both or none
  void (*forward[kDTypeCount])(const Distances&) = {};
  void (*backward[kDTypeCount])(const Distances&) = {};
};

}  // namespace pydlx
