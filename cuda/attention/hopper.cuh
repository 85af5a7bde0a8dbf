// What both directions of attention by the instructions of sm_90a have in common: products over a tile, packed weights,
// bands, rows once more, and which operands the copy engine can read.
#pragma once
#include "cuda/attention/hopper.h"
#include "cuda/attention/scores.cuh"
#include "cuda/runtime/warpgroups.cuh"

namespace pydlx::cuda {
namespace {

// A thread's part of 64 rows of that many columns as pairs of 16-bit floats: register r of products 16 columns apart
// at [4 i + r].
template <int columns>
using Packed = std::uint32_t[columns / 4];

template <int count>
__device__ __forceinline__ void hold([[maybe_unused]] std::uint32_t (&w)[count]) {
#if !defined(PYDLX_CUDA_EMULATED)
#pragma unroll
  for (int i = 0; i < count; ++i) asm volatile("" : "+r"(w[i])::"memory");
#endif
}
template <class T, int count>
__device__ __forceinline__ void pack(std::uint32_t (&w)[count], const float (&s)[2 * count]) {
#pragma unroll
  for (int i = 0; i < count; ++i) w[i] = pair_of<T>(s[2 * i], s[2 * i + 1]);
}

// s = rows columns^T over D features, started. Panels of 64 features lie so many bytes apart.
template <class T, int D, int row_panel, int column_panel, int count>
__device__ __forceinline__ void start_scores(float (&s)[count], std::uint64_t rows, std::uint64_t columns) {
  wgmma_fence();
#pragma unroll
  for (int d = 0; d < D; d += 16) {
    const int panel = d / kPanelSide, inside = d % kPanelSide;
    wgmma<T, false, false>(s, advance_k(advance(rows, panel * row_panel), inside, true),
                           advance_k(advance(columns, panel * column_panel), inside, true), d > 0);
  }
  wgmma_commit();
}
// sum += w columns over all columns, started. Blocks of 64 columns have a panel per 64 features.
template <class T, int features, int count>
__device__ __forceinline__ void start_sums(float (&sum)[features], const std::uint32_t (&w)[count],
                                           std::uint64_t columns) {
  constexpr int kBlock = 2 * features / kPanelSide * kPanelBytes;
  wgmma_fence();
#pragma unroll
  for (int c = 0; c < 4 * count; c += 16) {
    const std::uint32_t (&a)[4] = reinterpret_cast<const std::uint32_t (&)[4]>(w[c / 4]);
    add_wgmma<T, true>(sum, a, advance_k(advance(columns, c / kPanelSide * kBlock), c % kPanelSide, false));
  }
  wgmma_commit();
}

// -inf for the columns from c0 that the thread's rows, of 64 from r0, do not see.
template <int count>
__device__ __forceinline__ void leave_out(float (&s)[count], const AttentionBand& band, int r0, int c0) {
  const AttentionBand::Limits seen[2] = {band.limits(r0 + sum_row(0), c0, 2 * count),
                                         band.limits(r0 + sum_row(2), c0, 2 * count)};
#pragma unroll
  for (int i = 0; i < count; ++i)
    if (const int column = sum_column(i); column < seen[i / 2 % 2].first || column > seen[i / 2 % 2].last)
      s[i] = -math::kInfinity<float>;
}

// Whether 16-bit floats in shared memory are neither infinities nor NaN; the same answer in every warp, each of which
// looks.
template <class T>
__device__ __forceinline__ bool finite(const unsigned char* values, int bytes) {
  constexpr std::uint32_t exponent = std::is_same_v<T, Half> ? 0x7c00u : 0x7f80u;
  const uint4* const chunks = reinterpret_cast<const uint4*>(values);
  bool bad = false;
#pragma unroll 1
  for (int e = static_cast<int>(threadIdx.x) % kWarp; e < bytes / 16; e += kWarp) {
    const uint4 x = chunks[e];
    for (const std::uint32_t w : {x.x, x.y, x.z, x.w})
      bad = bad || (w & exponent) == exponent || (w >> 16 & exponent) == exponent;
  }
  return !__any_sync(kFullMask, bad);
}

// The sums of 64 rows from r0, each times its row's factor.
template <class T, int count>
__device__ __forceinline__ void store_sums(const float (&sum)[count], const HeadRows& to, std::int64_t batch,
                                           std::int64_t head, int r0, std::int64_t rows, std::int64_t features,
                                           const float (&factor)[2]) {
  T* const y = static_cast<T*>(to.data) + batch * to.batch + head * to.head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = r0 + sum_row(2 * half);
    if (row >= rows) continue;
#pragma unroll
    for (int i = 2 * half; i < count; i += 4)
      if (sum_column(i) < features)
        *reinterpret_cast<std::uint32_t*>(y + row * to.row + sum_column(i)) =
            pair_of<T>(sum[i] * factor[half], sum[i + 1] * factor[half]);
  }
}

// A product of two rows, for code that goes through them one by one by whole warps.
template <class T>
__device__ __forceinline__ float warp_product(const T* x, const T* y, int lane, std::int64_t features) {
  float sum = 0;
  for (std::int64_t f = lane; f < features; f += kWarp) sum += static_cast<float>(x[f]) * static_cast<float>(y[f]);
  for (int half = kWarp / 2; half > 0; half /= 2) sum += __shfl_xor_sync(kFullMask, sum, half);
  return sum;
}

template <class T>
__device__ __forceinline__ float rounded(float x) {
  return static_cast<float>(static_cast<T>(x));
}

// For rows that are worked out once more, with products with weights of zero left out, which mean "absent": infinities
// and NaN behind a mask. row(i, lane) is called by the whole warp for each of its 16 rows of 64 from r0.
template <class Row>
__device__ __forceinline__ void each_row_of_warp(int r0, std::int64_t rows, const Row& row) {
  const int thread = once_more(static_cast<int>(threadIdx.x)), first = r0 + thread % kWarpgroup / kWarp * 16;
  for (int i = first; i < first + 16 && i < rows; ++i) row(i, thread % kWarp);
}
// A row whose features the lanes of a warp share: feature n * kWarp + lane at [n].
template <class T, int count>
__device__ __forceinline__ void store_row(const float (&sum)[count], const HeadRows& to, std::int64_t batch,
                                          std::int64_t head, std::int64_t row, int lane, std::int64_t features,
                                          float factor) {
  T* const y = static_cast<T*>(to.data) + batch * to.batch + head * to.head + row * to.row;
#pragma unroll
  for (int n = 0; n < count; ++n)
    if (const int f = n * kWarp + lane; f < features) y[f] = static_cast<T>(sum[n] * factor);
}

// ---- choice ---------------------------------------------------------------------------------------------------------

// Why the copy engine cannot read an operand, or null.
inline const char* obstacle(const HeadRows& x, std::int64_t batch, std::int64_t heads, std::int64_t rows) {
  constexpr std::int64_t kMostStride = std::int64_t{1} << 39;
  if (reinterpret_cast<std::uintptr_t>(x.data) % 16 != 0) return "an operand does not begin at a multiple of 16 bytes";
  const std::int64_t sizes[] = {batch, heads, rows}, strides[] = {x.batch, x.head, x.row};
  for (int i = 0; i < 3; ++i)
    if (sizes[i] > 1 && (strides[i] <= 0 || strides[i] % 8 != 0 || strides[i] >= kMostStride))
      return "an operand's rows are not multiples of 8 elements apart";
  return nullptr;
}
inline const char* obstacle(const Attention& a, std::int64_t most_features) {
  constexpr std::int64_t kMostSize = AttentionBand::kMostRows;
  if (const char* why = no_wgmma()) return why;
  if (a.mask || a.slopes) return "a mask or slopes";
  if (a.threshold) return "dropout";
  if (a.head_dim > most_features || a.value_dim > most_features) return "too many features";
  if (!(a.scale > 0)) return "the scale is not positive";
  if (a.q_len < kPanelSide || a.k_len < kPanelSide) return "fewer than 64 queries or keys";
  if (a.q_len > kMostSize || a.k_len > kMostSize || a.batch > kMostSize || a.heads > kMostSize) return "too large";
  if (const char* why = obstacle(a.q, a.batch, a.heads, a.q_len)) return why;
  if (const char* why = obstacle(a.k, a.batch, a.kv_heads, a.k_len)) return why;
  return obstacle(a.v, a.batch, a.kv_heads, a.k_len);
}

template <class T>
bool encode(CUtensorMap& map, const HeadRows& x, std::int64_t features, std::int64_t rows, std::int64_t heads,
            std::int64_t batch, int lines) {
  const auto stride = [](std::int64_t size, std::int64_t given) { return size > 1 ? given : std::int64_t{8}; };
  return encode_map<T, 4>(map, {x.data,
                                {features, rows, heads, batch},
                                {1, stride(rows, x.row), stride(heads, x.head), stride(batch, x.batch)},
                                {kPanelSide, lines, 1, 1}});
}

}  // namespace
}  // namespace pydlx::cuda
