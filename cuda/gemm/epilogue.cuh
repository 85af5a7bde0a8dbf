// What happens to a product on its way to memory.
#pragma once
#include <type_traits>

#include "core/half.h"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/pairs.cuh"
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
struct Finish {
  Acc alpha, beta;
  const T* bias;
  bool reads_c;
  Activation activation;

  __device__ __forceinline__ explicit Finish(const Gemm& g)
      : alpha(factor(g.alpha)),
        beta(factor(g.beta)),
        bias(static_cast<const T*>(g.bias)),
        reads_c(g.beta != 0),
        activation(g.activation) {}
  // What the caller has excluded for the whole product need not be asked, nor compiled, for every element: may_read_c
  // false says that beta is zero, any_activation false that the activation is relu or none.
  template <bool may_read_c = true, bool any_activation = true>
  __device__ __forceinline__ T at([[maybe_unused]] const T* c, std::int64_t column, Acc product) const {
    Acc v = alpha * product;
    if (may_read_c && reads_c) v += beta * static_cast<Acc>(*c);
    if (bias) v += static_cast<Acc>(bias[column]);
    if constexpr (std::is_integral_v<Acc>) {
      if (activation == Activation::relu) v = static_cast<T>(v) < T(0) ? Acc(0) : v;
    } else if constexpr (any_activation) {
      if (activation != Activation::none) v = activated(activation, v);
    } else {
      if (activation == Activation::relu) v = v < Acc(0) ? Acc(0) : v;
    }
    return static_cast<T>(v);
  }
  // Two neighbours of 16 bits as one word, with the pair of the bias if there is one: without c, relu or no activation.
  // Which of the two it is, is known where it is called: no branch for every element.
  __device__ __forceinline__ std::uint32_t pair(Acc v, Acc next, std::uint32_t bias_pair) const {
    const auto added = [](std::uint32_t word) {
      T b;
      b.bits = static_cast<std::uint16_t>(word);
      return static_cast<Acc>(b);
    };
    v = alpha * v;
    next = alpha * next;
    return pair_of(rectified(v + added(bias_pair)), rectified(next + added(bias_pair >> 16)));
  }
  __device__ __forceinline__ std::uint32_t pair(Acc v, Acc next) const {
    return pair_of(rectified(alpha * v), rectified(alpha * next));
  }

 private:
  __device__ __forceinline__ T rectified(Acc v) const {
    return static_cast<T>(activation == Activation::relu && v < Acc(0) ? Acc(0) : v);
  }
  __device__ __forceinline__ static Acc factor(double f) {
    if constexpr (std::is_integral_v<Acc>)
      return static_cast<Acc>(static_cast<std::int64_t>(f));
    else
      return static_cast<Acc>(f);
  }
};

}  // namespace
}  // namespace pydlx::cuda
