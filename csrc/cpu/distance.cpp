// Euclidean distances. Differences are formed, never |a|^2 + |b|^2 - 2ab, which cancels where rows are close: squares
// of differences are summed in register tiles like the products of a matrix product, without the differences ever being
// stored.
#include "kernels/distance.h"

#include "cpu/gemm/cuts.h"
#include "cpu/gemm/micro.h"
#include "cpu/gemm/pack.h"
#include "functors/math.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kDepth = 64;    // features that pass at a time: a panel of them stays in the first-level cache
constexpr std::int64_t kRows = 64;     // rows that meet a packed panel
constexpr std::int64_t kSummed = 256;  // rows whose gradients are added up before they join the total

// Lanes of vector v of a strip of n elements.
template <class T>
PYDLX_INLINE int lanes_of(std::int64_t n, int v) {
  return static_cast<int>(min_of(n - v * kLanesOf<T>, kLanesOf<T>));
}

// sums (+)= squared differences of `MR` rows of a and n columns of a panel, over k features.
template <class T, int MR, int NV>
PYDLX_INLINE void add_squares(const T* a, std::int64_t a_row, const T* panel, std::int64_t k, T* sums,
                              std::int64_t sums_row, std::int64_t n, bool first) {
  constexpr int L = kLanesOf<T>;
  Vector<T> acc[MR][NV] = {};
  for (std::int64_t p = 0; p < k; ++p) {
    Vector<T> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = load(panel + p * kTileColumns<T> + v * L);
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
      const Vector<T> x = splat<T>(a[r * a_row + p]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const Vector<T> d = x - b[v];
        acc[r][v] += d * d;
      }
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v) {
      T* to = sums + r * sums_row + v * L;
      const int count = lanes_of<T>(n, v);
      if (count <= 0) continue;
      store_count(to, first ? acc[r][v] : load_count(to, count) + acc[r][v], count);
    }
}

template <class T, int NV>
void panel_rows(const T* a, std::int64_t a_row, std::int64_t rows, const T* panel, std::int64_t k, T* sums,
                std::int64_t sums_row, std::int64_t n, bool first) {
  std::int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
    add_squares<T, 4, NV>(a + i * a_row, a_row, panel, k, sums + i * sums_row, sums_row, n, first);
  for (; i < rows; ++i) add_squares<T, 1, NV>(a + i * a_row, a_row, panel, k, sums + i * sums_row, sums_row, n, first);
}

template <class T>
void forward(const Distances& k) {
  constexpr std::int64_t W = kTileColumns<T>;
  constexpr int L = kLanesOf<T>, kVectors = static_cast<int>(W / L);
  const std::int64_t m = k.features, panels = (k.rows_b + W - 1) / W, blocks = (k.rows_a + kRows - 1) / kRows;
  const std::int64_t work = min_of(kRows, k.rows_a) * min_of(W, k.rows_b) * m;
  parallel_for(k.batch * panels * blocks, 65536 / (work + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) T panel[kDepth * W];
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t n = u / (panels * blocks), j0 = u / blocks % panels * W, i0 = u % blocks * kRows;
      const std::int64_t columns = min_of(W, k.rows_b - j0), rows = min_of(kRows, k.rows_a - i0);
      const T* a = static_cast<const T*>(k.a) + (n * k.rows_a + i0) * m;
      const T* b = static_cast<const T*>(k.b) + (n * k.rows_b + j0) * m;
      T* out = static_cast<T*>(k.out) + (n * k.rows_a + i0) * k.rows_b + j0;
      for (std::int64_t p = 0; p < m; p += kDepth) {
        const std::int64_t depth = min_of(kDepth, m - p);
        pack_b<T>(b + p, 1, m, depth, columns, panel);
        const auto run = columns > 2 * L ? panel_rows<T, kVectors> : columns > L ? panel_rows < T,
                   kVectors < 2 ? kVectors : 2 > : panel_rows<T, 1>;
        run(a + p, m, rows, panel, depth, out, k.rows_b, columns, p == 0);
      }
      for (std::int64_t i = 0; i < rows; ++i) {
#pragma omp simd
        for (std::int64_t j = 0; j < columns; ++j) out[i * k.rows_b + j] = math::sqrt(out[i * k.rows_b + j]);
      }
    }
  });
}

