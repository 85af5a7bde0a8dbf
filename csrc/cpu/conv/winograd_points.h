// Winograd's minimal filtering with unit stride: six inputs in a row give 7 - R outputs of a kernel of R taps with six
// multiplications instead of R (7 - R), and two axes multiply their savings: 4 times fewer for 3x3 kernels, 2.8 times
// for 5x5, 2 times for 1x3. Per position q of the transformed tile the sum over channels is an ordinary matrix product.
//
//   V[q] = B^T d B (input tile d), U[q] = G g G^T (kernel g), y = A^T (sum_c U V) A        (Lavin & Gray, 2015)
//
// B only depends on the points of interpolation, which decide the rounding errors, too; see PairedPoints. The gradient
// of the kernel is the transposed algorithm: the same B, a tile of output gradients through G for as many values, and
// one final A for R values per kernel.
//
// Stride two, three taps: y_i = (x_2i g_0 + x_{2i+2} g_2) + x_{2i+1} g_1. The bracket is a kernel of two taps with unit
// stride on the even inputs, the rest one product per output: with five points nine products make four outputs of an
// axis instead of twelve. Two axes multiply 1.78 times less. All products of g_1 have the same transformed kernel, so
// its matrix product has several rows per tile. The input gradient is made of the same products: even rows of it (with
// the padding counted) are a kernel of two taps on the output gradient, odd rows have one tap.
#pragma once
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
using V = Vector<float>;

// The transforms along an axis for the points A, -A, B, -B, infinity and, if `Zero`, 0. Rows of B^T are the
// coefficients of prod_{j != i} (x - a_j); their scales 1 / prod_{j != i} (a_i - a_j) are in `spread`.
template <float A, float B, bool Zero>
struct PairedPoints {
  static constexpr int count = Zero ? 6 : 5;
  static constexpr int z = Zero ? 1 : 0;
  static constexpr float a2 = A * A, b2 = B * B;
  static constexpr float scale_a = 0.5f / ((Zero ? a2 : A) * (a2 - b2)), scale_b = 0.5f / ((Zero ? b2 : B) * (b2 - a2));
  PYDLX_INLINE static void input(const V* d, V* t) {
    const V near_odd = d[z + 3] - b2 * d[z + 1], near_even = d[z + 2] - b2 * d[z];
    const V far_odd = d[z + 3] - a2 * d[z + 1], far_even = d[z + 2] - a2 * d[z];
    // Without the odd factor, (x^2 - A^2) (x^2 - B^2); with these shared factors no coefficient is left but four.
    if constexpr (Zero) t[0] = near_odd - a2 * (d[2] - b2 * d[0]);
    t[z] = near_odd + A * near_even;
    t[z + 1] = near_odd - A * near_even;
    t[z + 2] = far_odd + B * far_even;
    t[z + 3] = far_odd - B * far_even;
    t[z + 4] = (d[z + 4] - b2 * d[z + 2]) - a2 * near_even;
  }
  // G: the polynomial with K coefficients g at the points.
  template <int K>
  PYDLX_INLINE static void spread(const V* g, V* u) {
    V near_even = g[0], near_odd = A * g[1], far_even = g[0], far_odd = B * g[1];
    float near = a2, far = b2;
#pragma GCC unroll 5
    for (int i = 2; i < K; ++i, near *= A, far *= B) {
      (i % 2 ? near_odd : near_even) += near * g[i];
      (i % 2 ? far_odd : far_even) += far * g[i];
    }
    if constexpr (Zero) u[0] = (1 / (a2 * b2)) * g[0];
    u[z] = scale_a * (near_even + near_odd);
    u[z + 1] = (Zero ? scale_a : -scale_a) * (near_even - near_odd);
    u[z + 2] = scale_b * (far_even + far_odd);
    u[z + 3] = (Zero ? scale_b : -scale_b) * (far_even - far_odd);
    u[z + 4] = g[K - 1];
  }
  // A^T: the moments 0 to K - 1 of the values at the points.
  template <int K>
  PYDLX_INLINE static void collect(const V* m, V* y) {
    const V near_even = m[z] + m[z + 1], near_odd = m[z] - m[z + 1];
    const V far_even = m[z + 2] + m[z + 3], far_odd = m[z + 2] - m[z + 3];
    float near = 1, far = 1;
#pragma GCC unroll 5
    for (int i = 0; i < K; ++i, near *= A, far *= B) {
      y[i] = near * (i % 2 ? near_odd : near_even) + far * (i % 2 ? far_odd : far_even);
      if (Zero && i == 0) y[i] += m[0];
      if (i == K - 1) y[i] += m[z + 4];
    }
  }
};
// Of all pairs of eighths these are (nearly) the most accurate: the rounding errors of F(4x4, 3x3) are 1.8 times those
// of the plain sum (with 1, -1, 1/2, -2 2.5 times, with 1, -1, 2, -2 4 times), those with stride two 0.83 times (with
// 1, -1, 1/2, -1/2 1.1 times). They and their squares are exact in binary.
using SixPoints = PairedPoints<0.75f, 1.5f, true>;
using FivePoints = PairedPoints<0.375f, 1.25f, false>;

