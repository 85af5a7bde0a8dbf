// What both directions of attention of 16-bit floats on the tensor cores are made of, after Dao 2023,
// "FlashAttention-2": four warps own 16 rows of a tile each (warps.cuh). Scores and sums are float; weights are rounded
// to the operands' type.
#pragma once
#include "cuda/attention/warps.cuh"
#include "cuda/runtime/mma.cuh"

namespace pydlx::cuda {
namespace {

// ---- tiles ----------------------------------------------------------------------------------------------------------

// Lines of D features, zeros beyond the operand's rows and features; brought in by that many threads.
template <int D, int kLines, int threads = kThreads>
struct Tile {
  static constexpr int kWidth = D / kChunk, kChunks = kLines * kWidth;
  static constexpr int kTogether = D > 128 ? 1 : D > 64 ? 2 : 4;  // copies whose addresses take registers at a time
  uint4* data;

  template <class T>
  __device__ __forceinline__ void fetch(const T* rows, std::int64_t stride, std::int64_t first, std::int64_t count,
                                        std::int64_t features) const {
#pragma unroll kTogether
    for (int e = static_cast<int>(threadIdx.x); e < kChunks; e += threads) {
      const int line = e / kWidth, chunk = e % kWidth;
      const bool valid = first + line < count && chunk * kChunk < features;
      cp_async_16(data + chunk_at<kWidth>(line, chunk), valid ? rows + (first + line) * stride + chunk * kChunk : rows,
                  valid);
    }
  }
  // 16 lines by 16 features as the left operand.
  __device__ __forceinline__ void load_rows(std::uint32_t (&r)[4], int line, int feature, int lane) const {
    ldmatrix_x4<false>(r, data + chunk_at<kWidth>(line + lane % 16, feature / kChunk + lane / 16));
  }
  // 16 lines by 16 features as the right operands of two products with eight lines each: r[0] and r[1], r[2] and r[3].
  __device__ __forceinline__ void load_lines(std::uint32_t (&r)[4], int line, int feature, int lane) const {
    ldmatrix_x4<false>(r, data + chunk_at<kWidth>(line + lane / 16 * 8 + lane % 8, feature / kChunk + lane / 8 % 2));
  }
  // Eight lines by 32 features as the right operands of two products that are added up.
  __device__ __forceinline__ void load_eight_lines(std::uint32_t (&r)[4], int line, int feature, int lane) const {
    ldmatrix_x4<false>(r, data + chunk_at<kWidth>(line + lane % 8, feature / kChunk + lane / 8));
  }
  // 16 lines by 16 features as the right operands of two products that sum over lines, with eight features each.
  __device__ __forceinline__ void load_summed(std::uint32_t (&r)[4], int line, int feature, int lane) const {
    ldmatrix_x4<true>(r, data + chunk_at<kWidth>(line + lane % 16, feature / kChunk + lane / 16));
  }
  template <class T>
  __device__ __forceinline__ T element(int line, int feature) const {
    return reinterpret_cast<const T*>(data + chunk_at<kWidth>(line, feature / kChunk))[feature % kChunk];
  }
  // Two neighbours, the first of them even.
  __device__ __forceinline__ void set_pair(int line, int feature, std::uint32_t pair) const {
    reinterpret_cast<std::uint32_t*>(data + chunk_at<kWidth>(line, feature / kChunk))[feature % kChunk / 2] = pair;
  }
  // Asked by a whole warp.
  template <class T>
  __device__ __forceinline__ bool finite() const {
    constexpr std::uint32_t exponent = std::is_same_v<T, Half> ? 0x7c00u : 0x7f80u;
    bool bad = false;
    for (int e = static_cast<int>(threadIdx.x) % kWarp; e < kChunks; e += kWarp) {
      const uint4 x = data[e];
      for (const std::uint32_t w : {x.x, x.y, x.z, x.w})
        bad = bad || (w & exponent) == exponent || (w >> 16 & exponent) == exponent;
    }
    return !__any_sync(kFullMask, bad);
  }
};

// The thread's place in its warp. Where sums fill the registers, addresses in tiles are computed again for each
// product.
template <int D>
__device__ __forceinline__ int lane_for() {
  const int thread = static_cast<int>(threadIdx.x);
  return (D > 128 ? once_more(thread) : thread) & (kWarp - 1);
}

// The warp's rows of a times 8 N lines of b from `first`, over the features that the operands have.
template <class T, int N, int D, int kLines, int threads>
__device__ __forceinline__ void row_products(float (&s)[N][4], const Tile<D, kRows, threads>& a,
                                             const Tile<D, kLines, threads>& b, int features, int first = 0) {
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
  const int lane = lane_for<D>();
#pragma unroll 1  // all of it would bring fragments in long before their use
  for (int d0 = 0; d0 < features; d0 += 32) {
    std::uint32_t y[4];
    if constexpr (N == 1) b.load_eight_lines(y, first, d0, lane);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int d = d0 + half * 16;
      std::uint32_t x[4];
      a.load_rows(x, first_row(), d, lane);
      if constexpr (N == 1) mma_16816<T>(s[0], x, {y[2 * half], y[2 * half + 1]});
#pragma unroll
      for (int n = 0; n < N / 2; ++n) {
        b.load_lines(y, first + n * 16, d, lane);
        mma_16816<T>(s[2 * n], x, {y[0], y[1]});
        mma_16816<T>(s[2 * n + 1], x, {y[2], y[3]});
      }
    }
  }
}

// sum += w b over the lines of b. Where D is wide, blocks of features that b does not have are left out.
template <class T, int D, int kLines>
__device__ __forceinline__ void add_weighted(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4],
                                             const Tile<D, kLines>& b, int features) {
  constexpr int kBlock = D > 128 ? 64 : D;
  const int lane = lane_for<D>();
#pragma unroll
  for (int first = 0; first < D; first += kBlock) {
    if (first > 0 && first >= features) break;
#pragma unroll
    for (int k = 0; k < kLines / 16; ++k) {
      const float (&u)[4] = w[2 * k], (&v)[4] = w[2 * k + 1];
      const std::uint32_t x[4] = {pair_of<T>(u[0], u[1]), pair_of<T>(u[2], u[3]), pair_of<T>(v[0], v[1]),
                                  pair_of<T>(v[2], v[3])};
#pragma unroll
      for (int n = first / 16; n < (first + kBlock) / 16; ++n) {
        std::uint32_t y[4];
        b.load_summed(y, k * 16, n * 16, lane);
        mma_16816<T>(sum[2 * n], x, {y[0], y[1]});
        mma_16816<T>(sum[2 * n + 1], x, {y[2], y[3]});
      }
    }
  }
}

