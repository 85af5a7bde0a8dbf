// Kernels of the functors in functors/unary.h.
#include "functors/unary.h"

#include "cpu/pointwise/fill.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {

void register_unary(KernelTable& t) {
  fill_unary<UnaryOp{}, UnaryOp::exp, Unary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
