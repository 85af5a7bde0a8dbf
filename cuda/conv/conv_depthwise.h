// Convolutions whose groups have few channels: sums too short for a product of matrices (conv_depthwise.cu,
// conv_depthwise_last.cu, conv_depthwise_line.cu, conv_depthwise_weight.cu).
#pragma once
#include "kernels/conv.h"

namespace pydlx::cuda {

// Whether groups are small enough with the channels first: up to four channels on either side, or one that up to eight
// are made of.
bool conv_depthwise_serves(const ConvShape&);
// Whether the passes read and write channels-last tensors of this geometry: one channel on either side, and as many as
// fill chunks of 16 bytes (of `chunk` elements). Never where a library was asked for.
bool conv_depthwise_last_serves(const ConvShape&, int chunk);

// The passes; the shape tells the layout.
template <class T>
void run_conv_depthwise(const Conv&, ConvPass);

// Its parts: the forward pass and the gradient of the input with the channels last, and the gradient of the weight.
template <class T>
void run_conv_depthwise_last(const Conv&, ConvPass);
template <class T>
void run_conv_depthwise_weight(const Conv&);
// All passes of few taps side by side along one axis, channels first; false for anything else.
template <class T>
bool run_conv_depthwise_line(const Conv&, ConvPass);

}  // namespace pydlx::cuda
