// Kernels of the functors in functors/unary.h.
#include "functors/unary.h"

#include "cpu/pointwise/loop.h"
#include "functors/fill.h"

namespace pydlx::PYDLX_ISA {

void register_unary(KernelTable& t) {
  fill_unary<Map, UnaryOp{}, UnaryOp::exp, Unary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
