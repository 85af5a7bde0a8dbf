// A step's product on one block: rows of the state (or of the gates' gradients) times weights that stay in shared
// memory. Panels of the rows come through a ring of copies.
#pragma once
#include "cuda/rnn/recurrent_plan.h"
#include "cuda/runtime/mma.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kStepThreads = RecurrentPlan::kThreads, kStepWarps = kStepThreads / kWarp, kDepth = RecurrentPlan::kDepth,
              kStages = RecurrentPlan::kStages;

// Sums over the warp's lanes of kCount values each. A lane gives half of its values away and keeps the sums of the
// other half until one is left; then lane l has those from l * kCount / 32 on. Every value is added in the same order,
// whatever kCount is.
template <int kCount, int kDistance, int kSize>
__device__ __forceinline__ void fold(float (&v)[kSize]) {
  constexpr int kHalf = kCount > 1 ? kCount / 2 : 1;
  if constexpr (kCount > 1) {
    const bool upper = threadIdx.x & kDistance;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float give = upper ? v[i] : v[i + kHalf], keep = upper ? v[i + kHalf] : v[i];
      v[i] = keep + __shfl_xor_sync(kFullMask, give, kDistance);
    }
  } else {
    v[0] += __shfl_xor_sync(kFullMask, v[0], kDistance);
  }
  if constexpr (kDistance > 1) fold<kHalf, kDistance / 2>(v);
}

// float32: a warp has kEach columns, each lane every 32nd vector of four terms.
template <int kNumber>
struct FloatTile {
  using Element = float;
  static constexpr RecurrentTile kTile = RecurrentPlan::kFloat[kNumber];
  static constexpr int kEach = kTile.columns / kStepWarps, kSums = kTile.rows * kEach;
  static_assert((kSums & (kSums - 1)) == 0);
  float sum[kSums] = {};

  __device__ __forceinline__ void add(const float* panel, const float* weights, std::int64_t line, int columns,
                                      int depth) {
    const int first = static_cast<int>(threadIdx.x) / kWarp * kEach, lane = static_cast<int>(threadIdx.x) % kWarp;
    if (first >= columns) return;
    const float* column[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) column[j] = weights + (first + j < columns ? first + j : first) * line;
    for (int k = lane * 4; k < depth; k += kWarp * 4) {
      float4 x[kTile.rows];
#pragma unroll
      for (int i = 0; i < kTile.rows; ++i)
        x[i] = *reinterpret_cast<const float4*>(panel + i * panel_line(sizeof(float)) + k);
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const float4 w = *reinterpret_cast<const float4*>(column[j] + k);
#pragma unroll
        for (int i = 0; i < kTile.rows; ++i) {
          float& s = sum[i * kEach + j];
          s += x[i].x * w.x;
          s += x[i].y * w.y;
          s += x[i].z * w.z;
          s += x[i].w * w.w;
        }
      }
    }
  }
  __device__ __forceinline__ void store(float* sums, int columns) {
    const int first = static_cast<int>(threadIdx.x) / kWarp * kEach, lane = static_cast<int>(threadIdx.x) % kWarp;
    if (first >= columns) return;
    fold<kSums, kWarp / 2>(sum);
    constexpr int kHeld = kSums > kWarp ? kSums / kWarp : 1, kShare = kSums < kWarp ? kWarp / kSums : 1;
    if (lane % kShare != 0) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int e = lane / kShare * kHeld + i;
      sums[e / kEach * kTile.line + first + e % kEach] = sum[i];
    }
  }
};

// float16 and bfloat16 on the tensor cores: weights are the 16 rows of an instruction, rows of the state its columns.
// A warp multiplies two of a panel's sixteen slices for all columns.
template <class T>
struct HalfTile {
  using Element = T;
  static constexpr RecurrentTile kTile = RecurrentPlan::kHalf;
  static constexpr int kBlocks = kTile.columns / 16;
  static_assert(kTile.rows == 16 && kTile.parts == kStepWarps && kDepth == kStepWarps * 32);
  float sum[kBlocks][2][4] = {};

