// Distances between all rows of two sets.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// a (N, P, M), b (N, R, M) -> (N, P, R): sqrt(sum_m (a[n, p, m] - b[n, r, m])^2). Where a distance is 0, so is its
// gradient.
Tensor euclidean_distances(const Tensor& a, const Tensor& b);

}  // namespace pydlx::ops
