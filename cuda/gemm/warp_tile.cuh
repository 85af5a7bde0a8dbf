// What the products of 16-bit floats on the tensor cores share: tiles of 128 x 128 whose panels of 32 lie in shared
// memory, worked on by eight warps that hold 64 x 32 sums each.
#pragma once
#include "cuda/gemm/tile.cuh"
#include "cuda/runtime/mma.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kM = 128, kN = 128, kK = 32, kWarps = 8, kThreads = kWarps * kWarp;
using WarpSums = float[4][4][4];

__device__ __forceinline__ int warp_row() { return static_cast<int>(threadIdx.x) / kWarp / 4 * 64; }
__device__ __forceinline__ int warp_column() { return static_cast<int>(threadIdx.x) / kWarp % 4 * 32; }

// The address of row `lane % 16`, half `lane / 16`, of a 16 x 16 block (outer x k) for ldmatrix.
template <bool along_k, int kOuter>
__device__ __forceinline__ const void* block_row(const uint4* panel, int outer, int k) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (along_k)
    return panel + chunk_at<kK / kChunk>(outer + lane % 16, k / kChunk + lane / 16);
  else  // lines are k: matrices in the order (outer, k), (outer + 8, k), (outer, k + 8), (outer + 8, k + 8)
    return panel + chunk_at<kOuter / kChunk>(k + lane / 16 * 8 + lane % 8, outer / kChunk + lane / 8 % 2);
}

// sum += the products of a panel. along_k: the lines of a panel are rows of A or columns of B, and k runs along them;
// otherwise lines are positions of k.
template <class T, bool a_along_k, bool b_along_k>
__device__ __forceinline__ void add_panel(WarpSums& sum, const uint4* a, const uint4* b) {
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    std::uint32_t x[4][4], y[4][2];
#pragma unroll
    for (int i = 0; i < 4; ++i) ldmatrix_x4<!a_along_k>(x[i], block_row<a_along_k, kM>(a, warp_row() + i * 16, k));
#pragma unroll
    for (int j = 0; j < 2; ++j) {  // two column blocks of eight at a time
      std::uint32_t r[4];
      ldmatrix_x4<!b_along_k>(r, block_row<b_along_k, kN>(b, warp_column() + j * 16, k));
      y[2 * j][0] = r[0];
      y[2 * j + 1][0] = r[1];
      y[2 * j][1] = r[2];
      y[2 * j + 1][1] = r[3];
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) mma_16816<T>(sum[i][j], x[i], y[j]);
  }
}

// The tile's values into the result, or into this block's part of a split sum.
template <class P>
__device__ __forceinline__ void store_sums(const P& p, std::int64_t batch, std::int64_t m0, std::int64_t n0,
                                           const WarpSums& sum, float* partial) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const std::int64_t m = m0 + warp_row() + i * 16 + lane / 4 + e / 2 * 8,
                           n = n0 + warp_column() + j * 8 + lane % 4 * 2 + e % 2;
        if (m >= p.m || n >= p.n) continue;
        if (partial)
          partial[((static_cast<std::int64_t>(blockIdx.y) * p.batch + batch) * p.m + m) * p.n + n] = sum[i][j][e];
        else
          p.store(batch, m, n, sum[i][j][e]);
      }
}

// ---- operands that are found position by position -------------------------------------------------------------------

// Eight neighbours along k, in the order of memory.
template <class Element>
__device__ __forceinline__ uint4 gather(int count, const Element& element) {
  std::uint32_t w[4] = {};
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    if (i < count) w[i / 2] |= static_cast<std::uint32_t>(element(i).bits) << (16 * (i % 2));
  return {w[0], w[1], w[2], w[3]};
}

// tile_product (tile.cuh) for problems whose a() and b() are 16-bit floats. Threads gather chunks of eight along k into
// registers while the panel before is multiplied.
template <class P>
__global__ void __launch_bounds__(kThreads)
    tile_product_tensor(const __grid_constant__ P p, std::int64_t split, float* partial) {
  constexpr int kWidth = kK / kChunk, kEach = kM * kWidth / kThreads;  // chunks per line, and per thread and operand
  static_assert(kM == kN);
  __shared__ uint4 as[2][kM * kWidth], bs[2][kN * kWidth];
  const std::int64_t tiles_n = (p.n + kN - 1) / kN;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kM;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kN;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < p.k ? k_begin + split : p.k;
  // Neighbouring threads follow the axis along which neighbours are close in memory.
  const auto line = [](int j, bool along_k) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads;
    return along_k ? e / kWidth : e % kM;
  };
  const auto chunk = [](int j, bool along_k) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads;
    return along_k ? e % kWidth : e / kM;
  };

  for (std::int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    uint4 a[kEach], b[kEach];
    const auto fetch = [&](std::int64_t k0) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const std::int64_t m = m0 + line(j, p.a_along_k), n = n0 + line(j, p.b_along_k);
        const std::int64_t ka = k0 + chunk(j, p.a_along_k) * kChunk, kb = k0 + chunk(j, p.b_along_k) * kChunk;
        const auto left = [&](std::int64_t k) { return static_cast<int>(k_end - k < kChunk ? k_end - k : kChunk); };
        a[j] = gather(m < p.m ? left(ka) : 0, [&](int i) { return p.a(batch, m, ka + i); });
        b[j] = gather(n < p.n ? left(kb) : 0, [&](int i) { return p.b(batch, kb + i, n); });
      }
    };
    const auto publish = [&](int stage) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        as[stage][chunk_at<kWidth>(line(j, p.a_along_k), chunk(j, p.a_along_k))] = a[j];
        bs[stage][chunk_at<kWidth>(line(j, p.b_along_k), chunk(j, p.b_along_k))] = b[j];
      }
    };
    WarpSums sum = {};
    if (k_begin < k_end) {
      fetch(k_begin);
      publish(0);
    }
    __syncthreads();
    int stage = 0;
    for (std::int64_t k0 = k_begin; k0 < k_end; k0 += kK, stage ^= 1) {
      const bool more = k0 + kK < k_end;
      if (more) fetch(k0 + kK);
      add_panel<typename P::Element, true, true>(sum, as[stage], bs[stage]);
      if (more) publish(stage ^ 1);
      __syncthreads();
    }
    store_sums(p, batch, m0, n0, sum, partial);
  }
}

template <class P>
void run_tensor_tiles(const char* op, const P& p) {
  const Split s = split_of(op, p, kM, kN, kK);
  if (s.parts == 1)
    return launch(tile_product_tensor<P>, s.grid, kThreads, 0, p, s.length, static_cast<float*>(nullptr));
  const Scratch<float> partial(s.parts * p.batch * p.m * p.n);
  launch(tile_product_tensor<P>, s.grid, kThreads, 0, p, s.length, partial.get());
  run_add_parts(p, partial.get(), s.parts);
}

}  // namespace
}  // namespace pydlx::cuda
