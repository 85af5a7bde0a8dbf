// Products with float accumulation on the tensor cores by the instructions of sm_80: tiles whose panels come to four
// stages of shared memory by copies that no register holds. Operands may lie either way. Lines of 16-bit numbers begin
// at multiples of 16 bytes and are as long; those of float32 may begin anywhere and are then copied word by word.
// Everything else has its operands found position by position (warp_tile.cuh), and what would leave most of a tile
// empty goes to the ordinary units.
#pragma once
#include "cuda/gemm/strided.cuh"
#include "cuda/gemm/warp_tile.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 4;

// An operand: `outer` is its row or column number, k the summed axis. along_k: neighbours in memory follow k.
struct Panel {
  const char* data;
  std::int64_t outer, k;  // sizes
  std::int64_t line;      // elements between lines
  bool whole_chunks;      // lines begin and end at multiples of 16 bytes
};

// Lines are outer positions (along_k) or positions of k.
template <class Tile, bool along_k>
__device__ __forceinline__ void fetch(uint4* to, const Panel& p, std::int64_t outer0, std::int64_t k0,
                                      std::int64_t k_end) {
  constexpr int kChunk = Tile::kChunk, kWidth = Tile::template kWidth<along_k>;
  constexpr std::int64_t kSize = sizeof(typename Tile::Element);
#pragma unroll
  for (int j = 0; j < Tile::kChunks / kThreads; ++j) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads, line = e / kWidth, chunk = e % kWidth;
    const std::int64_t outer = outer0 + (along_k ? line : chunk * kChunk), k = k0 + (along_k ? chunk * kChunk : line);
    const bool valid = outer < p.outer && k < k_end;
    const char* const from = valid ? p.data + (along_k ? outer * p.line + k : k * p.line + outer) * kSize : p.data;
    uint4* const chunk_to = to + Tile::template place<along_k>(line, chunk);
    if (kSize == 2 || p.whole_chunks) {
      cp_async_16(chunk_to, from, valid);
    } else {
      const std::int64_t left = along_k ? k_end - k : p.outer - outer;
#pragma unroll 2
      for (int i = 0; i < kChunk; ++i)
        cp_async_4(reinterpret_cast<float*>(chunk_to) + i, valid && i < left ? from + i * kSize : p.data,
                   valid && i < left);
    }
  }
}

template <class T, class Tile, bool a_along_k, bool b_along_k>
__global__ void __launch_bounds__(kThreads) gemm_tensor(const __grid_constant__ Strided<T, float> p, bool a_whole,
                                                        bool b_whole, std::int64_t split, float* partial) {
  uint4* const shared = dynamic_shared<uint4>();
  constexpr int kSide = Tile::kSide, kDepth = Tile::kDepth, kStageChunks = 2 * Tile::kStored;
  const Gemm& g = p.g;
  const std::int64_t tiles_n = (g.n + kSide - 1) / kSide;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kSide;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kSide;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < g.k ? k_begin + split : g.k;
  const int panels = static_cast<int>((k_end - k_begin + kDepth - 1) / kDepth);

  for (std::int64_t batch = blockIdx.z; batch < g.batch; batch += gridDim.z) {
    constexpr std::int64_t kSize = sizeof(T);
    const Panel a{static_cast<const char*>(g.a) + batch * g.a_batch * kSize, g.m, g.k, a_along_k ? g.a_row : g.a_col,
                  a_whole};
    const Panel b{static_cast<const char*>(g.b) + batch * g.b_batch * kSize, g.n, g.k, b_along_k ? g.b_col : g.b_row,
                  b_whole};
    const auto start = [&](int panel) {
      if (panel < panels) {
        uint4* const stage = shared + panel % kStages * kStageChunks;
        const std::int64_t k0 = k_begin + static_cast<std::int64_t>(panel) * kDepth;
        fetch<Tile, a_along_k>(stage, a, m0, k0, k_end);
        fetch<Tile, b_along_k>(stage + Tile::kStored, b, n0, k0, k_end);
      }
      cp_async_commit();  // also when empty, so that the count of groups stays that of panels
    };
    typename Tile::Sums sum = {};
    sum_panels<Tile, a_along_k, b_along_k>(sum, [&](const auto& add) {
#pragma unroll
      for (int s = 0; s < kStages - 1; ++s) start(s);
      for (int panel = 0; panel < panels; ++panel) {
        cp_async_wait<kStages - 2>();
        __syncthreads();  // everybody's part of the panel is there, and the oldest stage is free
        start(panel + kStages - 1);
        const uint4* const stage = shared + panel % kStages * kStageChunks;
        add(stage, stage + Tile::kStored);
      }
      cp_async_wait<0>();
    });
    __syncthreads();  // the next matrix may overwrite the stages
    Tile::store(p, batch, m0, n0, sum, partial);
  }
}

