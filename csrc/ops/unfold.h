// Sliding blocks as columns and back, and rearranging channels and pixels.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// (N, C, H, W) -> (N, C kh kw, L), L = number of blocks; the batch axis may be missing.
Tensor im2col(const Tensor& x, const Dims& kernel, const Dims& dilation, const Dims& padding, const Dims& stride);
// The adjoint: sums columns (N, C kh kw, L) into an image of output_size.
Tensor col2im(const Tensor& x, const Dims& output_size, const Dims& kernel, const Dims& dilation, const Dims& padding,
              const Dims& stride);

Tensor pixel_shuffle(const Tensor& x,
                     std::int64_t factor);  // (..., C r r, H, W) -> (..., C, H r, W r), Shi et al. 2016
Tensor pixel_unshuffle(const Tensor& x, std::int64_t factor);  // its inverse
Tensor channel_shuffle(const Tensor& x, std::int64_t groups);  // interleaves groups of channels, Zhang et al. 2018

}  // namespace pydlx::ops
