// Convolution of 16-bit floats with the channels last by the instructions of sm_90a (conv_hopper.cu).
#pragma once
#include "kernels/conv.h"

namespace pydlx::cuda {

// False, with nothing written, where it does not serve this geometry or this GPU. What is read begins at a multiple of
// 16 bytes. `weights` are lines of k: [group and written channel, tap and read channel]; not used by weight_grad.
template <class T>
bool run_conv_hopper(const Conv&, ConvPass, const T* weights);

}  // namespace pydlx::cuda
