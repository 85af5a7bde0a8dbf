// Kernels of the functors in functors/binary.h.
#include "functors/binary.h"

#include "cpu/pointwise/wide_pow.h"
#include "functors/fill.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <>
inline constexpr bool kTakesSingle<Binary<BinaryOp::add>> = true;
template <>
inline constexpr bool kTakesSingle<Binary<BinaryOp::sub>> = true;
template <>
inline constexpr bool kTakesSingle<Binary<BinaryOp::mul>> = true;
template <>
inline constexpr bool kTakesSingle<Binary<BinaryOp::div>> = true;
template <>
inline constexpr bool kTakesSingle<Ternary<TernaryOp::lerp>> = true;
template <>
inline constexpr bool kCommutes<Binary<BinaryOp::add>> = true;
template <>
inline constexpr bool kCommutes<Binary<BinaryOp::mul>> = true;

template <>
struct OnBits<Binary<BinaryOp::copysign>> {
  static PYDLX_INLINE std::uint16_t apply(std::uint16_t a, std::uint16_t b, const double*) {
    return static_cast<std::uint16_t>((a & 0x7fffu) | (b & 0x8000u));
  }
};
constexpr bool cheap(BinaryOp op) {
  return op <= BinaryOp::fmin || op == BinaryOp::heaviside || op == BinaryOp::add_scaled;
}
template <BinaryOp op>
inline constexpr bool kCheap<Binary<op>> = cheap(op);
template <TernaryOp op>
inline constexpr bool kCheap<Ternary<op>> = true;

}  // namespace

void register_binary(KernelTable& t) {
  fill_binary<Map, BinaryOp{}, BinaryOp::relu_backward, Binary>(family<PointwiseKernels>(t), AllTypes{});
  fill_compare<Map, CompareOp{}, Compare>(family<PointwiseKernels>(t), AllTypes{});
  fill_ternary<Map, TernaryOp{}, Ternary>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
