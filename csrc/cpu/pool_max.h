// Max pooling of float32 and float64.
#pragma once
#include "cpu/isa.h"
#include "kernels/pool.h"

namespace pydlx::PYDLX_ISA {

// p.y and positions from x. False, without touching anything, when the geometry is another one.
bool max_pool(const Pool& p, const float* x);
bool max_pool(const Pool& p, const double* x);

}  // namespace pydlx::PYDLX_ISA
