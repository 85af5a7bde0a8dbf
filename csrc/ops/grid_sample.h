// Sampling images at given points (Jaderberg et al. 2015).
#pragma once
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

// input (N, C, spatial...) with 2 or 3 spatial axes, grid (N, out..., 2 or 3) with x first: (N, C, out...).
// mode "bilinear" or "nearest"; padding_mode "zeros", "border" or "reflection".
Tensor grid_sample(const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding_mode,
                   bool align_corners);

}  // namespace pydlx::ops
