// What products on the tensor cores by the instructions of sm_80 share: square tiles whose panels lie in shared memory,
// worked on by eight warps, half a tile's rows and a quarter of its columns each. A panel is 64 bytes of the summed
// axis: 32 numbers of 16 bits, 16 of float32, which are multiplied in parts (runtime/digits.cuh).
#pragma once
#include "core/verbose.h"
#include "cuda/gemm/tile.cuh"
#include "cuda/runtime/digits.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarp;

template <class T, int side, Digits digits = Digits::all>
struct WarpTile {
  using Element = T;
  static constexpr int kSide = side, kChunk = kChunkOf<T>, kDepth = 64 / static_cast<int>(sizeof(T)),
                       kChunks = side * kDepth / kChunk;  // of a panel
  // Lines of words that run along rows or columns are read word by word, four of them and eight words at a time: with
  // two chunks between them these come from different banks.
  template <bool along_k>
  static constexpr int kGap = sizeof(T) == 4 && !along_k ? 2 : 0;
  static constexpr int kStored = kChunks + kGap<false> * kDepth;  // room for a panel, either way
  static constexpr int kI = side / 32, kJ = side / 32;            // blocks of 16 rows and of 8 columns of a warp
  static constexpr bool kRepeats = std::is_same_v<T, float>;
  using Sums = float[kI][kJ][4];

  __device__ __forceinline__ static int row() { return static_cast<int>(threadIdx.x) / kWarp / 4 * (side / 2); }
  __device__ __forceinline__ static int column() { return static_cast<int>(threadIdx.x) / kWarp % 4 * (side / 4); }

  // Lines of a panel are rows of A or columns of B with k along them (along_k), or positions of k.
  template <bool along_k>
  static constexpr int kWidth = (along_k ? kDepth : side) / kChunk;  // chunks of a line
  template <bool along_k>
  __device__ __forceinline__ static int place(int line, int chunk) {
    if constexpr (kGap<along_k> > 0)
      return line * (kWidth<along_k> + kGap<along_k>)+chunk;
    else
      return chunk_at<kWidth<along_k>>(line, chunk);
  }

  // sum += the products of a panel.
  template <bool a_along_k, bool b_along_k>
  __device__ __forceinline__ static void add(Sums& sum, const uint4* a, const uint4* b) {
    if constexpr (sizeof(T) == 2)
      add_halves<a_along_k, b_along_k>(sum, a, b);
    else
      add_floats<a_along_k, b_along_k>(sum, a, b);
  }
  // The same on the ordinary units. Rolled, over a copy in local memory: it is rare, and need not take registers.
  template <bool a_along_k, bool b_along_k>
  __device__ __forceinline__ static void add_plainly(Sums& sum, const uint4* a, const uint4* b) {
    constexpr int kCount = kI * kJ * 4;
    float copy[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) copy[i] = sum[i / 4 / kJ][i / 4 % kJ][i % 4];
#pragma unroll 1
    for (int i = 0; i < kCount; ++i) {
      const int m = row_of(i / 4 / kJ, i % 4), n = column_of(i / 4 % kJ, i % 4);
#pragma unroll 1
      for (int k = 0; k < kDepth; ++k) copy[i] += element<a_along_k>(a, m, k) * element<b_along_k>(b, n, k);
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i / 4 / kJ][i / 4 % kJ][i % 4] = copy[i];
  }
  // Whether a sum of the block's threads is special; all of them ask.
  __device__ __forceinline__ static bool any_special(const Sums& sum) {
    bool mine = false;
#pragma unroll
    for (int i = 0; i < kI * kJ * 4; ++i) mine = mine || is_special(sum[i / 4 / kJ][i / 4 % kJ][i % 4]);
    return any_of_block<kWarps>(mine);
  }

