// Philox, 16 counter blocks at a time, in element order.
#pragma once
#include "core/philox.h"
#include "cpu/isa.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kBlocks = 16;               // counter blocks per step
constexpr int kWords = 4 * kBlocks;       // 32-bit words per step
constexpr std::int64_t kStepGrain = 128;  // steps per parallel chunk: 8192 words, about 10 us

inline __attribute__((always_inline)) void philox_step(std::uint64_t seed, std::uint64_t block,
                                                       std::uint32_t (&w)[4][kBlocks]) {
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int l = 0; l < kBlocks; ++l) {
    const std::uint64_t c = block + static_cast<std::uint64_t>(l);
    w[0][l] = static_cast<std::uint32_t>(c);
    w[1][l] = static_cast<std::uint32_t>(c >> 32);
    w[2][l] = 0;
    w[3][l] = 0;
  }
  for (int round = 0; round < 10; ++round) {
#pragma omp simd
    for (int l = 0; l < kBlocks; ++l) {
      const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * w[0][l], p1 = std::uint64_t{kPhiloxM1} * w[2][l];
      w[0][l] = static_cast<std::uint32_t>(p1 >> 32) ^ w[1][l] ^ k0;
      w[1][l] = static_cast<std::uint32_t>(p1);
      w[2][l] = static_cast<std::uint32_t>(p0 >> 32) ^ w[3][l] ^ k1;
      w[3][l] = static_cast<std::uint32_t>(p0);
    }
    k0 += kPhiloxK0;
    k1 += kPhiloxK1;
  }
}

// 64 words, or 32 pairs of words, of the step that starts at `block`.
inline __attribute__((always_inline)) void random_bits(std::uint64_t seed, std::uint64_t block,
                                                       std::uint32_t (&r)[kWords]) {
  std::uint32_t w[4][kBlocks];
  philox_step(seed, block, w);
  for (int l = 0; l < kBlocks; ++l)
    for (int j = 0; j < 4; ++j) r[4 * l + j] = w[j][l];
}
inline __attribute__((always_inline)) void random_bits(std::uint64_t seed, std::uint64_t block,
                                                       std::uint64_t (&r)[kWords / 2]) {
  std::uint32_t w[4][kBlocks];
  philox_step(seed, block, w);
  for (int l = 0; l < kBlocks; ++l)
    for (int j = 0; j < 2; ++j) r[2 * l + j] = std::uint64_t{w[2 * j][l]} << 32 | w[2 * j + 1][l];
}

// Calls body(i, n, bits) for steps covering elements [i, i + n) of [0, count); bits always holds a whole step.
template <class Bits, class F>
inline __attribute__((always_inline)) void for_each_step(std::int64_t count, std::uint64_t seed, std::uint64_t offset,
                                                         const F& body) {
  constexpr std::int64_t width = kWords * 4 / sizeof(Bits);
  parallel_for((count + width - 1) / width, kStepGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t s = begin; s < end; ++s) {
      Bits r[width];
      random_bits(seed, offset + static_cast<std::uint64_t>(s) * kBlocks, r);
      const std::int64_t i = s * width;
      body(i, count - i < width ? count - i : width, r);
    }
  });
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
