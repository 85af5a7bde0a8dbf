// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): ten rounds of
// multiplication and exclusive or turn a 128-bit counter and a 64-bit key into four 32-bit words. The counter is
// (block, sub): `block` runs through Generator's offset, `sub` serves draws that need an unknown number of words.
// Shared by all backends.
#pragma once
#include <cstdint>

#include "core/half.h"

namespace pydlx {

struct PhiloxWords {
  std::uint32_t w[4];
};

inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53u, kPhiloxM1 = 0xCD9E8D57u, kPhiloxK0 = 0x9E3779B9u,
                               kPhiloxK1 = 0xBB67AE85u;

PYDLX_HD constexpr PhiloxWords philox(std::uint64_t seed, std::uint64_t block, std::uint64_t sub = 0) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(sub), c3 = static_cast<std::uint32_t>(sub >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * c0, p1 = std::uint64_t{kPhiloxM1} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(p1);
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(p0);
    k0 += kPhiloxK0;
    k1 += kPhiloxK1;
  }
  return {{c0, c1, c2, c3}};
}

// High half of a 64 x 64 bit product: maps 64 random bits to [0, range) with a bias below range / 2^64.
PYDLX_HD constexpr std::uint64_t mul_high(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const std::uint64_t mid = a1 * b0 + (a0 * b0 >> 32), mid2 = a0 * b1 + (mid & 0xffffffffu);
  return a1 * b1 + (mid >> 32) + (mid2 >> 32);
}

}  // namespace pydlx