  // The tile's values into the result, or into this block's part of a split sum.
  template <class P>
  __device__ __forceinline__ static void store(const P& p, std::int64_t batch, std::int64_t m0, std::int64_t n0,
                                               const Sums& sum, float* partial) {
#pragma unroll
    for (int i = 0; i < kI; ++i)
#pragma unroll
      for (int j = 0; j < kJ; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const std::int64_t m = m0 + row_of(i, e), n = n0 + column_of(j, e);
          if (m >= p.m || n >= p.n) continue;
          if (partial)
            partial[((static_cast<std::int64_t>(blockIdx.y) * p.batch + batch) * p.m + m) * p.n + n] = sum[i][j][e];
          else
            p.store(batch, m, n, sum[i][j][e]);
        }
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
  __device__ __forceinline__ static int row_of(int i, int e) { return row() + i * 16 + lane() / 4 + e / 2 * 8; }
  __device__ __forceinline__ static int column_of(int j, int e) { return column() + j * 8 + lane() % 4 * 2 + e % 2; }

  // The address of row `lane % 16`, half `lane / 16`, of a block of 16 lines and 32 bytes of k for ldmatrix.
  template <bool along_k>
  __device__ __forceinline__ static const void* block_row(const uint4* panel, int outer, int k) {
    if constexpr (along_k)
      return panel + place<along_k>(outer + lane() % 16, k / kChunk + lane() / 16);
    else  // lines are k: matrices in the order (outer, k), (outer + 8, k), (outer, k + 8), (outer + 8, k + 8)
      return panel + place<along_k>(k + lane() / 16 * 8 + lane() % 8, outer / kChunk + lane() / 8 % 2);
  }

  template <bool a_along_k, bool b_along_k>
  __device__ __forceinline__ static void add_halves(Sums& sum, const uint4* a, const uint4* b) {
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      std::uint32_t x[kI][4], y[kJ][2];
#pragma unroll
      for (int i = 0; i < kI; ++i) ldmatrix_x4<!a_along_k>(x[i], block_row<a_along_k>(a, row() + i * 16, k));
#pragma unroll
      for (int j = 0; j < kJ; j += 2) {  // two column blocks of eight at a time
        std::uint32_t r[4];
        ldmatrix_x4<!b_along_k>(r, block_row<b_along_k>(b, column() + j * 8, k));
        y[j][0] = r[0];
        y[j + 1][0] = r[1];
        y[j][1] = r[2];
        y[j + 1][1] = r[3];
      }
#pragma unroll
      for (int i = 0; i < kI; ++i)
#pragma unroll
        for (int j = 0; j < kJ; ++j) mma_16816<T>(sum[i][j], x[i], y[j]);
    }
  }

  template <bool along_k>
  __device__ __forceinline__ static float element(const uint4* panel, int outer, int k) {
    const auto* const words = reinterpret_cast<const float*>(panel);
    if constexpr (along_k)
      return words[place<true>(outer, k / kChunk) * kChunk + k % kChunk];
    else
      return words[place<false>(k, 0) * kChunk + outer];
  }
  // 16 lines and eight positions of k: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4) with g = lane / 4, t = lane % 4.
  template <bool along_k>
  __device__ __forceinline__ static void load_floats(float (&x)[4], const uint4* panel, int outer, int k) {
    if constexpr (along_k) {  // a row of eight 16-bit numbers is one of four words
      std::uint32_t r[4];
      ldmatrix_x4<false>(r, block_row<true>(panel, outer, k));
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = __uint_as_float(r[e]);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        x[e] = element<false>(panel, outer + lane() / 4 + e % 2 * 8, k + lane() % 4 + e / 2 * 4);
    }
  }
  template <bool a_along_k, bool b_along_k>
  __device__ __forceinline__ static void add_floats(Sums& sum, const uint4* a, const uint4* b) {
#pragma unroll 1
    for (int k = 0; k < kDepth; k += 8) {
      float y[kJ][2], y_rest[kJ][2];
#pragma unroll
      for (int j = 0; j < kJ; j += 2) {
        float r[4];
        load_floats<b_along_k>(r, b, column() + j * 8, k);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          y[j + e % 2][e / 2] = r[e];
          split<digits>(y[j + e % 2][e / 2], y_rest[j + e % 2][e / 2]);
        }
      }
#pragma unroll
      for (int i = 0; i < kI; ++i) {
        float x[4], x_rest[4];
        load_floats<a_along_k>(x, a, row() + i * 16, k);
#pragma unroll
        for (int e = 0; e < 4; ++e) split<digits>(x[e], x_rest[e]);
        add_eight<digits>(sum[i], 0, x, x_rest, y, y_rest);
      }
    }
  }
};

// The sums of a tile: multiply(add) lets add(sum, a, b) have every panel of both operands.
template <class Tile, bool a_along_k, bool b_along_k, class Multiply>
__device__ __forceinline__ void sum_panels(typename Tile::Sums& sum, const Multiply& multiply) {
  multiply([&](const uint4* a, const uint4* b) { Tile::template add<a_along_k, b_along_k>(sum, a, b); });
  if constexpr (Tile::kRepeats) {
    if (!Tile::any_special(sum)) return;
#pragma unroll
    for (int i = 0; i < Tile::kI * Tile::kJ * 4; ++i) sum[i / 4 / Tile::kJ][i / 4 % Tile::kJ][i % 4] = 0;
    multiply([&](const uint4* a, const uint4* b) { Tile::template add_plainly<a_along_k, b_along_k>(sum, a, b); });
  }
}

