// Kernels of the functors in functors/transcendental.h.
#include "functors/transcendental.h"

#include "cpu/pointwise/wide.h"
#include "functors/fill.h"

namespace pydlx::PYDLX_ISA {

void register_transcendental(KernelTable& t) {
  fill_unary<Map, UnaryOp::exp, UnaryOp::leaky_relu, Transcendental>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
