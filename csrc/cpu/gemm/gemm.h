// Matrix products for other kernels of the same instruction set. Inside a parallel region they run on the calling
// thread.
#pragma once
#include "cpu/isa.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {

void gemm_f32(const Gemm& g);
void gemm_f64(const Gemm& g);

}  // namespace pydlx::PYDLX_ISA
