// Kernels of the functors in functors/binary.h.
#include "functors/binary.h"

#include "cpu/pointwise/loop.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <BinaryOp op, class T>
struct Apply {
  static inline __attribute__((always_inline)) T apply(T a, T b, const double* param) {
    using C = compute_t<T>;
    return static_cast<T>(Binary<op>::template apply<C>(static_cast<C>(a), static_cast<C>(b), param));
  }
};
template <CompareOp op, class T>
struct ApplyCompare {
  static inline __attribute__((always_inline)) bool apply(T a, T b, const double*) {
    using C = compute_t<T>;
    return Compare<op>::apply(static_cast<C>(a), static_cast<C>(b));
  }
};

template <int op, class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  constexpr auto o = static_cast<BinaryOp>(op);
  (
      [&] {
        if constexpr ((Binary<o>::types & type_bit<Ts>) != 0) k.binary[op][idx<Ts>] = map2<Apply<o, Ts>, Ts, Ts>;
      }(),
      ...);
  if constexpr (op + 1 < static_cast<int>(BinaryOp::COUNT)) fill<op + 1>(k, all);
}

template <int op, class... Ts>
void fill_compare(PointwiseKernels& k, Types<Ts...> all) {
  ((k.compare[op][idx<Ts>] = map2<ApplyCompare<static_cast<CompareOp>(op), Ts>, bool, Ts>), ...);
  if constexpr (op + 1 < static_cast<int>(CompareOp::COUNT)) fill_compare<op + 1>(k, all);
}

}  // namespace

void register_binary(KernelTable& t) {
  fill<0>(family<PointwiseKernels>(t), AllTypes{});
  fill_compare<0>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
