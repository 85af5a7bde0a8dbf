// Kernels of the functors in functors/binary.h.
#include "cuda/pointwise/fill.cuh"
#include "functors/binary.h"

namespace pydlx::cuda {
namespace {

template <int op, class... Ts>
void fill_compare(PointwiseKernels& k, Types<Ts...> all) {
  ((k.compare[op][idx<Ts>] = map<Compare<static_cast<CompareOp>(op)>, bool, Ts, Ts>), ...);
  if constexpr (op + 1 < static_cast<int>(CompareOp::COUNT)) fill_compare<op + 1>(k, all);
}

template <int op, class... Ts>
void fill_ternary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Ternary<static_cast<TernaryOp>(op)>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0) k.ternary[op][idx<Ts>] = map<F, Ts, Ts, Ts, Ts>;
      }(),
      ...);
  if constexpr (op + 1 < static_cast<int>(TernaryOp::COUNT)) fill_ternary<op + 1>(k, all);
}

}  // namespace

void register_binary(KernelTable& t) {
  fill_binary<BinaryOp{}, BinaryOp::relu_backward, Binary>(family<PointwiseKernels>(t), AllTypes{});
  fill_compare<0>(family<PointwiseKernels>(t), AllTypes{});
  fill_ternary<0>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::cuda
