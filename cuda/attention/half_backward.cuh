// What the kernels of the backward pass of attention of 16-bit floats have in common (attention_half_backward.cu,
// attention_half_wide.cu).
#pragma once
#include "cuda/attention/half.cuh"

namespace pydlx::cuda {

// Of 129 to kMostFeatures features. delta: rows' sums of dout * out.
template <class T>
void attention_backward_wide(const AttentionBackward&, const float* delta);

}  // namespace pydlx::cuda
