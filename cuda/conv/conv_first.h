// Convolution of 16-bit floats and float32 with the channels first on copies with the channels last (conv_first.cu).
#pragma once
#include "kernels/conv.h"

namespace pydlx::cuda {

// False, with nothing written, where the kernels for channels last do not serve the copies, or do not pay for them.
template <class T>
bool run_conv_first(const Conv&, ConvPass);

}  // namespace pydlx::cuda
