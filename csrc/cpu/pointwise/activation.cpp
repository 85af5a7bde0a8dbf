// Kernels of the functors in functors/activation.h.
#include "functors/activation.h"

#include "cpu/pointwise/fill.h"
#include "cpu/pointwise/wide.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {

void register_activation(KernelTable& t) {
  fill_unary<UnaryOp::leaky_relu, UnaryOp::COUNT, Act>(family<PointwiseKernels>(t), AllTypes{});
  fill_binary<BinaryOp::relu_backward, BinaryOp::COUNT, ActGrad>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
