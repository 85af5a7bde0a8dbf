// Kernels of the functors in functors/transcendental.h.
#include "cuda/pointwise/loop.cuh"
#include "functors/fill.h"
#include "functors/transcendental.h"

namespace pydlx::cuda {

void register_transcendental(KernelTable& t) {
  fill_unary<Map, UnaryOp::exp, UnaryOp::leaky_relu, Transcendental>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
