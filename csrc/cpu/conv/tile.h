// Building blocks of the convolution kernels: vectors of the instruction set's width, and the panel that turns a tile
// of output pixels into columns of a matrix product (im2col for 64 or 1024 pixels at a time, so it never leaves the
// caches).
#pragma once
#include <type_traits>

#include "cpu/gemm/vec.h"
#include "cpu/isa.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class T>
using mask_t = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

// p[0], p[2], p[4], ...: two loads that together touch nothing past the last element taken.
template <class T>
inline __attribute__((always_inline)) Vector<T> even_lanes(const T* p) {
  constexpr int L = kLanesOf<T>;
  typename VectorOf<T>::index pick;
#pragma GCC unroll 16
  for (int l = 0; l < L; ++l) pick[l] = l < L / 2 ? 2 * l : 2 * l + 1;
  return __builtin_shuffle(load(p), load(p + L - 1), pick);
}

inline __attribute__((always_inline)) std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline __attribute__((always_inline)) std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline __attribute__((always_inline)) std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// What a pass reads: `channels` planes of `in` per image and group, sampled at lattice * step + offset[tap].
template <class T>
struct Source {
  const T* x = nullptr;
  std::int64_t channels = 0, x_image = 0, x_group = 0, x_channel = 0;
  std::int64_t lattice[3], step[3], in[3];
  const std::int64_t* offset[3];  // per axis, one entry per tap
  std::int64_t taps[3];
  std::int64_t tap_count = 0;
  // Row of the panel that (channel, tap) fills: tap * row_tap + channel * row_channel; one of the two strides is 1.
  std::int64_t row_tap = 1, row_channel = 1;

  std::int64_t pixels() const { return lattice[0] * lattice[1] * lattice[2]; }
  std::int64_t rows() const { return channels * tap_count; }
};

constexpr int kTile = 64;  // columns handled together: four AVX-512 vectors of float

// A run of up to kTile consecutive lattice pixels, counted over all images.
struct Tile {
  int count = 0;
  std::int64_t image = 0;                  // of the first column
  alignas(64) std::int64_t at[3][kTile];   // sampled coordinates before the tap's offset
  alignas(64) std::int64_t linear[kTile];  // element offset of those coordinates, relative to the first column's image
  std::uint8_t affine[kTile];              // per group of lanes: the distance of neighbouring offsets if 1 or 2, else 0
};

template <class T>
void place_tile(Tile& t, const Source<T>& s, std::int64_t first, std::int64_t count) {
  const std::int64_t plane = s.pixels();
  std::int64_t image = 0, rest = first % plane;
  t.image = first / plane;
  t.count = static_cast<int>(count);
  std::int64_t w = rest % s.lattice[2], h = rest / s.lattice[2] % s.lattice[1], d = rest / s.lattice[2] / s.lattice[1];
  for (int j = 0; j < kTile; ++j) {
    const bool live = j < count;
    t.at[0][j] = live ? d * s.step[0] : INT64_MIN / 2;  // beyond every axis: never valid
    t.at[1][j] = h * s.step[1];
    t.at[2][j] = w * s.step[2];
    t.linear[j] = live ? image * s.x_image + (d * s.step[0] * s.in[1] + h * s.step[1]) * s.in[2] + w * s.step[2] : 0;
    if (!live) continue;
    if (++w == s.lattice[2]) {
      w = 0;
      if (++h == s.lattice[1]) {
        h = 0;
        if (++d == s.lattice[0]) {
          d = 0;
          ++image;
        }
      }
    }
  }
  constexpr int L = kLanesOf<T>;
  for (int g = 0; g < kTile / L; ++g) {
    const std::int64_t distance = g * L + 1 < count ? t.linear[g * L + 1] - t.linear[g * L] : 1;
    bool even = distance == 1 || distance == 2;
    for (int l = 1; l < L; ++l) even &= g * L + l >= count || t.linear[g * L + l] == t.linear[g * L] + l * distance;
    t.affine[g] = static_cast<std::uint8_t>(even ? distance : 0);
  }
}

