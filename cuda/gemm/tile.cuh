// Products of matrices that need not exist as such: a problem says what A, B and C are at a position, the tile kernel
// multiplies. The kernel follows the classical scheme (Volkov and Demmel 2008): a block of C in registers, panels of A
// and B in shared memory, the next panels on their way while the present ones are multiplied. Sums over long k with few
// blocks are split, and the parts are added in order.
//
// A problem is a plain struct with
//   using Acc; std::int64_t m, n, k, batch; bool a_along_k, b_along_k (which axis consecutive threads follow);
//   a(batch, m, k), b(batch, k, n), which convert to Acc; void store(batch, m, n, Acc).
// Where terms are other than products, add(Acc& sum, a, b) adds one; with `Acc own(batch, m, n)`, a value of the
// result's place that is fetched once, it is add(Acc& sum, a, b, own). Beyond the end of k both operands are zeros,
// whose term must be zero.
#pragma once
#include <type_traits>

#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {
namespace {

constexpr int kTileThreads = 256;

template <class P>
constexpr bool kHasOwn = requires(const P& p) { p.own(0, 0, 0); };

// Blocks that have to fit on a multiprocessor, for problems that say so (kBlocks) and tiles whose sums leave room
// for it; 0: the compiler's choice, which for wide integers is two at the price of spills.
template <class P>
constexpr int blocks_together(int sums) {
  using Acc = typename P::Acc;
  if constexpr (requires { P::kBlocks; }) return sums * sizeof(Acc) <= 128 ? P::kBlocks : 1;
  return std::is_integral_v<Acc> && sizeof(Acc) == 8 ? 1 : 0;
}

// C tiles of BM x BN, panels of BK; every thread holds TM x TN values.
template <class P, int BM, int BN, int BK, int TM, int TN>
__global__ void __launch_bounds__(kTileThreads, blocks_together<P>(TM* TN))
    tile_product(const __grid_constant__ P p, std::int64_t split, typename P::Acc* partial) {
  using Acc = typename P::Acc;
  static_assert(BM / TM * (BN / TN) == kTileThreads);
  constexpr int kPad = 4;
  constexpr int kA = BM * BK / kTileThreads, kB = BN * BK / kTileThreads;  // elements that a thread fetches
  constexpr int kColumns = BN / TN;
  __shared__ Acc as[BK][BM + kPad], bs[BK][BN + kPad];
  const int t = static_cast<int>(threadIdx.x), ty = t / kColumns, tx = t % kColumns;
  const std::int64_t tiles_n = (p.n + BN - 1) / BN;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * BM;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * BN;
  const std::int64_t k_begin = static_cast<std::int64_t>(blockIdx.y) * split;
  const std::int64_t k_end = k_begin + split < p.k ? k_begin + split : p.k;

  for (std::int64_t batch = blockIdx.z; batch < p.batch; batch += gridDim.z) {
    Acc fetched_a[kA], fetched_b[kB];
    auto fetch = [&](std::int64_t k0) {
#pragma unroll
      for (int j = 0; j < kA; ++j) {
        const int e = t + j * kTileThreads, k = p.a_along_k ? e % BK : e / BM, m = p.a_along_k ? e / BK : e % BM;
        fetched_a[j] = m0 + m < p.m && k0 + k < k_end ? static_cast<Acc>(p.a(batch, m0 + m, k0 + k)) : Acc(0);
      }
#pragma unroll
      for (int j = 0; j < kB; ++j) {
        const int e = t + j * kTileThreads, k = p.b_along_k ? e % BK : e / BN, n = p.b_along_k ? e / BK : e % BN;
        fetched_b[j] = n0 + n < p.n && k0 + k < k_end ? static_cast<Acc>(p.b(batch, k0 + k, n0 + n)) : Acc(0);
      }
    };
    auto publish = [&] {
#pragma unroll
      for (int j = 0; j < kA; ++j) {
        const int e = t + j * kTileThreads;
        as[p.a_along_k ? e % BK : e / BM][p.a_along_k ? e / BK : e % BM] = fetched_a[j];
      }
#pragma unroll
      for (int j = 0; j < kB; ++j) {
        const int e = t + j * kTileThreads;
        bs[p.b_along_k ? e % BK : e / BN][p.b_along_k ? e / BK : e % BN] = fetched_b[j];
      }
    };

    Acc sum[TM][TN] = {};
    [[maybe_unused]] Acc own[TM][TN];
    if constexpr (kHasOwn<P>) {
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          const std::int64_t m = m0 + ty * TM + i, n = n0 + tx + j * kColumns;
          own[i][j] = m < p.m && n < p.n ? p.own(batch, m, n) : Acc(0);
        }
    }
    if (k_begin < k_end) fetch(k_begin);
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
          for (int j = 0; j < TN; ++j)
            if constexpr (kHasOwn<P>)
              P::add(sum[i][j], x[i], y[j], own[i][j]);
            else if constexpr (requires { P::add(sum[i][j], x[i], y[j]); })
              P::add(sum[i][j], x[i], y[j]);
            else
              sum[i][j] += x[i] * y[j];
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        const std::int64_t m = m0 + ty * TM + i, n = n0 + tx + j * kColumns;
        if (m >= p.m || n >= p.n) continue;
        if (partial)
          partial[((static_cast<std::int64_t>(blockIdx.y) * p.batch + batch) * p.m + m) * p.n + n] = sum[i][j];
        else
          p.store(batch, m, n, sum[i][j]);
      }
  }
}