// The side of a tile: small ones where large ones would leave most of a large GPU without work. A function of the
// geometry alone.
template <class P>
bool takes_large_tiles(const P& p) {
  return ((p.m + 127) / 128) * ((p.n + 127) / 128) * p.batch > 66;
}

// ---- operands that are found position by position -------------------------------------------------------------------

// The neighbours of a chunk, in the order of memory.
template <class T, class Element>
__device__ __forceinline__ uint4 gather(int count, const Element& element) {
  std::uint32_t w[4] = {};
#pragma unroll
  for (int i = 0; i < kChunkOf<T>; ++i) {
    if (i >= count) continue;
    if constexpr (sizeof(T) == 4)
      w[i] = __float_as_uint(element(i));
    else
      w[i / 2] |= static_cast<std::uint32_t>(element(i).bits) << (16 * (i % 2));
  }
  return {w[0], w[1], w[2], w[3]};
}

// tile_product (tile.cuh) for problems whose a() and b() are numbers of type Element. Threads gather chunks along k
// into registers while the panel before is multiplied.
template <class Tile, class P>
__global__ void __launch_bounds__(kThreads)
    tile_product_tensor(const __grid_constant__ P p, std::int64_t split, float* partial) {
  constexpr int kSide = Tile::kSide, kChunk = Tile::kChunk, kWidth = Tile::template kWidth<true>,
                kEach = Tile::kChunks / kThreads;  // chunks per thread and operand
  __shared__ uint4 as[2][Tile::kStored], bs[2][Tile::kStored];
  const std::int64_t tiles_n = (p.n + kSide - 1) / kSide;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kSide;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kSide;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < p.k ? k_begin + split : p.k;
  // Neighbouring threads follow the axis along which neighbours are close in memory.
  const auto line = [](int j, bool along_k) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads;
    return along_k ? e / kWidth : e % kSide;
  };
  const auto chunk = [](int j, bool along_k) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads;
    return along_k ? e % kWidth : e / kSide;
  };

  for (std::int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    uint4 a[kEach], b[kEach];
    const auto fetch = [&](std::int64_t k0) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const std::int64_t m = m0 + line(j, p.a_along_k), n = n0 + line(j, p.b_along_k);
        const std::int64_t ka = k0 + chunk(j, p.a_along_k) * kChunk, kb = k0 + chunk(j, p.b_along_k) * kChunk;
        const auto left = [&](std::int64_t k) { return static_cast<int>(k_end - k < kChunk ? k_end - k : kChunk); };
        using T = typename Tile::Element;
        a[j] = gather<T>(m < p.m ? left(ka) : 0, [&](int i) { return p.a(batch, m, ka + i); });
        b[j] = gather<T>(n < p.n ? left(kb) : 0, [&](int i) { return p.b(batch, kb + i, n); });
      }
    };
    const auto publish = [&](int stage) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        as[stage][Tile::template place<true>(line(j, p.a_along_k), chunk(j, p.a_along_k))] = a[j];
        bs[stage][Tile::template place<true>(line(j, p.b_along_k), chunk(j, p.b_along_k))] = b[j];
      }
    };
    typename Tile::Sums sum = {};
    sum_panels<Tile, true, true>(sum, [&](const auto& add) {
      if (k_begin < k_end) {
        fetch(k_begin);
        publish(0);
      }
      __syncthreads();
      int stage = 0;
      for (std::int64_t k0 = k_begin; k0 < k_end; k0 += Tile::kDepth, stage ^= 1) {
        const bool more = k0 + Tile::kDepth < k_end;
        if (more) fetch(k0 + Tile::kDepth);
        add(as[stage], bs[stage]);
        if (more) publish(stage ^ 1);
        __syncthreads();
      }
    });
    Tile::store(p, batch, m0, n0, sum, partial);
  }
}

template <class P, Digits digits = Digits::all>
void run_tensor_tiles(const char* op, const P& p) {
  using Tile = WarpTile<typename P::Element, 128, digits>;
  if (verbose_on) verbose_note("; %s, operands by positions", units_of<typename P::Element>(digits));
  run_split(op, p, Tile::kSide, Tile::kSide, Tile::kDepth, [&](const Split& s, float* partial) {
    launch(tile_product_tensor<Tile, P>, s.grid, kThreads, 0, p, s.length, partial);
  });
}

}  // namespace
}  // namespace pydlx::cuda
