// What happens to a product on its way to memory.
#pragma once
#include <type_traits>

#include "core/half.h"
#include "cuda/runtime/launch.h"
#include "functors/activation.h"
#include "functors/transcendental.h"
#include "kernels/gemm.h"

namespace pydlx::cuda {
namespace {

template <class Acc>
__device__ __forceinline__ Acc activated(Activation activation, Acc v) {
  using namespace functors;
  switch (activation) {
    case Activation::relu:
      return v < Acc(0) ? Acc(0) : v;
    case Activation::gelu:
      return Act<UnaryOp::gelu>::apply(v, nullptr);
    case Activation::gelu_tanh:
      return Act<UnaryOp::gelu_tanh>::apply(v, nullptr);
    case Activation::silu:
      return Act<UnaryOp::silu>::apply(v, nullptr);
    case Activation::sigmoid:
      return Transcendental<UnaryOp::sigmoid>::apply(v, nullptr);
    case Activation::tanh:
      return Transcendental<UnaryOp::tanh>::apply(v, nullptr);
    default:
      return v;
  }
}

// activation(alpha * product + beta * c + bias)
template <class T, class Acc>
__device__ __forceinline__ T finished_product(const Gemm& g, const T* c, std::int64_t column, Acc product) {
  const auto factor = [](double f) {
    if constexpr (std::is_integral_v<Acc>)
      return static_cast<Acc>(static_cast<std::int64_t>(f));
    else
      return static_cast<Acc>(f);
  };
  Acc v = factor(g.alpha) * product;
  if (g.beta != 0) v += factor(g.beta) * static_cast<Acc>(*c);
  if (g.bias) v += static_cast<Acc>(static_cast<const T*>(g.bias)[column]);
  if constexpr (std::is_integral_v<Acc>) {
    if (g.activation == Activation::relu) v = static_cast<T>(v) < T(0) ? Acc(0) : v;
  } else if (g.activation != Activation::none) {
    v = activated(g.activation, v);
  }
  return static_cast<T>(v);
}

template <class T, class Acc>
__device__ __forceinline__ void store_product(const Gemm& g, T* c, std::int64_t column, Acc product) {
  *c = finished_product(g, c, column, product);
}
// Two neighbours of 16 bits with one access; c at a multiple of 4 bytes.
template <class T>
__device__ __forceinline__ void store_two_products(const Gemm& g, T* c, std::int64_t column, float first,
                                                   float second) {
  static_assert(sizeof(T) == 2);
  const std::uint32_t low = finished_product(g, c, column, first).bits;
  const std::uint32_t high = finished_product(g, c + 1, column + 1, second).bits;
  *reinterpret_cast<std::uint32_t*>(c) = low | high << 16;
}

}  // namespace
}  // namespace pydlx::cuda
