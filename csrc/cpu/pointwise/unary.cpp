// Kernels of the functors in functors/unary.h.
#include "functors/unary.h"

#include "cpu/pointwise/loop.h"
#include "functors/fill.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <>
struct OnBits<Unary<UnaryOp::neg>> {
  static PYDLX_INLINE std::uint16_t apply(std::uint16_t x, const double*) { return x ^ 0x8000u; }
};
template <>
struct OnBits<Unary<UnaryOp::abs>> {
  static PYDLX_INLINE std::uint16_t apply(std::uint16_t x, const double*) { return x & 0x7fffu; }
};
template <UnaryOp op>
inline constexpr bool kCheap<Unary<op>> = true;

}  // namespace

void register_unary(KernelTable& t) {
  fill_unary<Map, UnaryOp{}, UnaryOp::exp, Unary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
