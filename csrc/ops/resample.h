// Padding by other rules than a constant, and interpolation: both are sparse linear maps along one axis after another.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace pydlx::ops {

// mode "constant" (any shape and dtype), or "reflect", "replicate", "circular" for the last one to three axes of (N, C,
// ...) or (C, ...). `pad` lists (front, back) pairs from the last axis on; negative amounts crop.
Tensor pad(const Tensor& x, const Dims& pad, const std::string& mode, std::optional<Scalar> value);

// Resamples the spatial axes of (N, C, spatial...) to `size`. `scale` (empty: the ratio of the sizes) gives the
// output-to-input scale. Modes: nearest, nearest-exact, linear (and bilinear, trilinear), bicubic, area.
Tensor interpolate(const Tensor& x, const Dims& size, const std::vector<double>& scale, const std::string& mode,
                   bool align_corners, bool antialias);

}  // namespace pydlx::ops
