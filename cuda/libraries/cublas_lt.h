// Products by cuBLASLt, which is opened at run time where it is, and never linked.
#pragma once
#include "core/dtype.h"
#include "cuda/libraries/shared_library.h"
#include "kernels/gemm.h"

namespace pydlx::cuda {

// PYDLX_CUDA_GEMM: `own` kernels alone (the default); `cublas` for everything that cuBLASLt can express, an error where
// there is no such library; `auto` where own kernels are not made for the shape and the library is there.
UseLibrary products_by_library();

// Runs the product, or returns false with nothing written when cuBLASLt does not serve it: it has no way to express it,
// or finds no algorithm, or (automatic) is missing or would not pay. The algorithm for a shape is asked for once.
bool library_product(const Gemm& g, DType dtype);

}  // namespace pydlx::cuda
