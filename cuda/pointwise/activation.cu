// Kernels of the functors in functors/activation.h.
#include "cuda/pointwise/fill.cuh"
#include "functors/activation.h"

namespace pydlx::cuda {

void register_activation(KernelTable& t) {
  fill_unary<UnaryOp::leaky_relu, UnaryOp::COUNT, Act>(family<PointwiseKernels>(t), AllTypes{});
  fill_binary<BinaryOp::relu_backward, BinaryOp::COUNT, ActGrad>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
