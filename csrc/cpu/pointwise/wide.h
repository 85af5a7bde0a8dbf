// Functors that have a form on explicit vectors, for float, and for double with AVX-512: cheaper than what the compiler
// makes of the scalar one. Included before the loops are instantiated.
#pragma once
#include "cpu/loaded.h"
#include "cpu/pointwise/gelu.h"
#include "cpu/pointwise/loop.h"
#include "cpu/vector_math.h"
#include "cpu/vector_math_double.h"
#include "functors/activation.h"
#include "functors/transcendental.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Vectors that vmath has functions for.
#ifdef PYDLX_ISA_avx512
template <class V>
concept Served = std::is_same_v<V, vmath::V> || std::is_same_v<V, vmath::D>;
#else
template <class V>
concept Served = std::is_same_v<V, vmath::V>;
#endif
template <class V>
using Lane = std::conditional_t<std::is_same_v<V, vmath::V>, float, double>;

template <>
struct Wide<Transcendental<UnaryOp::exp>> {
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double*) {
    return vmath::exp(x);
  }
};
template <>
struct Wide<Transcendental<UnaryOp::exp2>> {
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double*) {
    return vmath::exp2(x);
  }
};
template <>
struct Wide<Transcendental<UnaryOp::sigmoid>> {
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double*) {
    return vmath::sigmoid(x);
  }
};
template <>
struct Wide<Transcendental<UnaryOp::tanh>> {
  PYDLX_INLINE static vmath::V apply(vmath::V x, const double*) { return vmath::tanh(x); }
};
#ifdef PYDLX_ISA_avx512
template <>
struct Wide<Transcendental<UnaryOp::erf>> {
  PYDLX_INLINE static vmath::V apply(vmath::V x, const double*) { return vmath::erf(x); }
};
#endif
#ifdef PYDLX_ISA_avx512
template <>
struct Wide<Act<UnaryOp::gelu>> {
  PYDLX_INLINE static vmath::V apply(vmath::V x, const double*) { return vmath::table_gelu(x); }
};
template <>
struct Brief<Act<UnaryOp::gelu>> {
  PYDLX_INLINE static vmath::V apply(vmath::V x, const double*) { return vmath::brief_gelu(x); }
};
#else
template <>
struct Wide<Act<UnaryOp::gelu>> {
  PYDLX_INLINE static vmath::V apply(vmath::V x, const double*) { return vmath::gelu(x); }
};
#endif
template <>
struct Wide<Act<UnaryOp::silu>> {
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double*) {
    return x * vmath::sigmoid(x);
  }
};
template <>
struct Wide<Act<UnaryOp::softplus>> {  // param: beta, threshold
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double* param) {
    const auto beta = static_cast<Lane<V>>(param[0]);
    const V z = beta * x;
    return z > static_cast<Lane<V>>(param[1]) ? x : (vmath::at_least(z, V{}) + vmath::softplus_tail(z)) / beta;
  }
};
template <>
struct Wide<Act<UnaryOp::log_sigmoid>> {
  template <Served V>
  PYDLX_INLINE static V apply(V x, const double*) {
    return vmath::at_most(x, V{}) - vmath::softplus_tail(x);
  }
};
template <>
struct Wide<ActGrad<BinaryOp::relu_backward>> {
  PYDLX_INLINE static vmath::V apply(vmath::V g, vmath::V y, const double*) {
    const vmath::V all = loaded(g);  // not masked by a comparison that waits for y
    return y <= 0.0f ? vmath::V{} : all;
  }
};
template <>
struct Wide<ActGrad<BinaryOp::clamp_backward>> {  // param: low, high, whether the bounds are outside
  PYDLX_INLINE static vmath::V apply(vmath::V g, vmath::V x, const double* param) {
    const float low = static_cast<float>(param[0]), high = static_cast<float>(param[1]);
    const vmath::V all = loaded(g);  // not masked by a comparison that waits for x
    const vmath::I inside = param[2] != 0 ? (x > low) & (x < high) : (x >= low) & (x <= high);
    return inside ? all : vmath::V{};
  }
};
template <>
struct Wide<ActGrad<BinaryOp::gelu_backward>> {
  PYDLX_INLINE static vmath::V apply(vmath::V g, vmath::V x, const double*) {
    const vmath::Normal n = vmath::normal(x);
    return g * (n.cdf + x * 0.39894228f * n.kernel);
  }
};
template <>
struct Wide<ActGrad<BinaryOp::silu_backward>> {
  template <Served V>
  PYDLX_INLINE static V apply(V g, V x, const double*) {
    const V s = vmath::sigmoid(x);
    return g * (s * (1.0f + x * (1.0f - s)));
  }
};
template <>
struct Wide<ActGrad<BinaryOp::softplus_backward>> {
  template <Served V>
  PYDLX_INLINE static V apply(V g, V x, const double* param) {
    const V z = x * static_cast<Lane<V>>(param[0]);
    return z > static_cast<Lane<V>>(param[1]) ? g : g * vmath::sigmoid(z);
  }
};
template <>
struct Wide<ActGrad<BinaryOp::log_sigmoid_backward>> {
  template <Served V>
  PYDLX_INLINE static V apply(V g, V x, const double*) {
    return g * vmath::sigmoid(-x);
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
