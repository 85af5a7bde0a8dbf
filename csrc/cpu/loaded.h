// A load that the compiler must make as it is written.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

// v in a register. Compilers would repeat a load in every operation that takes its operand from memory, or make it a
// masked one, which waits for what the mask is made of.
PYDLX_INLINE Vector<float> loaded(Vector<float> v) {
#if defined(PYDLX_ISA_avx512)
  asm("" : "+v"(v));
#elif defined(PYDLX_ISA_avx2)
  asm("" : "+x"(v));
#endif
  return v;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
