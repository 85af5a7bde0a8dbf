// Winograd's algorithm on tiles whose values are vectors of channels: tiles of any plane size waste no lanes, and
// channels-last tensors need no reordering. Planes are transposed into pixel-major bands on the way in and back on the
// way out. The transforms along an axis are in winograd_points.h.
#pragma once
#include "cpu/conv/channel_end.h"
#include "cpu/conv/winograd_points.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class W>
struct InputAxis {
  template <int R>
  PYDLX_INLINE static void run(const V* a, V* b) {
    if constexpr (R == 1)
      b[0] = a[0];
    else
      W::template input<R>(a, b);
  }
};
template <class W>
struct KernelAxis {
  template <int R>
  PYDLX_INLINE static void run(const V* a, V* b) {
    if constexpr (R == 1)
      b[0] = a[0];
    else
      W::template kernel<R>(a, b);
  }
};
template <class W>
struct OutputAxis {
  template <int R>
  PYDLX_INLINE static void run(const V* a, V* b) {
    if constexpr (R == 1)
      b[0] = a[0];
    else
      W::template output<R>(a, b);
  }
};
template <class W>
struct OutputGradAxis {
  template <int R>
  PYDLX_INLINE static void run(const V* a, V* b) {
    if constexpr (R == 1)
      b[0] = a[0];
    else
      W::template output_grad<R>(a, b);
  }
};
template <class W>
struct KernelGradAxis {
  template <int R>
  PYDLX_INLINE static void run(const V* a, V* b) {
    if constexpr (R == 1)
      b[0] = a[0];
    else
      W::template kernel_grad<R>(a, b);
  }
};

// An axis transform along both axes of a tile of IY x IX values, to OY x OX: on the columns, then on the rows. d(i, j)
// is read, t(i, j, v) written.
template <class Axis, int RY, int RX, int IY, int IX, int OY, int OX, class Load, class Store>
PYDLX_INLINE void two_passes(const Load& d, const Store& t) {
  V tmp[OY][IX];
#pragma GCC unroll 11
  for (int j = 0; j < IX; ++j) {
    V a[IY], b[OY];
#pragma GCC unroll 11
    for (int i = 0; i < IY; ++i) a[i] = d(i, j);
    Axis::template run<RY>(a, b);
#pragma GCC unroll 11
    for (int i = 0; i < OY; ++i) tmp[i][j] = b[i];
  }
#pragma GCC unroll 11
  for (int i = 0; i < OY; ++i) {
    V b[OX];
    Axis::template run<RX>(tmp[i], b);
#pragma GCC unroll 11
    for (int j = 0; j < OX; ++j) t(i, j, b[j]);
  }
}

// Pixel-major tile at `d` with `row` floats between rows -> its transform, see Positions.
template <class W, int RY, int RX>
PYDLX_INLINE void input_tile(const float* d, std::int64_t row, float* v, std::int64_t tile, std::int64_t position,
                             std::int64_t v_row) {
  using P = Positions<W, RY, RX>;
  two_passes<InputAxis<W>, RY, RX, inputs<W>(RY), inputs<W>(RX), P::NY, P::NX>(
      [&](int i, int j) { return load(d + i * row + j * kLane); },
      [&](int i, int j, V x) { store<float>(v + P::at(i, j, tile, position, v_row), x); });
}
template <class W, int RY, int RX>
PYDLX_INLINE void output_grad_tile(const float* d, std::int64_t row, float* v, std::int64_t tile, std::int64_t position,
                                   std::int64_t v_row) {
  using P = Positions<W, RY, RX>;
  two_passes<OutputGradAxis<W>, RY, RX, outputs<W>(RY), outputs<W>(RX), P::NY, P::NX>(
      [&](int i, int j) { return load(d + i * row + j * kLane); },
      [&](int i, int j, V x) { store<float>(v + P::at(i, j, tile, position, v_row), x); });
}
template <class W, int RY, int RX, class End>
PYDLX_INLINE void output_tile(const float* m, std::int64_t tile, std::int64_t position, std::int64_t m_row,
                              const End& end, float* y, std::int64_t row) {
  using P = Positions<W, RY, RX>;
  two_passes<OutputAxis<W>, RY, RX, P::NY, P::NX, outputs<W>(RY), outputs<W>(RX)>(
      [&](int i, int j) { return load(m + P::at(i, j, tile, position, m_row)); },
      [&](int i, int j, V x) { store<float>(y + i * row + j * kLane, end(x)); });
}

// Kernels of kLane neighbouring channels: rows of T taps, `row` floats apart, to T vectors and back.
template <int T>
PYDLX_INLINE void load_kernels(const float* w, std::int64_t row, int channels, V* taps) {
#pragma GCC unroll 7
  for (int first = 0; first < T; first += kLane) {
    const int n = T - first < kLane ? T - first : kLane;
    V r[kLane];
#pragma GCC unroll 16
    for (int l = 0; l < kLane; ++l) r[l] = l < channels ? load_part(w + l * row + first, Lanes(n)) : V{};
    transpose_square<float>(r);
#pragma GCC unroll 16
    for (int l = 0; l < n; ++l) taps[first + l] = r[l];
  }
}
template <int T>
PYDLX_INLINE void store_kernels(float* w, std::int64_t row, int channels, const V* taps) {
#pragma GCC unroll 7
  for (int first = 0; first < T; first += kLane) {
    const int n = T - first < kLane ? T - first : kLane;
    V r[kLane];
#pragma GCC unroll 16
    for (int l = 0; l < kLane; ++l) r[l] = l < n ? taps[first + l] : V{};
    transpose_square<float>(r);
    for (int l = 0; l < kLane && l < channels; ++l) store_part(w + l * row + first, r[l], Lanes(n));
  }
}