// Operands that are found position by position.
template <class T>
struct Scattered : Strided<T, float> {
  using Element = T;
  using Strided<T, float>::Strided;
  __device__ T a(std::int64_t i, std::int64_t row, std::int64_t col) const { return this->a_as_is(i, row, col); }
  __device__ T b(std::int64_t i, std::int64_t row, std::int64_t col) const { return this->b_as_is(i, row, col); }
};

// How an operand can be copied to panels. `outer` and `k` are strides.
struct Lines {
  bool contiguous, whole_chunks;  // along one axis; and lines begin and end at multiples of 16 bytes
  template <class T>
  static Lines of(const void* data, std::int64_t outer, std::int64_t k, std::int64_t batch, std::int64_t outer_size,
                  std::int64_t k_size) {
    constexpr int kChunk = kChunkOf<T>;
    const std::int64_t line = k == 1 ? outer : k, length = k == 1 ? k_size : outer_size;
    return {k == 1 || outer == 1, reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && batch % kChunk == 0 &&
                                      line % kChunk == 0 && length % kChunk == 0};
  }
};

template <class T, class Tile, bool a_along_k, bool b_along_k>
void run_tensor(const Strided<T, float>& p, bool a_whole, bool b_whole) {
  constexpr auto kernel = gemm_tensor<T, Tile, a_along_k, b_along_k>;
  constexpr std::size_t bytes = std::size_t{kStages} * 2 * Tile::kStored * 16;
  allow_shared<kernel>(bytes);
  run_split("matmul", p, Tile::kSide, Tile::kSide, Tile::kDepth, [&](const Split& s, float* partial) {
    launch(kernel, s.grid, kThreads, bytes, p, a_whole, b_whole, s.length, partial);
  });
}
template <class T, class Tile>
void run_tensor(const Strided<T, float>& p, bool a_whole, bool b_whole) {
  if (p.g.a_col == 1)
    p.g.b_row == 1 ? run_tensor<T, Tile, true, true>(p, a_whole, b_whole)
                   : run_tensor<T, Tile, true, false>(p, a_whole, b_whole);
  else
    p.g.b_row == 1 ? run_tensor<T, Tile, false, true>(p, a_whole, b_whole)
                   : run_tensor<T, Tile, false, false>(p, a_whole, b_whole);
}

template <class T, Digits digits>
void run_gemm_tensor(const Gemm& g) {
  const Strided<T, float> p(g);
  // Tiles pay when they are filled.
  if (g.m < 32 || g.n < 32 || g.k < 16) return run_product("matmul", p);
  if (g.batch == 0) return;
  const Lines a = Lines::of<T>(g.a, g.a_row, g.a_col, g.a_batch, g.m, g.k),
              b = Lines::of<T>(g.b, g.b_col, g.b_row, g.b_batch, g.n, g.k);
  const auto copied = [](const Lines& l) { return l.contiguous && (l.whole_chunks || sizeof(T) == 4); };
  if (!copied(a) || !copied(b)) return run_tensor_tiles<Scattered<T>, digits>("matmul", Scattered<T>(g));
  const bool large = takes_large_tiles(p);
  if (verbose_on) {
    const int side = large ? 128 : 64;
    verbose_note("; %s, %d x %d tiles%s", units_of<T>(digits), side, side,
                 a.whole_chunks && b.whole_chunks ? "" : ", word by word");
  }
  large ? run_tensor<T, WarpTile<T, 128, digits>>(p, a.whole_chunks, b.whole_chunks)
        : run_tensor<T, WarpTile<T, 64, digits>>(p, a.whole_chunks, b.whole_chunks);
}

}  // namespace
}  // namespace pydlx::cuda
