// Two 16-bit floats as one word, in the order of memory.
#pragma once
#include <cstdint>
#include <type_traits>

#include "core/half.h"
#include "cuda/runtime/launch.h"

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

}  // namespace
}  // namespace pydlx::cuda