// Planes of one image: `channels` (at most kLane) of them, `channel` floats apart, and `pixel` floats between
// neighbours of a row. Either distance is 1; with `pixel` the rows of a plane follow each other.
struct Planes {
  float* x;
  std::int64_t channel, height, width;
  int channels;
  std::int64_t pixel = 1;
};

// Rows [r0, r1) and columns [c0, c1) of the planes as [row][column][kLane], zero outside the planes and in lanes
// without a channel.
inline void gather_pixels(const Planes& p, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1,
                          float* out) {
  const std::int64_t pitch = c1 - c0, top = r0 > 0 ? r0 : 0, bottom = r1 < p.height ? r1 : p.height;
  const std::int64_t left = c0 > 0 ? c0 : 0, right = c1 < p.width ? c1 : p.width;
  for (std::int64_t r = r0; r < r1; ++r) {
    float* row = out + (r - r0) * pitch * kLane;
    const bool inside = r >= top && r < bottom && left < right;
    const std::int64_t a = inside ? left - c0 : pitch, b = inside ? right - c0 : pitch;
    std::memset(row, 0, static_cast<std::size_t>(a * kLane) * sizeof(float));
    std::memset(row + b * kLane, 0, static_cast<std::size_t>((pitch - b) * kLane) * sizeof(float));
  }
  if (top >= bottom || left >= right) return;
  if (p.pixel != 1) {
    const Lanes lanes(p.channels);
    for (std::int64_t r = top; r < bottom; ++r) {
      const float* src = p.x + (r * p.width + left) * p.pixel;
      float* dst = out + ((r - r0) * pitch + left - c0) * kLane;
      if (p.channels == kLane)
        for (std::int64_t c = left; c < right; ++c, src += p.pixel, dst += kLane) store<float>(dst, load(src));
      else
        for (std::int64_t c = left; c < right; ++c, src += p.pixel, dst += kLane)
          store<float>(dst, load_part(src, lanes));
    }
    return;
  }
  const std::int64_t wide = right - left;
  // Whole rows of the planes follow each other: one run over all of them.
  const bool joined = wide == p.width;
  const std::int64_t runs = joined ? 1 : bottom - top, length = joined ? (bottom - top) * wide : wide;
  for (std::int64_t run = 0; run < runs; ++run) {
    const float* src = p.x + (top + run) * p.width + left;
    float* dst = out + ((top + run - r0) * pitch + left - c0) * kLane;
    const std::int64_t gap = (pitch - wide) * kLane;
    std::int64_t in_row = 0;
    for (std::int64_t i = 0; i < length; i += kLane) {
      const int n = static_cast<int>(length - i < kLane ? length - i : kLane);
      V r[kLane];
      if (n == kLane && p.channels == kLane) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = load(src + l * p.channel + i);
      } else {
        const Lanes lanes(n);
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = l < p.channels ? load_part(src + l * p.channel + i, lanes) : V{};
      }
      transpose_square<float>(r);
      if (n == kLane && (gap == 0 || in_row + kLane < wide)) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) store<float>(dst + l * kLane, r[l]);
        dst += kLane * kLane;
        in_row += kLane;
        continue;
      }
// Unrolled, so that the vectors stay in registers.
#pragma GCC unroll 16
      for (int l = 0; l < kLane; ++l) {
        if (l >= n) break;
        store<float>(dst, r[l]);
        dst += kLane;
        if (++in_row == wide) {
          in_row = 0;
          dst += gap;
        }
      }
    }
  }
}

// The reverse: end([row][column][kLane]) with `pitch` columns to rows [r0, r1), columns [c0, c1), all inside the
// planes.
template <class End>
void scatter_pixels(const Planes& p, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1,
                    const float* in, std::int64_t pitch, const End& end) {
  const std::int64_t wide = c1 - c0;
  if (p.pixel != 1) {
    const Lanes lanes(p.channels);
    for (std::int64_t r = r0; r < r1; ++r) {
      float* dst = p.x + (r * p.width + c0) * p.pixel;
      const float* src = in + (r - r0) * pitch * kLane;
      if (p.channels == kLane)
        for (std::int64_t c = 0; c < wide; ++c, src += kLane, dst += p.pixel) store<float>(dst, end(load(src)));
      else
        for (std::int64_t c = 0; c < wide; ++c, src += kLane, dst += p.pixel) store_part(dst, end(load(src)), lanes);
    }
    return;
  }
  const bool joined = wide == p.width;
  const std::int64_t runs = joined ? 1 : r1 - r0, length = joined ? (r1 - r0) * wide : wide;
  for (std::int64_t run = 0; run < runs; ++run) {
    float* dst = p.x + (r0 + run) * p.width + c0;
    const float* src = in + run * pitch * kLane;
    const std::int64_t gap = (pitch - wide) * kLane;
    std::int64_t in_row = 0;
    for (std::int64_t i = 0; i < length; i += kLane) {
      const int n = static_cast<int>(length - i < kLane ? length - i : kLane);
      V r[kLane];
      if (n == kLane && (gap == 0 || in_row + kLane < wide)) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = end(load(src + l * kLane));
        src += kLane * kLane;
        in_row += kLane;
      } else {
// Unrolled, so that the vectors stay in registers.
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) {
          r[l] = V{};
          if (l >= n) continue;
          r[l] = end(load(src));
          src += kLane;
          if (++in_row == wide) {
            in_row = 0;
            src += gap;
          }
        }
      }
      transpose_square<float>(r);
      if (n == kLane && p.channels == kLane) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) store<float>(dst + l * p.channel + i, r[l]);
      } else {
        const Lanes lanes(n);
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) {
          if (l >= p.channels) break;
          store_part(dst + l * p.channel + i, r[l], lanes);
        }
      }
    }
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