// Writes rows [r0, r1) of the tile's panel: panel[(r - r0) * width + j]; columns outside the image, or beyond the tile,
// become 0.
template <class T>
void fill_panel(T* panel, std::int64_t width, std::int64_t r0, std::int64_t r1, const Tile& t, const Source<T>& s,
                std::int64_t group) {
  constexpr int L = kLanesOf<T>, G = kTile / L;
  enum : std::uint8_t { zero, whole, partial, every_other, gathered };
  const T* x = s.x + t.image * s.x_image + group * s.x_group;
  const bool tap_fastest = s.row_tap == 1;
  const std::int64_t first = tap_fastest ? r0 % s.tap_count : r0 / s.row_tap;
  const std::int64_t steps = tap_fastest ? smaller(s.tap_count, r1 - r0) : (r1 - 1) / s.row_tap - first + 1;
  for (std::int64_t i = 0; i < steps; ++i) {
    const std::int64_t tap = tap_fastest ? (first + i) % s.tap_count : first + i;
    const std::int64_t od = s.offset[0][tap / (s.taps[1] * s.taps[2])], oh = s.offset[1][tap / s.taps[2] % s.taps[1]],
                       ow = s.offset[2][tap % s.taps[2]];
    const std::int64_t shift = (od * s.in[1] + oh) * s.in[2] + ow;
    alignas(64) mask_t<T> mask[kTile];
    alignas(64) std::int64_t where[kTile];
    std::uint8_t kind[G];
    for (int g = 0; g < G; ++g) {
      int live = 0;
      for (int l = g * L; l < g * L + L; ++l) {
        const bool in_d = static_cast<std::uint64_t>(t.at[0][l] + od) < static_cast<std::uint64_t>(s.in[0]);
        const bool in_h = static_cast<std::uint64_t>(t.at[1][l] + oh) < static_cast<std::uint64_t>(s.in[1]);
        const bool in_w = static_cast<std::uint64_t>(t.at[2][l] + ow) < static_cast<std::uint64_t>(s.in[2]);
        const bool ok = in_d & in_h & in_w;
        mask[l] = static_cast<mask_t<T>>(ok);
        where[l] = ok ? t.linear[l] + shift : 0;  // column 0's image start is always readable
        live += ok;
      }
      if (live == 0)
        kind[g] = zero;
      else if (t.affine[g] == 1)
        kind[g] = live == L ? whole : partial;
      else
        kind[g] = kVectorBytes == 64 && t.affine[g] == 2 && live == L ? every_other : gathered;
    }
    const std::int64_t c0 = larger(0, ceil_div(larger(r0 - tap * s.row_tap, 0), s.row_channel));
    const std::int64_t c1 = smaller(s.channels, ceil_div(larger(r1 - tap * s.row_tap, 0), s.row_channel));
    for (std::int64_t c = c0; c < c1; ++c) {
      const T* src = x + c * s.x_channel;
      T* dst = panel + (tap * s.row_tap + c * s.row_channel - r0) * width;
      for (int g = 0; g < G; ++g) {
        T* d = dst + g * L;
        const auto* m = mask + g * L;
        if (kind[g] == whole) {
          store(d, load(src + t.linear[g * L] + shift));
        } else if (kind[g] == zero) {
          store(d, Vector<T>{});
        } else if (kind[g] == every_other) {
          store(d, even_lanes(src + (t.linear[g * L] + shift)));
        } else if (kind[g] == partial) {
          const T* p = src + (t.linear[g * L] + shift);
// As a loop of masked loads; unrolled into single elements it would be branches.
#pragma omp simd
          for (int l = 0; l < L; ++l) d[l] = m[l] ? p[l] : T(0);
        } else {
          const std::int64_t* o = where + g * L;
#pragma omp simd
          for (int l = 0; l < L; ++l) {
            const T v = src[o[l]];
            d[l] = m[l] ? v : T(0);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
