// float64 matrix products: the same tiles with half the lanes.
#include "cpu/gemm/driver.h"
#include "cpu/gemm/gemm.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {

void gemm_f64(const Gemm& g) { gemm_typed<double>(g); }

void register_gemm_double(KernelTable& t) { family<GemmKernels>(t).gemm[static_cast<int>(DType::Float64)] = gemm_f64; }

}  // namespace pydlx::PYDLX_ISA
