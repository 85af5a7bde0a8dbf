// float32 matrix products.
#include "cpu/gemm/driver.h"
#include "cpu/gemm/gemm.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {

void gemm_f32(const Gemm& g) { gemm_typed<float>(g); }

void register_gemm_float(KernelTable& t) { family<GemmKernels>(t).gemm[static_cast<int>(DType::Float32)] = gemm_f32; }

}  // namespace pydlx::PYDLX_ISA
