// Max pooling of float32 planes over sliding windows without dilation.
#pragma once
#include "cpu/isa.h"
#include "kernels/pool.h"

namespace pydlx::PYDLX_ISA {

bool max_pool_f32(const Pool& p);  // false, without touching anything, when the geometry is another one

}  // namespace pydlx::PYDLX_ISA
