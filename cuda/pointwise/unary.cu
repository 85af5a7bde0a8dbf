// Kernels of the functors in functors/unary.h.
#include "cuda/pointwise/loop.cuh"
#include "functors/fill.h"
#include "functors/unary.h"

namespace pydlx::cuda {

void register_unary(KernelTable& t) {
  fill_unary<Map, UnaryOp{}, UnaryOp::exp, Unary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