// The same where b holds infinities or NaN and a weight of zero means "absent": products with zero are left out.
template <class T, int D, int kLines>
__device__ __forceinline__ void add_guarded(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4],
                                            const Tile<D, kLines>& b, float* weights) {
  float* mine = weights + first_row() * kLines;
#pragma unroll
  for (int n = 0; n < kLines / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      mine[row_of(e) * kLines + n * 8 + column_of(e)] = static_cast<float>(static_cast<T>(w[n][e]));
  __syncwarp();
  // Rolled, over a copy in local memory: unrolled this would take all registers.
  float copy[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) copy[i] = sum[i / 4][i % 4];
#pragma unroll 1
  for (int i = 0; i < D / 2; ++i) {
    const int row = row_of(i % 4) * kLines, column = i / 4 * 8 + column_of(i % 4);
    float x = copy[i];
#pragma unroll 1
    for (int line = 0; line < kLines; ++line)
      if (const float u = mine[row + line]; u != 0) x += u * static_cast<float>(b.template element<T>(line, column));
    copy[i] = x;
  }
#pragma unroll
  for (int i = 0; i < D / 2; ++i) sum[i / 4][i % 4] = copy[i];
  __syncwarp();
}

template <class T, int D, int kLines>
__device__ __forceinline__ void add(float (&sum)[D / 8][4], const float (&w)[kLines / 8][4], const Tile<D, kLines>& b,
                                    bool whole, int features, float* weights) {
  if (whole || b.template finite<T>())
    add_weighted<T>(sum, w, b, features);
  else
    add_guarded<T>(sum, w, b, weights);
}

// Rows of the result from `first` on, features from `from` to `end`; each thread's rows times their factors.
template <class T, int N>
__device__ __forceinline__ void store(const float (&sum)[N][4], const HeadRows& to, std::int64_t batch,
                                      std::int64_t head, std::int64_t first, std::int64_t rows, std::int64_t from,
                                      std::int64_t end, float scale_low = 1, float scale_high = 1) {
  T* y = static_cast<T*>(to.data) + batch * to.batch + head * to.head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first + row_of(2 * half);
    if (row >= rows) continue;
    const float scale = half ? scale_high : scale_low;
#pragma unroll
    for (int n = 0; n < N; ++n)
      if (const std::int64_t feature = from + n * 8 + column_of(0); feature < end)
        *reinterpret_cast<std::uint32_t*>(y + row * to.row + feature) =
            pair_of<T>(sum[n][2 * half] * scale, sum[n][2 * half + 1] * scale);
  }
}

}  // namespace
}  // namespace pydlx::cuda
