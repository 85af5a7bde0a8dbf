// Products of 16-bit floats on the tensor cores of sm_80 and newer.
#include "cuda/gemm/gemm_tensor.cuh"
#include "kernels.h"

namespace pydlx::cuda {

void register_gemm_half(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  k.gemm[static_cast<int>(DType::Float16)] = run_gemm_tensor<Half, Digits::all>;
  k.gemm[static_cast<int>(DType::BFloat16)] = run_gemm_tensor<BFloat16, Digits::all>;
}

}  // namespace pydlx::cuda
