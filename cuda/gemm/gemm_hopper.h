// Products of 16-bit floats by the instructions of sm_90a (gemm_hopper.cu).
#pragma once
#include "kernels/gemm.h"

namespace pydlx::cuda {

// Here or by a library, where one was asked for. False, with nothing written, where neither serves the product.
template <class T>
bool gemm_hopper(const Gemm&);

}  // namespace pydlx::cuda
