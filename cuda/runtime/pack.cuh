// Neighbouring elements that are moved at once.
#pragma once
#include <cstdint>
#include <type_traits>

#include "cuda/runtime/launch.h"
#if defined(PYDLX_CUDA_EMULATED)
#include "cuda/emulator/hopper.h"
#endif

namespace pydlx::cuda {
namespace {

// V elements in one access, at a multiple of their size.
template <class T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];
};

// The widest access there is.
inline constexpr int kPackBytes = 16;
template <class T>
inline constexpr int kPackOf = kPackBytes / static_cast<int>(sizeof(T));

// Whether all of these begin where a pack can; null does.
template <class... P>
bool packs_begin(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) | ...) % kPackBytes) == 0;
}

template <int bytes>
struct WordOf : std::type_identity<uint4> {};
template <>
struct WordOf<1> : std::type_identity<std::uint8_t> {};
template <>
struct WordOf<2> : std::type_identity<std::uint16_t> {};
template <>
struct WordOf<4> : std::type_identity<std::uint32_t> {};
template <>
struct WordOf<8> : std::type_identity<std::uint64_t> {};
// A word where elements of any type are. Accesses through unrelated types may change places, and kernels take single
// elements beside packs: the target's gradient is stored over that of its pack.
template <class W>
struct __attribute__((may_alias)) Untyped {
  W word;
};

// One access per 16 bytes. Structures that are assigned are taken apart into their elements, and the compiler does not
// always put these together again: 16-bit elements by fours only, stores at computed places not at all.
template <class T, int V>
__device__ __forceinline__ Pack<T, V> get(const T* in) {
  using Word = typename WordOf<sizeof(Pack<T, V>)>::type;
  Word w[sizeof(Pack<T, V>) / sizeof(Word)];
#pragma unroll
  for (std::size_t k = 0; k < sizeof w / sizeof(Word); ++k) w[k] = reinterpret_cast<const Untyped<Word>*>(in)[k].word;
  Pack<T, V> x;
  __builtin_memcpy(&x, w, sizeof x);
  return x;
}
enum class Space { global, shared };  // instructions that are named belong to one of them
template <Space space = Space::global, class T, int V>
__device__ __forceinline__ void put(T* out, const Pack<T, V>& y) {
#if defined(PYDLX_CUDA_EMULATED)
  if ((emulator::shared_chunk(out) >= 0) != (space == Space::shared))
    emulator::die("a pack is stored by an instruction for other memory");
#endif
  using Word = typename WordOf<sizeof(Pack<T, V>)>::type;
  Word w[sizeof(Pack<T, V>) / sizeof(Word)];
  __builtin_memcpy(w, &y, sizeof w);
#pragma unroll
  for (std::size_t k = 0; k < sizeof w / sizeof(Word); ++k) {
    Untyped<Word>* const to = reinterpret_cast<Untyped<Word>*>(out) + k;
#if !defined(PYDLX_CUDA_EMULATED)
    if constexpr (sizeof(Word) == sizeof(uint4)) {
      if constexpr (space == Space::global)
        __stwb(&to->word, w[k]);
      else
        asm volatile(
            "st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(to))),
            "r"(w[k].x), "r"(w[k].y), "r"(w[k].z), "r"(w[k].w)
            : "memory");
      continue;
    }
#endif
    to->word = w[k];
  }
}

// Up to V of n elements from element i on, what lies beyond them as zeros.
template <class T, int V>
__device__ __forceinline__ Pack<T, V> load(const T* in, std::int64_t i, std::int64_t n, bool aligned = true) {
  if (aligned && i + V <= n) return get<T, V>(in + i);
  Pack<T, V> x{};
#pragma unroll
  for (int j = 0; j < V; ++j)
    if (i + j < n) x.v[j] = in[i + j];
  return x;
}
template <class T, int V>
__device__ __forceinline__ void store(T* out, std::int64_t i, std::int64_t n, bool aligned, const Pack<T, V>& y) {
  if (aligned && i + V <= n) {
    put(out + i, y);
  } else {
#pragma unroll
    for (int j = 0; j < V; ++j)
      if (i + j < n) out[i + j] = y.v[j];
  }
}

}  // namespace
}  // namespace pydlx::cuda
