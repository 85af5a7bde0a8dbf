// Kernels of the functors in functors/unary.h.
#include "cuda/pointwise/fill.cuh"
#include "functors/unary.h"

namespace pydlx::cuda {

void register_unary(KernelTable& t) {
  fill_unary<UnaryOp{}, UnaryOp::exp, Unary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
