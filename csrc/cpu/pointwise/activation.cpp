// Kernels of the functors in functors/activation.h.
#include "functors/activation.h"

#include "cpu/gemm/gemm.h"
#include "cpu/pointwise/wide.h"
#include "functors/fill.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr bool cheap(UnaryOp op) {
  return op == UnaryOp::leaky_relu || op == UnaryOp::hardsigmoid || op == UnaryOp::hardswish ||
         op == UnaryOp::threshold || op == UnaryOp::hardshrink || op == UnaryOp::softshrink;
}
constexpr bool cheap(BinaryOp op) {  // clamp_backward is vectorised in its explicit form only
  return (op <= BinaryOp::leaky_relu_backward && op != BinaryOp::clamp_backward) ||
         op == BinaryOp::hardsigmoid_backward || op == BinaryOp::hardswish_backward ||
         op >= BinaryOp::threshold_backward;
}
template <>
inline constexpr bool kTakesSingle<ActGrad<BinaryOp::prelu>> = true;  // one slope per channel
template <UnaryOp op>
inline constexpr bool kCheap<Act<op>> = cheap(op);
template <BinaryOp op>
inline constexpr bool kCheap<ActGrad<op>> = cheap(op);

template <class T>
void activate(Activation activation, T* x, std::int64_t n) {
  char* const p[2] = {reinterpret_cast<char*>(x), reinterpret_cast<char*>(x)};
  const double param[4] = {};
  switch (activation) {
    case Activation::gelu:
      return dense1<Act<UnaryOp::gelu>, T, T>(n, p, param);
    case Activation::gelu_tanh:
      return dense1<Act<UnaryOp::gelu_tanh>, T, T>(n, p, param);
    case Activation::silu:
      return dense1<Act<UnaryOp::silu>, T, T>(n, p, param);
    case Activation::sigmoid:
      return dense1<Transcendental<UnaryOp::sigmoid>, T, T>(n, p, param);
    case Activation::tanh:
      return dense1<Transcendental<UnaryOp::tanh>, T, T>(n, p, param);
    case Activation::relu:
      for (std::int64_t i = 0; i < n; ++i) x[i] = x[i] < T(0) ? T(0) : x[i];
      return;
    default:
      return;
  }
}

}  // namespace

void activate_f32(Activation activation, float* x, std::int64_t n) { activate(activation, x, n); }
void activate_f64(Activation activation, double* x, std::int64_t n) { activate(activation, x, n); }

void register_activation(KernelTable& t) {
  fill_unary<Map, UnaryOp::leaky_relu, UnaryOp::COUNT, Act>(family<PointwiseKernels>(t), AllTypes{});
  fill_binary<Map, BinaryOp::relu_backward, BinaryOp::COUNT, ActGrad>(family<PointwiseKernels>(t), AllTypes{});
}

}  // namespace pydlx::PYDLX_ISA
