// Convolution on the tensor cores of images whose channels are the last axis, of 16-bit floats and float32
// (conv_last.cu).
#pragma once
#include "kernels/conv.h"

namespace pydlx::cuda {

// Whether the pass reads and writes channels-last tensors of this geometry: channels of a group that fill chunks of 16
// bytes, and enough of everything to fill the tiles of the tensor cores. Never where a library was asked for, or
// float32 sums of the operands themselves.
template <class T>
bool conv_last_serves(const ConvShape&, ConvPass);
// Whether it also pays for copies of images with the channels first, of whose products per pixel and tap so many count.
template <class T>
bool conv_last_pays(const ConvShape&, ConvPass, std::int64_t products);

template <class T>
void run_conv_last(const Conv&, ConvPass);

}  // namespace pydlx::cuda
