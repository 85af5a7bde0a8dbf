// Kernels of the functors in functors/unary.h.
#include "functors/unary.h"

#include "cpu/pointwise/loop.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <UnaryOp op, class T>
struct Apply {
  static inline __attribute__((always_inline)) T apply(T x, const double* param) {
    using C = compute_t<T>;
    return static_cast<T>(Unary<op>::template apply<C>(static_cast<C>(x), param));
  }
};

template <int op, class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  constexpr auto o = static_cast<UnaryOp>(op);
  (
      [&] {
        if constexpr ((Unary<o>::types & type_bit<Ts>) != 0) k.unary[op][idx<Ts>] = map1<Apply<o, Ts>, Ts, Ts>;
      }(),
      ...);
  if constexpr (op + 1 < static_cast<int>(UnaryOp::COUNT)) fill<op + 1>(k, all);
}

}  // namespace

void register_unary(KernelTable& t) { fill<0>(family<PointwiseKernels>(t), AllTypes{}); }

}  // namespace pydlx::PYDLX_ISA
