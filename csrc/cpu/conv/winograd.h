// Winograd's minimal filtering for 3x3 kernels with unit stride: an M x M tile of outputs from an (M+2) x (M+2) tile of
// inputs with (M+2)^2 multiplications per channel pair instead of 9 M^2, that is 4 times fewer for M = 4. Per position
// q of the transformed tile the sum over channels is an ordinary matrix product.
//
//   V[q] = B^T d B (input tile d), U[q] = G g G^T (kernel g), y = A^T (sum_c U V) A        (Lavin & Gray, 2015)
//
// Interpolation points for M = 4: {0, 1, -1, 1/2, -2} and infinity. The usual {0, 1, -1, 2, -2} has rounding errors 1.6
// times larger. The gradient of the kernel is the transposed algorithm: the same B, a tile of output gradients through
// G', and one final A' per kernel.
//
// Vectors hold channels: tiles of any plane size waste no lanes, and channels-last tensors need no reordering. Planes
// are transposed into pixel-major bands on the way in and back on the way out.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
using V = Vector<float>;

template <int M>
struct Winograd;

template <>
struct Winograd<4> {
  static constexpr int kIn = 6;
  // Rows of B^T are the coefficients of prod_{j != i} (x - a_j); their scales are in `kernel` and `output_grad`.
  PYDLX_INLINE static void input(const V* d, V* t) {
    const V e = d[4] - d[2], f = d[3] - d[1];
    t[0] = (d[0] + d[4]) + 1.5f * f - 2.0f * d[2];
    t[1] = (d[4] - d[1]) + 0.5f * d[2] + 2.5f * d[3];
    t[2] = (d[4] + d[1]) + 0.5f * d[3] - 2.5f * d[2];
    t[3] = e + 2.0f * f;
    t[4] = e - 0.5f * f;
    t[5] = (d[1] + d[5]) + 1.5f * e - 2.0f * d[3];
  }
  PYDLX_INLINE static void output(const V* m, V* y) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    y[0] = (m[0] + s) + (m[3] + m[4]);
    y[1] = d + 0.5f * m[3] - 2.0f * m[4];
    y[2] = s + 0.25f * m[3] + 4.0f * m[4];
    y[3] = (d + m[5]) + 0.125f * m[3] - 8.0f * m[4];
  }
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    const V s = (g[0] + g[2]) * (1.0f / 3), h = g[1] * (1.0f / 3);
    u[0] = g[0];
    u[1] = s + h;
    u[2] = h - s;
    u[3] = (g[0] + 0.5f * g[1] + 0.25f * g[2]) * (-16.0f / 15);
    u[4] = (g[0] - 2.0f * g[1] + 4.0f * g[2]) * (1.0f / 15);
    u[5] = g[2];
  }
  PYDLX_INLINE static void output_grad(const V* y, V* u) {
    const V s = (y[0] + y[2]) * (1.0f / 3), h = (y[1] + y[3]) * (1.0f / 3);
    u[0] = y[0];
    u[1] = s + h;
    u[2] = h - s;
    u[3] = (y[0] + 0.5f * y[1] + 0.25f * y[2] + 0.125f * y[3]) * (-16.0f / 15);
    u[4] = (y[0] - 2.0f * y[1] + 4.0f * y[2] - 8.0f * y[3]) * (1.0f / 15);
    u[5] = y[3];
  }
  PYDLX_INLINE static void kernel_grad(const V* m, V* g) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    g[0] = (m[0] + s) + (m[3] + m[4]);
    g[1] = d + 0.5f * m[3] - 2.0f * m[4];
    g[2] = (s + m[5]) + 0.25f * m[3] + 4.0f * m[4];
  }
};

// Both 1-D passes over an R x C tile: F on the columns, then on the rows. d(i, j) is read, t(i, j, v) written.
template <int R, int IN, int OUT, class F, class Load, class Store>
PYDLX_INLINE void two_passes(const F& f, const Load& d, const Store& t) {
  V tmp[OUT][IN];
#pragma GCC unroll 6
  for (int j = 0; j < IN; ++j) {
    V a[R], b[OUT];
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i) a[i] = d(i, j);
    f(a, b);
#pragma GCC unroll 6
    for (int i = 0; i < OUT; ++i) tmp[i][j] = b[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < OUT; ++i) {
    V b[OUT];
    f(tmp[i], b);
#pragma GCC unroll 6
    for (int j = 0; j < OUT; ++j) t(i, j, b[j]);
  }
}