// Adds the parts of a split product in order, and does what tiles leave to it.
template <class P>
__global__ void __launch_bounds__(kTileThreads)
    add_parts(const __grid_constant__ P p, const typename P::Acc* partial, int parts) {
  const std::int64_t one = p.batch * p.m * p.n, step = static_cast<std::int64_t>(gridDim.x) * kTileThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kTileThreads + threadIdx.x; i < one; i += step) {
    typename P::Acc s = partial[i];
    for (int part = 1; part < parts; ++part) s += partial[part * one + i];
    const auto [line, column] = divide(i, p.n);
    const auto [batch, row] = divide(line, p.m);
    if constexpr (requires { p.finish(i, i, i, s); })
      p.finish(batch, row, column, s);
    else
      p.store(batch, row, column, s);
  }
}

// How the summed axis is cut.
struct Split {
  std::int64_t parts, length;
  dim3 grid;  // tiles, parts, batch
};
template <class P>
Split split_of(const char* op, const P& p, int bm, int bn, int bk) {
  const std::int64_t tiles = ((p.m + bm - 1) / bm) * ((p.n + bn - 1) / bn);
  require(tiles < (std::int64_t{1} << 31), op, "", ErrorKind::Value, "expected fewer than 2^31 tiles of the result");
  // Enough blocks for the largest GPU when k is long enough to share; a function of the geometry alone.
  constexpr std::int64_t kWanted = 264, kShortest = 256;
  Split s;
  s.parts = tiles * p.batch >= kWanted ? 1 : kWanted / (tiles * p.batch);
  if (s.parts > p.k / kShortest) s.parts = p.k / kShortest;
  s.parts = s.parts < 1 ? 1 : (s.parts > 64 ? 64 : s.parts);
  s.length = (p.k + s.parts - 1) / s.parts;
  s.length = (s.length + bk - 1) / bk * bk;
  s.parts = p.k == 0 ? 1 : (p.k + s.length - 1) / s.length;
  s.grid = dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(s.parts),
                static_cast<unsigned>(p.batch < 65535 ? p.batch : 65535));
  return s;
}

// Whether the kernel that multiplies also stores the results of an undivided product.
template <class P>
bool stores_in_tile(const P& p) {
  if constexpr (requires { p.stores_in_tile(); })
    return p.stores_in_tile();
  else
    return true;
}

template <class P>
void run_add_parts(const P& p, const typename P::Acc* partial, std::int64_t parts) {
  launch(add_parts<P>, grid_for((p.batch * p.m * p.n + kTileThreads - 1) / kTileThreads, 32), kTileThreads, 0, p,
         partial, static_cast<int>(parts));
}

// launch_tiles(split, partial) with the parts of the summed axis, and what follows where there are several, or where
// tiles do not finish their results.
template <class P, class Launch>
void run_split(const char* op, const P& p, int bm, int bn, int bk, const Launch& launch_tiles) {
  using Acc = typename P::Acc;
  const Split s = split_of(op, p, bm, bn, bk);
  if (s.parts == 1 && stores_in_tile(p)) return launch_tiles(s, static_cast<Acc*>(nullptr));
  const Scratch<Acc> partial(s.parts * p.batch * p.m * p.n);
  launch_tiles(s, partial.get());
  run_add_parts(p, partial.get(), s.parts);
}

template <int BM, int BN, int BK, int TM, int TN, class P>
void run_tiles(const char* op, const P& p) {
  run_split(op, p, BM, BN, BK, [&](const Split& s, typename P::Acc* partial) {
    launch(tile_product<P, BM, BN, BK, TM, TN>, s.grid, kTileThreads, 0, p, s.length, partial);
  });
}

// The tile that suits the shape: large ones need as many blocks as half the largest GPU has processors.
template <class P>
void run_product(const char* op, const P& p) {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  if constexpr (sizeof(typename P::Acc) == 4 && !kHasOwn<P>) {  // others have not the registers
    const std::int64_t large = ((p.m + 127) / 128) * ((p.n + 127) / 128) * p.batch;
    if (p.m > 64 && p.n > 64 && large >= 66) return run_tiles<128, 128, 16, 8, 8>(op, p);
  }
  if (p.m <= 16) return run_tiles<16, 64, 32, 2, 2>(op, p);
  if (p.n <= 16) return run_tiles<64, 16, 32, 2, 2>(op, p);
  // Doubles of deeper panels would not fit into the registers.
  run_tiles<64, 64, sizeof(typename P::Acc) == 8 ? 8 : 16, 4, 4>(op, p);
}

}  // namespace
}  // namespace pydlx::cuda
