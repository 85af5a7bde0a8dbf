// Convolutions by cuDNN, which is opened at run time where it is, and never linked.
#pragma once
#include "core/dtype.h"
#include "kernels/conv.h"

namespace pydlx::cuda {

// Whether it was asked for and is there; see below.
bool convolutions_by_library();

// Runs the pass, or returns false with nothing written. PYDLX_CUDA_CONV: `own` kernels alone (the default); `cudnn` for
// everything that cuDNN can express, an error where there is no such library; `auto` the same where it is there.
// The algorithm for a geometry is asked for once; only deterministic ones are used.
bool library_conv(const Conv& c, ConvPass pass, DType dtype);

}  // namespace pydlx::cuda