// Pixel-major tile at `d` with `row` floats between rows -> its transform, one vector every `step` floats.
template <int M>
PYDLX_INLINE void input_tile(const float* d, std::int64_t row, float* v, std::int64_t step) {
  constexpr int N = Winograd<M>::kIn;
  two_passes<N, N, N>([](const V* a, V* b) { Winograd<M>::input(a, b); },
                      [&](int i, int j) { return load(d + i * row + j * kLane); },
                      [&](int i, int j, V x) { store<float>(v + (i * N + j) * step, x); });
}
template <int M>
PYDLX_INLINE void output_grad_tile(const float* d, std::int64_t row, float* v, std::int64_t step) {
  constexpr int N = Winograd<M>::kIn;
  two_passes<M, M, N>([](const V* a, V* b) { Winograd<M>::output_grad(a, b); },
                      [&](int i, int j) { return load(d + i * row + j * kLane); },
                      [&](int i, int j, V x) { store<float>(v + (i * N + j) * step, x); });
}
template <int M>
PYDLX_INLINE void output_tile(const float* m, std::int64_t step, V bias, bool relu, float* y, std::int64_t row) {
  constexpr int N = Winograd<M>::kIn;
  two_passes<N, N, M>([](const V* a, V* b) { Winograd<M>::output(a, b); },
                      [&](int i, int j) { return load(m + (i * N + j) * step); },
                      [&](int i, int j, V x) {
                        x += bias;
                        if (relu) x = x < V{} ? V{} : x;  // NaN stays NaN
                        store<float>(y + i * row + j * kLane, x);
                      });
}

// Kernels of kLane neighbouring channels: rows of 9 taps, `row` floats apart, to nine vectors and back.
PYDLX_INLINE void load_kernels(const float* w, std::int64_t row, int channels, V* taps) {
#pragma GCC unroll 3
  for (int first = 0; first < 9; first += kLane) {
    const int n = 9 - first < kLane ? 9 - first : kLane;
    V r[kLane];
#pragma GCC unroll 16
    for (int l = 0; l < kLane; ++l) r[l] = l < channels ? load_part(w + l * row + first, Lanes(n)) : V{};
    transpose_square<float>(r);
#pragma GCC unroll 16
    for (int l = 0; l < n; ++l) taps[first + l] = r[l];
  }
}
PYDLX_INLINE void store_kernels(float* w, std::int64_t row, int channels, const V* taps) {
#pragma GCC unroll 3
  for (int first = 0; first < 9; first += kLane) {
    const int n = 9 - first < kLane ? 9 - first : kLane;
    V r[kLane];
#pragma GCC unroll 16
    for (int l = 0; l < kLane; ++l) r[l] = l < n ? taps[first + l] : V{};
    transpose_square<float>(r);
    for (int l = 0; l < kLane && l < channels; ++l) store_part(w + l * row + first, r[l], Lanes(n));
  }
}

// Planes of one image: `channels` (at most kLane) of them, `channel` floats apart.
struct Planes {
  float* x;
  std::int64_t channel, height, width;
  int channels;
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
  const std::int64_t wide = right - left;
  // Whole rows of the planes follow each other: one run over all of them.
  const bool joined = wide == p.width;
  const std::int64_t runs = joined ? 1 : bottom - top, length = joined ? (bottom - top) * wide : wide;
  for (std::int64_t run = 0; run < runs; ++run) {
    const float* src = p.x + (top + run) * p.width + left;
    float* dst = out + ((top + run - r0) * pitch + left - c0) * kLane;
    std::int64_t in_row = 0;
    for (std::int64_t i = 0; i < length; i += kLane) {
      const int n = static_cast<int>(length - i < kLane ? length - i : kLane);
      V r[kLane];
      if (n == kLane && p.channels == kLane) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = load(src + l * p.channel + i);
      } else {
        const Lanes lanes(n);
        for (int l = 0; l < kLane; ++l) r[l] = l < p.channels ? load_part(src + l * p.channel + i, lanes) : V{};
      }
      transpose_square<float>(r);
      for (int l = 0; l < n; ++l) {
        store<float>(dst, r[l]);
        dst += kLane;
        if (++in_row == wide) {
          in_row = 0;
          dst += (pitch - wide) * kLane;
        }
      }
    }
  }
}

// The reverse: [row][column][kLane] with `pitch` columns to rows [r0, r1), columns [c0, c1), all inside the planes.
inline void scatter_pixels(const Planes& p, std::int64_t r0, std::int64_t r1, std::int64_t c0, std::int64_t c1,
                           const float* in, std::int64_t pitch) {
  const std::int64_t wide = c1 - c0;
  const bool joined = wide == p.width;
  const std::int64_t runs = joined ? 1 : r1 - r0, length = joined ? (r1 - r0) * wide : wide;
  for (std::int64_t run = 0; run < runs; ++run) {
    float* dst = p.x + (r0 + run) * p.width + c0;
    const float* src = in + run * pitch * kLane;
    std::int64_t in_row = 0;
    for (std::int64_t i = 0; i < length; i += kLane) {
      const int n = static_cast<int>(length - i < kLane ? length - i : kLane);
      V r[kLane];
      for (int l = 0; l < kLane; ++l) r[l] = V{};
      for (int l = 0; l < n; ++l) {
        r[l] = load(src);
        src += kLane;
        if (++in_row == wide) {
          in_row = 0;
          src += (pitch - wide) * kLane;
        }
      }
      transpose_square<float>(r);
      if (n == kLane && p.channels == kLane) {
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) store<float>(dst + l * p.channel + i, r[l]);
      } else {
        const Lanes lanes(n);
        for (int l = 0; l < p.channels; ++l) store_part(dst + l * p.channel + i, r[l], lanes);
      }
    }
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
