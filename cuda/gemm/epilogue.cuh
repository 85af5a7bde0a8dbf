// What happens to a product on its way to memory.
#pragma once
#include <type_traits>

#include "core/half.h"
#include "cuda/runtime/launch.h"
#include "kernels/gemm.h"

namespace pydlx::cuda {
namespace {

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
  if (g.activation == Activation::relu) {
    if constexpr (std::is_integral_v<Acc>)
      v = static_cast<T>(v) < T(0) ? Acc(0) : v;
    else
      v = v < Acc(0) ? Acc(0) : v;
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