// 0, 1, -1 and infinity. With float32_matmul_precision "highest" 3x3 kernels use these: 2.25 times fewer
// multiplications, and rounding errors below those of the plain sum: the transforms hardly enlarge anything, and the
// sums over channels have fewer terms.
struct FourPoints {
  static constexpr int count = 4;
  PYDLX_INLINE static void input(const V* d, V* t) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
  }
  template <int K>
  PYDLX_INLINE static void spread(const V* g, V* u) {
    V even = g[0], odd = g[1];
#pragma GCC unroll 3
    for (int i = 2; i < K; ++i) (i % 2 ? odd : even) += g[i];
    u[0] = g[0];
    u[1] = 0.5f * (even + odd);
    u[2] = 0.5f * (even - odd);
    u[3] = g[K - 1];
  }
  template <int K>
  PYDLX_INLINE static void collect(const V* m, V* y) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    y[0] = m[0] + s;
#pragma GCC unroll 3
    for (int i = 1; i < K; ++i) y[i] = (i % 2 ? d : s) + (i == K - 1 ? m[3] : V{});
  }
};

// An axis with a kernel of R taps, on the points P: positions of a transformed tile, pixels that a tile reads and those
// from one tile to the next, outputs of a tile, and different transformed kernels. The last of these has all positions
// that are left.
template <class P>
struct UnitStride {
  static constexpr int count = P::count, kernels = P::count, inputs = P::count;
  static constexpr int step(int r) { return P::count + 1 - r; }
  static constexpr int outputs(int r) { return P::count + 1 - r; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    P::input(d, t);
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    P::template spread<R>(g, u);
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    P::template collect<outputs(R)>(m, y);
  }
  template <int R>
  PYDLX_INLINE static void output_grad(const V* d, V* t) {
    P::template spread<outputs(R)>(d, t);
  }
  template <int R>
  PYDLX_INLINE static void kernel_grad(const V* m, V* g) {
    P::template collect<R>(m, g);
  }
};

// Three taps with stride two.
template <class P>
struct Strided {
  static constexpr int kOutputs = P::count - 1;
  static constexpr int count = P::count + kOutputs, kernels = P::count + 1, inputs = 2 * P::count - 1;
  static constexpr int step(int) { return 2 * kOutputs; }
  static constexpr int outputs(int) { return kOutputs; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    V even[P::count];
#pragma GCC unroll 6
    for (int i = 0; i < P::count; ++i) even[i] = d[2 * i];
    P::input(even, t);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) t[P::count + i] = d[2 * i + 1];
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    static_assert(R == 3);
    const V outer[2] = {g[0], g[2]};
    P::template spread<2>(outer, u);
    u[P::count] = g[1];
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    P::template collect<kOutputs>(m, y);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) y[i] += m[P::count + i];
  }
  template <int R>
  PYDLX_INLINE static void output_grad(const V* d, V* t) {
    P::template spread<kOutputs>(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < kOutputs; ++i) t[P::count + i] = d[i];
  }
  template <int R>
  PYDLX_INLINE static void kernel_grad(const V* m, V* g) {  // m: one sum per transformed kernel
    V outer[2];
    P::template collect<2>(m, outer);
    g[0] = outer[0];
    g[1] = m[P::count];
    g[2] = outer[1];
  }
};

