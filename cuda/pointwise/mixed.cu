// Sums and products of operands of two dtypes.
#include "cuda/pointwise/loop.cuh"
#include "functors/binary.h"
#include "kernels/mixed.h"

namespace pydlx::cuda {

void register_mixed(KernelTable& t) {
  using Add = Binary<BinaryOp::add>;
  using Mul = Binary<BinaryOp::mul>;
  MixedKernels& k = family<MixedKernels>(t);
  each_type(Types<Half, BFloat16>{}, [&]<class T>() {
    k.add[idx<float>][idx<T>] = map<Add, float, float, T>;
    k.add[idx<T>][idx<float>] = map<Add, float, T, float>;
    k.mul[idx<float>][idx<T>] = map<Mul, float, float, T>;
    k.mul[idx<T>][idx<float>] = map<Mul, float, T, float>;
  });
}

}  // namespace pydlx::cuda
