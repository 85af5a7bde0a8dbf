// Two 16-bit floats as one word, in the order of memory.
#pragma once
#include <cstdint>

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

}  // namespace
}  // namespace pydlx::cuda