// Its input gradient, with the taps in reverse order: pixels that only the middle tap sees alternate with those of the
// outer two, and a tile begins with one of the former.
template <class P>
struct StridedGrad {
  static constexpr int kPairs = P::count - 1;
  static constexpr int count = P::count + kPairs, kernels = P::count + 1, inputs = P::count;
  static constexpr int step(int) { return kPairs; }
  static constexpr int outputs(int) { return 2 * kPairs; }
  template <int R>
  PYDLX_INLINE static void input(const V* d, V* t) {
    P::input(d, t);
#pragma GCC unroll 6
    for (int i = 0; i < kPairs; ++i) t[P::count + i] = d[i];
  }
  template <int R>
  PYDLX_INLINE static void kernel(const V* g, V* u) {
    Strided<P>::template kernel<R>(g, u);
  }
  template <int R>
  PYDLX_INLINE static void output(const V* m, V* y) {
    V outer[kPairs];
    P::template collect<kPairs>(m, outer);
#pragma GCC unroll 6
    for (int i = 0; i < kPairs; ++i) {
      y[2 * i] = m[P::count + i];
      y[2 * i + 1] = outer[i];
    }
  }
};

// What an axis with a kernel of R taps has. One tap needs no transform.
template <class W>
constexpr int points(int r) {
  return r > 1 ? W::count : 1;
}
template <class W>
constexpr int inputs(int r) {
  return r > 1 ? W::inputs : 1;
}
template <class W>
constexpr int step(int r) {
  return r > 1 ? W::step(r) : 1;
}
template <class W>
constexpr int outputs(int r) {
  return r > 1 ? W::outputs(r) : 1;
}
template <class W>
constexpr int kernels(int r) {
  return r > 1 ? W::kernels : 1;
}

// Positions along both axes: those of a transformed kernel follow each other, its copies side by side for each tile.
template <class W, int RY, int RX>
struct Positions {
  static constexpr int NY = points<W>(RY), NX = points<W>(RX), KY = kernels<W>(RY), KX = kernels<W>(RX);
  static constexpr int count = NY * NX, kernel_count = KY * KX;
  static constexpr int copies_y(int ky) { return ky < KY - 1 ? 1 : NY - KY + 1; }
  static constexpr int copies_x(int kx) { return kx < KX - 1 ? 1 : NX - KX + 1; }
  static constexpr int copies(int kernel) { return copies_y(kernel / KX) * copies_x(kernel % KX); }
  static constexpr int first(int kernel) { return kernel / KX * NX + kernel % KX * copies_y(kernel / KX); }
  // Of position (i, j).
  static constexpr int kernel(int i, int j) { return (i < KY ? i : KY - 1) * KX + (j < KX ? j : KX - 1); }
  static constexpr int copy(int i, int j) {
    return (i < KY ? 0 : i - KY + 1) * copies_x(j < KX ? j : KX - 1) + (j < KX ? 0 : j - KX + 1);
  }
  // Where it is, with `position` floats per position and `row` floats per row.
  PYDLX_INLINE static std::int64_t at(int i, int j, std::int64_t tile, std::int64_t position, std::int64_t row) {
    const int k = kernel(i, j);
    return first(k) * position + (tile * copies(k) + copy(i, j)) * row;
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
