// Products of bfloat16 for processors that have instructions for them.
#include "cpu/gemm/pairs.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {

void register_gemm_pairs_avx512_bf16(KernelTable& t) {
  family<GemmKernels>(t).gemm[static_cast<int>(DType::BFloat16)] = gemm_narrow<Pairs>;
}

}  // namespace pydlx::PYDLX_ISA