// dx (+)= sum over j of slope_j (x - y_j) for `MR` rows of x and n features.
template <class T, int MR, int NV>
PYDLX_INLINE void add_slopes(const T* x, const T* y, std::int64_t row, std::int64_t count, const T* slope,
                             std::int64_t slope_i, std::int64_t slope_j, T* dx, std::int64_t n, bool first) {
  constexpr int L = kLanesOf<T>;
  Vector<T> acc[MR][NV] = {}, at[MR][NV];
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v) at[r][v] = load_count(x + r * row + v * L, lanes_of<T>(n, v));
  for (std::int64_t j = 0; j < count; ++j) {
    Vector<T> b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = load_count(y + j * row + v * L, lanes_of<T>(n, v));
#pragma GCC unroll 2
    for (int r = 0; r < MR; ++r) {
      const Vector<T> s = splat<T>(slope[r * slope_i + j * slope_j]);
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[r][v] += s * (at[r][v] - b[v]);
    }
  }
  for (int r = 0; r < MR; ++r)
    for (int v = 0; v < NV; ++v) {
      T* to = dx + r * row + v * L;
      const int lanes = lanes_of<T>(n, v);
      store_count(to, first ? acc[r][v] : load_count(to, lanes) + acc[r][v], lanes);
    }
}

// The gradient of `rows` rows of x from their distances to `others` rows of y.
template <class T>
void gradient(std::int64_t batch, std::int64_t rows, std::int64_t others, std::int64_t m, const T* x, const T* y,
              const T* slope, std::int64_t slope_i, std::int64_t slope_j, T* dx) {
  constexpr int L = kLanesOf<T>;
  const std::int64_t pairs = (rows + 1) / 2;
  parallel_for(batch * pairs, 65536 / (others * m + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t n = u / pairs, i = u % pairs * 2;
      const T *xi = x + (n * rows + i) * m, *slopes = slope + n * rows * others + i * slope_i;
      T* to = dx + (n * rows + i) * m;
      for (std::int64_t j = 0; j < others; j += kSummed) {
        const std::int64_t count = min_of(kSummed, others - j);
        const T *from = y + (n * others + j) * m, *s = slopes + j * slope_j;
        const auto strip = [&]<int NV>(std::int64_t f, std::int64_t width) __attribute__((always_inline)) {
          if (i + 1 < rows)
            add_slopes<T, 2, NV>(xi + f, from + f, m, count, s, slope_i, slope_j, to + f, width, j == 0);
          else
            add_slopes<T, 1, NV>(xi + f, from + f, m, count, s, slope_i, slope_j, to + f, width, j == 0);
        };
        std::int64_t f = 0;
        for (; f + 4 * L <= m; f += 4 * L) strip.template operator()<4>(f, 4 * L);
        for (; f < m; f += L) strip.template operator()<1>(f, min_of(L, m - f));
      }
    }
  });
}

template <class T>
void backward(const Distances& k) {
  const T *a = static_cast<const T*>(k.a), *b = static_cast<const T*>(k.b), *s = static_cast<const T*>(k.slope);
  if (k.da) gradient<T>(k.batch, k.rows_a, k.rows_b, k.features, a, b, s, k.rows_b, 1, static_cast<T*>(k.da));
  if (k.db) gradient<T>(k.batch, k.rows_b, k.rows_a, k.features, b, a, s, 1, k.rows_b, static_cast<T*>(k.db));
}

template <class T>
void add_distances(DistanceKernels& k) {
  k.forward[static_cast<int>(DTypeOf<T>::value)] = forward<T>;
  k.backward[static_cast<int>(DTypeOf<T>::value)] = backward<T>;
}

}  // namespace

void register_distance(KernelTable& t) {
  DistanceKernels& k = family<DistanceKernels>(t);
  add_distances<float>(k);
  add_distances<double>(k);
}

}  // namespace pydlx::PYDLX_ISA
