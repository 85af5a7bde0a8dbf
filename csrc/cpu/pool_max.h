// Max pooling of float32.
#pragma once
#include "cpu/isa.h"
#include "kernels/pool.h"

namespace pydlx::PYDLX_ISA {

// False, without touching anything, when the geometry is another one.
bool max_pool_f32(const Pool& p);           // planes, sliding windows without dilation
bool max_pool_channels_f32(const Pool& p);  // images whose channels are last: windows one position deep along axis 2

}  // namespace pydlx::PYDLX_ISA
