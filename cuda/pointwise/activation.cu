// Kernels of the functors in functors/activation.h.
#include "cuda/pointwise/loop.cuh"
#include "functors/activation.h"
#include "functors/fill.h"

namespace pydlx::cuda {

void register_activation(KernelTable& t) {
  fill_unary<Map, UnaryOp::leaky_relu, UnaryOp::COUNT, Act>(family<PointwiseKernels>(t), AllTypes{});
  fill_binary<Map, BinaryOp::relu_backward, BinaryOp::COUNT, ActGrad>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
