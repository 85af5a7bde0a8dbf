// Matrix products on the ordinary arithmetic units: every dtype, every stride. The tile kernel follows the classical
// scheme (Volkov and Demmel 2008): a block of C in registers, panels of A and B in shared memory, the next panels on
// their way while the present ones are multiplied. Sums over long k with few blocks are split, and the parts are added
// in order.
#include "cuda/gemm/epilogue.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kThreads = 256;

// C tiles of BM x BN, panels of BK; every thread holds TM x TN values.
template <class T, class Acc, int BM, int BN, int BK, int TM, int TN>
__global__ void __launch_bounds__(kThreads)
    gemm_tile(const __grid_constant__ Gemm g, std::int64_t split, Acc* partial) {
  static_assert(BM / TM * (BN / TN) == kThreads);
  constexpr int kPad = 4;
  constexpr int kA = BM * BK / kThreads, kB = BN * BK / kThreads;  // elements that a thread fetches
  constexpr int kColumns = BN / TN;
  __shared__ Acc as[BK][BM + kPad], bs[BK][BN + kPad];
  const int t = static_cast<int>(threadIdx.x), ty = t / kColumns, tx = t % kColumns;
  const std::int64_t tiles_n = (g.n + BN - 1) / BN;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * BM;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * BN;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < g.k ? k_begin + split : g.k;
  // Consecutive threads follow the axis that is dense in memory.
  const bool a_along_k = g.a_col == 1, b_along_k = g.b_row == 1 && g.b_col != 1;

  for (std::int64_t batch = blockIdx.z; batch < g.batch; batch += gridDim.z) {
    const T* a = static_cast<const T*>(g.a) + batch * g.a_batch;
    const T* b = static_cast<const T*>(g.b) + batch * g.b_batch;
    Acc fetched_a[kA], fetched_b[kB];
    auto fetch = [&](std::int64_t k0) {
#pragma unroll
      for (int j = 0; j < kA; ++j) {
        const int e = t + j * kThreads, k = a_along_k ? e % BK : e / BM, m = a_along_k ? e / BK : e % BM;
        fetched_a[j] =
            m0 + m < g.m && k0 + k < k_end ? static_cast<Acc>(a[(m0 + m) * g.a_row + (k0 + k) * g.a_col]) : Acc(0);
      }
#pragma unroll
      for (int j = 0; j < kB; ++j) {
        const int e = t + j * kThreads, k = b_along_k ? e % BK : e / BN, n = b_along_k ? e / BK : e % BN;
        fetched_b[j] =
            n0 + n < g.n && k0 + k < k_end ? static_cast<Acc>(b[(k0 + k) * g.b_row + (n0 + n) * g.b_col]) : Acc(0);
      }
    };
    auto publish = [&] {
#pragma unroll
      for (int j = 0; j < kA; ++j) {
        const int e = t + j * kThreads;
        as[a_along_k ? e % BK : e / BM][a_along_k ? e / BK : e % BM] = fetched_a[j];
      }
#pragma unroll
      for (int j = 0; j < kB; ++j) {
        const int e = t + j * kThreads;
        bs[b_along_k ? e % BK : e / BN][b_along_k ? e / BK : e % BN] = fetched_b[j];
      }
    };

    Acc sum[TM][TN] = {};
    fetch(k_begin);
    for (std::int64_t k0 = k_begin; k0 < k_end; k0 += BK) {
      publish();
      __syncthreads();
      if (k0 + BK < k_end) fetch(k0 + BK);
#pragma unroll
      for (int k = 0; k < BK; ++k) {
        Acc x[TM], y[TN];
        // A thread's columns lie kColumns apart: neighbours then read neighbouring words.
#pragma unroll
        for (int i = 0; i < TM; ++i) x[i] = as[k][ty * TM + i];
#pragma unroll
        for (int j = 0; j < TN; ++j) y[j] = bs[k][tx + j * kColumns];
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int j = 0; j < TN; ++j) sum[i][j] += x[i] * y[j];
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const std::int64_t m = m0 + ty * TM + i, n = n0 + tx + j * kColumns;
        if (m >= g.m || n >= g.n) continue;
        if (partial)
          partial[((static_cast<std::int64_t>(blockIdx.y) * g.batch + batch) * g.m + m) * g.n + n] = sum[i][j];
        else
          store_product(g, static_cast<T*>(g.c) + batch * g.c_batch + m * g.c_row + n, n, sum[i][j]);
      }
  }
}