  __device__ __forceinline__ void add(const T* panel, const T* weights, std::int64_t line, int columns, int depth) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int k = (2 * warp + half) * 16;
      if (k >= depth) break;
      std::uint32_t y[4];
      ldmatrix_x4<false>(y, panel + lane % 16 * panel_line(sizeof(T)) + k + lane / 16 * 8);
      const std::uint32_t low[2] = {y[0], y[2]}, high[2] = {y[1], y[3]};
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
        if (b * 16 >= columns) break;
        const int c = b * 16 + lane % 16;  // columns that are not there repeat the last one; nobody reads their sums
        std::uint32_t x[4];
        ldmatrix_x4<false>(x, weights + (c < columns ? c : columns - 1) * line + k + lane / 16 * 8);
        mma_16816<T>(sum[b][0], x, low);
        mma_16816<T>(sum[b][1], x, high);
      }
    }
  }
  __device__ __forceinline__ void store(float* sums, int columns) {
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    float* part = sums + warp * kTile.rows * kTile.line;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if (b * 16 >= columns) break;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          part[(n * 8 + lane % 4 * 2 + e % 2) * kTile.line + b * 16 + lane / 4 + e / 2 * 8] = sum[b][n][e];
    }
  }
};

// A sum from its pieces, in order.
template <class Tile>
__device__ __forceinline__ float whole_sum(const float* sums, int row, int column) {
  constexpr RecurrentTile t = Tile::kTile;
  float s = sums[row * t.line + column];
#pragma unroll
  for (int part = 1; part < t.parts; ++part) s += sums[(part * t.rows + row) * t.line + column];
  return s;
}

// Another block's result, never from this multiprocessor's own cache.
template <class T>
__device__ __forceinline__ T load_shared_result(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return __ldcg(p);
  } else {
    T v;
    v.bits = __ldcg(&p->bits);
    return v;
  }
}

// The block's shared memory.
template <class Tile>
struct RecurrentMemory {
  using T = typename Tile::Element;
  T *weights, *ring;
  float* sums;

  __device__ explicit RecurrentMemory(std::int64_t weight_elements)
      : weights(dynamic_shared<T>()),
        ring(weights + weight_elements),
        sums(reinterpret_cast<float*>(ring + kStages * Tile::kTile.rows * panel_line(sizeof(T)))) {}
};

// The sums of a tile into m.sums, for all threads to read. row(i) is where row i of the tile lies, `depth` elements of
// it, or null for a row that is not there. `vectors`: rows begin at multiples of 16 bytes and are whole vectors.
template <class Tile, class Row>
__device__ __forceinline__ void multiply(const RecurrentMemory<Tile>& m, const typename Tile::Element* weights,
                                         std::int64_t line, int columns, int depth, bool vectors, const Row& row) {
  using T = typename Tile::Element;
  constexpr int kVector = 16 / sizeof(T), kLine = panel_line(sizeof(T)), kUnit = sizeof(T) == 4 ? 4 : 16;
  constexpr int kRowVectors = kDepth / kVector, kPanel = Tile::kTile.rows * kLine;
  const int panels = (depth + kDepth - 1) / kDepth;
  const auto start = [&](int panel) {
    if (panel < panels) {
      T* const to = m.ring + panel % kStages * kPanel;
      const int k0 = panel * kDepth;
      if (vectors) {
        for (int e = static_cast<int>(threadIdx.x); e < Tile::kTile.rows * kRowVectors; e += kStepThreads) {
          const int i = e / kRowVectors, k = e % kRowVectors * kVector;
          const T* from = row(i);
          const bool valid = from && k0 + k < depth;
          cp_async_16(to + i * kLine + k, valid ? from + k0 + k : static_cast<const void*>(m.weights), valid);
        }
      } else {
        for (int e = static_cast<int>(threadIdx.x); e < Tile::kTile.rows * kDepth; e += kStepThreads) {
          const int i = e / kDepth, k = e % kDepth;
          const T* from = row(i);
          to[i * kLine + k] = from && k0 + k < depth ? load_shared_result(from + k0 + k) : T{};
        }
      }
    }
    cp_async_commit();  // also when empty, so that the count of groups stays that of panels
  };
  Tile tile;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) start(s);
  for (int panel = 0; panel < panels; ++panel) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // everybody's part of the panel is there, and the oldest stage is free
    start(panel + kStages - 1);
    const int left = depth - panel * kDepth, rounded = (left + kUnit - 1) / kUnit * kUnit;
    tile.add(m.ring + panel % kStages * kPanel, weights + panel * kDepth, line, columns,
             rounded < kDepth ? rounded : kDepth);
  }
  cp_async_wait<0>();
  tile.store(m.sums, columns);
  __syncthreads();
}

}  // namespace
}  // namespace pydlx::cuda
