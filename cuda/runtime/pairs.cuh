// Two 16-bit floats as one word, in the order of memory.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/half.h"
#include "cuda/runtime/pack.cuh"

namespace pydlx::cuda {
namespace {

template <class T>
__device__ __forceinline__ std::uint32_t pair_of(T low, T high) {
  static_assert(sizeof(T) == 2);
  return static_cast<std::uint32_t>(low.bits) | static_cast<std::uint32_t>(high.bits) << 16;
}
template <class T>
__device__ __forceinline__ std::uint32_t pair_of(float low, float high) {
  return pair_of(static_cast<T>(low), static_cast<T>(high));
}

// The two floats of a word; one instruction each, which taking out 16 bits first would double.
template <class T>
__device__ __forceinline__ void from_pair(std::uint32_t pair, float& low, float& high) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    low = bit_cast<float>(pair << 16);
    high = bit_cast<float>(pair & 0xffff0000u);
  } else {
#if defined(__CUDA_ARCH__)
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high)
        : "r"(pair));
#else
    low = half_bits_to_float(static_cast<std::uint16_t>(pair));
    high = half_bits_to_float(static_cast<std::uint16_t>(pair >> 16));
#endif
  }
}

template <class T>
inline constexpr bool kPairs = std::is_same_v<T, BFloat16> || std::is_same_v<T, Half>;

// The elements of a pack as they are computed with.
template <class A, class T, int V>
__device__ __forceinline__ void widen(const Pack<T, V>& p, A (&v)[V]) {
  if constexpr (kPairs<T> && V % 2 == 0) {
    std::uint32_t words[V / 2];
    __builtin_memcpy(words, &p, sizeof words);
#pragma unroll
    for (int j = 0; j < V / 2; ++j) {
      float low, high;
      from_pair<T>(words[j], low, high);
      v[2 * j] = static_cast<A>(low);
      v[2 * j + 1] = static_cast<A>(high);
    }
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = static_cast<A>(p.v[j]);
  }
}
// And back, two by one instruction.
template <class T, class A, int V>
__device__ __forceinline__ Pack<T, V> narrowed(const A (&v)[V]) {
  Pack<T, V> p;
  if constexpr (kPairs<T> && V % 2 == 0) {
    std::uint32_t words[V / 2];
#pragma unroll
    for (int j = 0; j < V / 2; ++j) {
#if defined(__CUDA_ARCH__)
      if constexpr (std::is_same_v<T, BFloat16>)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(words[j]) : "f"(v[2 * j + 1]), "f"(v[2 * j]));
      else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(words[j]) : "f"(v[2 * j + 1]), "f"(v[2 * j]));
#else
      words[j] = pair_of<T>(v[2 * j], v[2 * j + 1]);
#endif
    }
    __builtin_memcpy(&p, words, sizeof p);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j) p.v[j] = static_cast<T>(v[j]);
  }
  return p;
}

}  // namespace
}  // namespace pydlx::cuda
