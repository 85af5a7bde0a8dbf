// Matrix product, from three loops to the peak of the multiply-add units.
//
//   C = A B      A: m x k, B: k x n, C: m x n, rows contiguous, float32
//
// 2 m n k operations on m k + k n + m n numbers: with n = 512 every number is used a thousand times. A kernel that
// takes each use from a register is limited by arithmetic, one that takes it from memory by memory. All steps below do
// the same multiplications; they differ in where the operands come from, and in how many are under way at once.
#include "ladder.h"

namespace {

// 1. The definition. Each element is a chain of fused multiply-adds, each of which waits for the sum before it: 4
// cycles of latency for 2 operations, where the core could start two vector instructions in every single cycle. The
// compiler may not break the chain, because float additions in another order round differently. And B is read down a
// column: one number of each 64-byte cache line.
void dot(Int m, Int n, Int k, const float* a, const float* b, float* c) {
  for (Int i = 0; i < m; ++i)
    for (Int j = 0; j < n; ++j) {
      float sum = 0;
      for (Int p = 0; p < k; ++p) sum += a[i * k + p] * b[p * n + j];
      c[i * n + j] = sum;
    }
}

// 2. The two inner loops change places. Now the inner loop runs along rows of B and C, neighbouring elements are
// independent sums, and the compiler vectorises it without being told. What is left: each multiply-add loads a vector
// of B, loads one of C and stores it again, and the core has one store per cycle where it has two multiply-adds.
void row_order(Int m, Int n, Int k, const float* a, const float* b, float* __restrict c) {
  std::memset(c, 0, static_cast<std::size_t>(m * n) * sizeof(float));
  for (Int i = 0; i < m; ++i)
    for (Int p = 0; p < k; ++p) {
      const float x = a[i * k + p];
      for (Int j = 0; j < n; ++j) c[i * n + j] += x * b[p * n + j];
    }
}

// 3. C stays in registers: a tile of 4 rows by one vector is summed up over the whole of k and stored once. Each vector
// of B serves four multiply-adds, each number of A as many as the vector has lanes. But four sums are four chains: with
// a latency of 4 cycles that is one multiply-add per cycle, half of what the two units can do.
void small_tile(Int m, Int n, Int k, const float* a, const float* b, float* c) {
  for (Int i = 0; i < m; i += 4)
    for (Int j = 0; j < n; j += kLanes) {
      V sum0{}, sum1{}, sum2{}, sum3{};
      for (Int p = 0; p < k; ++p) {
        const V row = load(b + p * n + j);
        sum0 += a[(i + 0) * k + p] * row;
        sum1 += a[(i + 1) * k + p] * row;
        sum2 += a[(i + 2) * k + p] * row;
        sum3 += a[(i + 3) * k + p] * row;
      }
      store(c + (i + 0) * n + j, sum0);
      store(c + (i + 1) * n + j, sum1);
      store(c + (i + 2) * n + j, sum2);
      store(c + (i + 3) * n + j, sum3);
    }
}

// 4. A tile that fills the register file. At least latency x units = 8 sums must be under way; more of them also make
// loads rarer: 6 x 4 vectors need 4 loads of B and 6 broadcasts of A for 24 multiply-adds, where 4 x 1 needs 5 loads
// for
// 4. 24 sums, 4 vectors of B and a broadcast fit into AVX-512's 32 registers; where there are 16, the tile is 6 x 2.
// (`strip` in ladder.h goes down the rows of C tile by tile, and finishes with a lower tile.)
void full_tile(Int m, Int n, Int k, const float* a, const float* b, float* c) {
  for (Int j = 0; j < n; j += kTileColumns) strip<false>(m, k, a, k, 1, b + j, n, c + j, n);
}

// Block sizes for the second-level cache (1 MB): kDepth x kColumns of B take 512 KB of it, kRows x kDepth of A 192 KB.
constexpr Int kDepth = 512, kColumns = 256, kRows = 96;

Int lesser(Int x, Int y) { return x < y ? x : y; }

// 5. Cache blocks. Step 4 reads B once for every six rows of A, from wherever it lives: with n = 512 that is the second
// level, but 2048 columns of 2048 numbers are 16 MB, and strips of them fall out of the second level, too. Here B is
// cut into blocks that stay there while all rows of A pass by; in return, C is loaded and stored once per block. The
// first level needs no blocks of its own: a tile uses 280 bytes per 12 cycles, which the second level can deliver while
// the prefetcher runs ahead. The tile's height bought that: 4 x 1 would need 80 bytes in 4.
void blocked(Int m, Int n, Int k, const float* a, const float* b, float* c) {
  for (Int j0 = 0; j0 < n; j0 += kColumns)
    for (Int p0 = 0; p0 < k; p0 += kDepth)
      for (Int i = 0; i < m; i += kRows)
        for (Int j = j0; j < lesser(n, j0 + kColumns); j += kTileColumns) {
          const Int rows = lesser(kRows, m - i), depth = lesser(kDepth, k - p0);
          const float *x = a + i * k + p0, *y = b + p0 * n + j;
          float* z = c + i * n + j;
          p0 == 0 ? strip<false>(rows, depth, x, k, 1, y, n, z, n) : strip<true>(rows, depth, x, k, 1, y, n, z, n);
        }
}

// 6. The block of B is copied strip by strip into one piece first, in the order in which it will be read, for two
// reasons. Rows that are a large power of two apart compete for the same few sets of a cache, so that less than its
// size can stay. And vectors of B are aligned afterwards, wherever B began: where it begins inside a cache line, as a
// slice of a tensor does, each vector in place lies in two lines and takes two accesses. The first costs 7 % on a Zen
// 5, the second 18 %. The copy itself is one pass over B for m rows of work: not worth it for a few rows.
void packed(Int m, Int n, Int k, const float* a, const float* b, float* c) {
  float* block = scratch<0>(kDepth * kColumns);
  for (Int j0 = 0; j0 < n; j0 += kColumns)
    for (Int p0 = 0; p0 < k; p0 += kDepth) {
      const Int columns = lesser(kColumns, n - j0), depth = lesser(kDepth, k - p0);
      for (Int j = 0; j < columns; j += kTileColumns)
        for (Int p = 0; p < depth; ++p)
          std::memcpy(block + j * depth + p * kTileColumns, b + (p0 + p) * n + j0 + j, kTileColumns * sizeof(float));
      for (Int i = 0; i < m; i += kRows)
        for (Int j = 0; j < columns; j += kTileColumns) {
          const Int rows = lesser(kRows, m - i);
          const float *x = a + i * k + p0, *y = block + j * depth;
          float* z = c + i * n + j0 + j;
          p0 == 0 ? strip<false>(rows, depth, x, k, 1, y, kTileColumns, z, n)
                  : strip<true>(rows, depth, x, k, 1, y, kTileColumns, z, n);
        }
    }
}

// 7. Every thread takes a share of the rows. Sums are never divided among threads, so the result has the same bits for
// any number of them. Each packs its own blocks: a second pass over B costs less
// than waiting for each other.
void threads(Int m, Int n, Int k, const float* a, const float* b, float* c) {
#pragma omp parallel
  {
    const Int begin = m * omp_get_thread_num() / omp_get_num_threads();
    const Int end = m * (omp_get_thread_num() + 1) / omp_get_num_threads();
    packed(end - begin, n, k, a + begin * k, b, c + begin * n);
  }
}

}  // namespace

extern "C" {
extern const Step steps[] = {
    STEP("dot", "the definition: i, j, k", dot, 1),
    STEP("row order", "i, k, j: unit stride, vectors", row_order, 1),
    STEP("small tile", "4 x 1 vectors of C in registers", small_tile, 1),
    STEP("full tile", "24 sums hide the latency", full_tile, 1),
    STEP("blocked", "blocks of B for the L2 cache", blocked, 1),
    STEP("packed", "blocks of B in one piece", packed, 1),
    STEP("threads", "rows shared out", threads, 0),
};
extern const int step_count = sizeof steps / sizeof *steps;
}
