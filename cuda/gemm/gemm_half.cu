// Products of 16-bit floats with float accumulation on the tensor cores. Tiles of 128 x 128 with panels of 32 in four
// stages of shared memory; eight warps hold 64 x 32 each. Operands may lie either way: ldmatrix transposes. What does
// not fit (strides or sizes that are no multiples of eight, unaligned data) goes to the ordinary units.
#include "core/verbose.h"
#include "cuda/gemm/strided.cuh"
#include "cuda/gemm/warp_tile.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 4;
constexpr std::size_t kStageBytes = (kM + kN) * kK * 2, kSharedBytes = kStages * kStageBytes;

// An operand: `outer` is its row or column number, k the summed axis. along_k: neighbours in memory follow k.
struct Panel {
  const char* data;
  std::int64_t outer, k;  // sizes
  std::int64_t line;      // elements between lines
};

// Lines are outer positions (along_k) or positions of k.
template <bool along_k, int kOuter>
__device__ __forceinline__ void fetch(uint4* to, const Panel& p, std::int64_t outer0, std::int64_t k0,
                                      std::int64_t k_end) {
  constexpr int kWidth = along_k ? kK / kChunk : kOuter / kChunk, kLines = along_k ? kOuter : kK;
#pragma unroll
  for (int j = 0; j < kLines * kWidth / kThreads; ++j) {
    const int e = static_cast<int>(threadIdx.x) + j * kThreads, line = e / kWidth, chunk = e % kWidth;
    const std::int64_t outer = outer0 + (along_k ? line : chunk * kChunk), k = k0 + (along_k ? chunk * kChunk : line);
    const bool valid = outer < p.outer && k < k_end;
    const std::int64_t at = along_k ? outer * p.line + k : k * p.line + outer;
    cp_async_16(to + chunk_at<kWidth>(line, chunk), valid ? p.data + at * 2 : p.data, valid);
  }
}

template <class T, bool a_along_k, bool b_along_k>
__global__ void __launch_bounds__(kThreads)
    gemm_tensor(const __grid_constant__ Strided<T, float> p, std::int64_t split, float* partial) {
  uint4* const shared = dynamic_shared<uint4>();
  constexpr int kStageChunks = static_cast<int>(kStageBytes / 16), kPanelA = kM * kK / kChunk;
  const Gemm& g = p.g;
  const std::int64_t tiles_n = (g.n + kN - 1) / kN;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kM;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kN;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < g.k ? k_begin + split : g.k;
  const int panels = static_cast<int>((k_end - k_begin + kK - 1) / kK);

  for (std::int64_t batch = blockIdx.z; batch < g.batch; batch += gridDim.z) {
    const Panel a{static_cast<const char*>(g.a) + batch * g.a_batch * 2, g.m, g.k, a_along_k ? g.a_row : g.a_col};
    const Panel b{static_cast<const char*>(g.b) + batch * g.b_batch * 2, g.n, g.k, b_along_k ? g.b_col : g.b_row};
    auto start = [&](int panel) {
      if (panel < panels) {
        uint4* stage = shared + panel % kStages * kStageChunks;
        const std::int64_t k0 = k_begin + static_cast<std::int64_t>(panel) * kK;
        fetch<a_along_k, kM>(stage, a, m0, k0, k_end);
        fetch<b_along_k, kN>(stage + kPanelA, b, n0, k0, k_end);
      }
      cp_async_commit();  // also when empty, so that the count of groups stays that of panels
    };
    WarpSums sum = {};
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) start(s);
    for (int panel = 0; panel < panels; ++panel) {
      cp_async_wait<kStages - 2>();
      __syncthreads();  // everybody's part of the panel is there, and the oldest stage is free
      start(panel + kStages - 1);
      const uint4* stage = shared + panel % kStages * kStageChunks;
      add_panel<T, a_along_k, b_along_k>(sum, stage, stage + kPanelA);
    }
    cp_async_wait<0>();
    __syncthreads();  // the next matrix may overwrite the stages
    store_sums(p, batch, m0, n0, sum, partial);
  }
}

bool aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

// One stride is 1 and everything else comes in multiples of eight elements. `outer` and `k` are strides.
bool fits(const void* data, std::int64_t outer, std::int64_t k, std::int64_t batch, std::int64_t outer_size,
          std::int64_t k_size) {
  if (!aligned(data) || batch % kChunk != 0) return false;
  if (k == 1) return outer % kChunk == 0 && k_size % kChunk == 0;
  return outer == 1 && k % kChunk == 0 && outer_size % kChunk == 0;
}

template <class T, bool a_along_k, bool b_along_k>
void run_tensor(const Strided<T, float>& p) {
  constexpr auto kernel = gemm_tensor<T, a_along_k, b_along_k>;
  allow_shared<kernel>(kSharedBytes);
  const Split s = split_of("matmul", p, kM, kN, kK);
  if (s.parts == 1 && stores_in_tile(p))
    return launch(kernel, s.grid, kThreads, kSharedBytes, p, s.length, static_cast<float*>(nullptr));
  const Scratch<float> partial(s.parts * p.batch * p.m * p.n);
  launch(kernel, s.grid, kThreads, kSharedBytes, p, s.length, partial.get());
  run_add_parts(p, partial.get(), s.parts);
}

template <class T>
void gemm(const Gemm& g) {
  const Strided<T, float> p(g);
  // Tiles pay when they are filled; small products and odd layouts stay on the ordinary units.
  const bool large = g.m >= 32 && g.n >= 32 && g.k >= 16;
  if (!large || !fits(g.a, g.a_row, g.a_col, g.a_batch, g.m, g.k) || !fits(g.b, g.b_col, g.b_row, g.b_batch, g.n, g.k))
    return run_product("matmul", p);
  if (g.batch == 0) return;
  if (verbose_on) verbose_note("; mma.sync, %d x %d tiles", kM, kN);
  if (g.a_col == 1)
    g.b_row == 1 ? run_tensor<T, true, true>(p) : run_tensor<T, true, false>(p);
  else
    g.b_row == 1 ? run_tensor<T, false, true>(p) : run_tensor<T, false, false>(p);
}

}  // namespace

void register_gemm_half(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  k.gemm[static_cast<int>(DType::Float16)] = gemm<Half>;
  k.gemm[static_cast<int>(DType::BFloat16)] = gemm<BFloat16>;
}

}  // namespace pydlx::cuda
