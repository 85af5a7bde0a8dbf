// Kernels of the functors in functors/transcendental.h.
#include "cuda/pointwise/fill.cuh"
#include "functors/transcendental.h"

namespace pydlx::cuda {

void register_transcendental(KernelTable& t) {
  fill_unary<UnaryOp::exp, UnaryOp::leaky_relu, Transcendental>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