// Adds the parts of a split product in order.
template <class T, class Acc>
__global__ void __launch_bounds__(kThreads) add_parts(const __grid_constant__ Gemm g, const Acc* partial, int parts) {
  const std::int64_t one = g.batch * g.m * g.n, step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < one; i += step) {
    Acc s = partial[i];
    for (int p = 1; p < parts; ++p) s += partial[p * one + i];
    const std::int64_t n = i % g.n, m = i / g.n % g.m, batch = i / g.n / g.m;
    store_product(g, static_cast<T*>(g.c) + batch * g.c_batch + m * g.c_row + n, n, s);
  }
}

template <class T, class Acc, int BM, int BN, int BK, int TM, int TN>
void run_tiles(const Gemm& g) {
  const std::int64_t tiles = ((g.m + BM - 1) / BM) * ((g.n + BN - 1) / BN);
  // Enough blocks for the largest GPU when k is long enough to share; a function of the geometry alone.
  constexpr std::int64_t kWanted = 264, kShortest = 256;
  std::int64_t parts = tiles * g.batch >= kWanted ? 1 : kWanted / (tiles * g.batch);
  if (parts > g.k / kShortest) parts = g.k / kShortest;
  parts = parts < 1 ? 1 : (parts > 64 ? 64 : parts);
  std::int64_t split = (g.k + parts - 1) / parts;
  split = (split + BK - 1) / BK * BK;
  parts = g.k == 0 ? 1 : (g.k + split - 1) / split;
  require(tiles < (std::int64_t{1} << 31), "matmul", "", ErrorKind::Value,
          "expected fewer than 2^31 tiles of the result");
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(parts),
                  static_cast<unsigned>(g.batch < 65535 ? g.batch : 65535));
  if (parts == 1)
    return launch(gemm_tile<T, Acc, BM, BN, BK, TM, TN>, grid, kThreads, 0, g, split, static_cast<Acc*>(nullptr));
  const Scratch<Acc> partial(parts * g.batch * g.m * g.n);
  launch(gemm_tile<T, Acc, BM, BN, BK, TM, TN>, grid, kThreads, 0, g, split, partial.get());
  launch(add_parts<T, Acc>, grid_for((g.batch * g.m * g.n + kThreads - 1) / kThreads, 32), kThreads, 0, g,
         partial.get(), static_cast<int>(parts));
}

template <class T, class Acc>
void gemm(const Gemm& g) {
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if constexpr (sizeof(Acc) == 4) {
    const std::int64_t large = ((g.m + 127) / 128) * ((g.n + 127) / 128) * g.batch;
    if (g.m > 64 && g.n > 64 && large >= 66) return run_tiles<T, Acc, 128, 128, 16, 8, 8>(g);
  }
  if (g.m <= 16) return run_tiles<T, Acc, 16, 64, 32, 2, 2>(g);
  if (g.n <= 16) return run_tiles<T, Acc, 64, 16, 32, 2, 2>(g);
  run_tiles<T, Acc, 64, 64, 16, 4, 4>(g);
}

template <class T, class Acc>
void add(GemmKernels& k) {
  k.gemm[static_cast<int>(DTypeOf<T>::value)] = gemm<T, Acc>;
}

}  // namespace

void register_gemm_simt(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  add<float, float>(k);
  add<double, double>(k);
  add<Half, float>(k);
  add<BFloat16, float>(k);
  // Unsigned arithmetic wraps where signed overflow would be undefined; the bits are the same.
  add<std::uint8_t, std::uint32_t>(k);
  add<std::int8_t, std::uint32_t>(k);
  add<std::int16_t, std::uint32_t>(k);
  add<std::int32_t, std::uint32_t>(k);
  add<std::int64_t, std::uint64_t>(k);
}

}  // namespace pydlx::cuda
