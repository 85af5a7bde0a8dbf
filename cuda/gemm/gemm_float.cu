// Products of float32 matrices: on the tensor cores of sm_80 and newer, by three products that keep a float's digits or
// by one of operands rounded to TF32, or on the ordinary units, as set_float32_matmul_precision asks.
#include "core/precision.h"
#include "cuda/gemm/gemm_tensor.cuh"
#include "cuda/libraries/cublas_lt.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

void gemm(const Gemm& g) {
  switch (matmul_precision()) {
    case MatmulPrecision::highest:
      return run_product("matmul", Strided<float, float>(g));
    case MatmulPrecision::high:
      return run_gemm_tensor<float, Digits::all>(g);
    case MatmulPrecision::medium:
      return run_gemm_tensor<float, Digits::eleven>(g);
  }
}

}  // namespace

void register_gemm_float(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  k.gemm[static_cast<int>(DType::Float32)] = gemm;
  k.external[static_cast<int>(DType::Float32)] = [](const Gemm& g) { return library_product(g, DType::Float32); };
}

}  // namespace pydlx::cuda
