// What all four ladders stand on: a vector of floats, scratch memory that stays, and the table of steps that the driver
// reads. Sizes must be multiples of the tiles; a library handles the rest, a lesson need not.
#pragma once
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

using Int = std::int64_t;

// One register full of floats, by GCC's vector extension: + - * work lane by lane, and a * b + c becomes one fused
// multiply-add. `Loose` is the same in memory, at any address.
#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float V __attribute__((vector_size(4 * kLanes)));
typedef float Loose __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

inline V load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<Loose*>(p) = v; }
inline V splat(float x) { return x - V{}; }

// The tile that the ladders agree on (gemm.cpp explains why): 6 rows by 4 vectors are 24 sums where there are 32
// registers, 6 by 2 are 12 where there are 16.
constexpr int kTileRows = 6, kTileVectors = kLanes == 16 ? 4 : 2, kTileColumns = kTileVectors * kLanes;

// C (+)= A B for one tile of C, R rows by NV vectors, in registers while p runs over K. A is broadcast element by
// element, with any strides; B is read as whole vectors along its rows.
template <int R, int NV, bool kAdd>
inline void tile(Int k, const float* a, Int a_row, Int a_col, const float* b, Int b_row, float* c, Int c_row) {
  V sum[R][NV];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) sum[i][j] = kAdd ? load(c + i * c_row + j * kLanes) : V{};
  for (Int p = 0; p < k; ++p) {
    V row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = load(b + p * b_row + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const V x = splat(a[i * a_row + p * a_col]);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) sum[i][j] += x * row[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store(c + i * c_row + j * kLanes, sum[i][j]);
}

// A strip of C, one tile wide and m rows high, against the same columns of B.
template <bool kAdd, int NV = kTileVectors>
inline void strip(Int m, Int k, const float* a, Int a_row, Int a_col, const float* b, Int b_row, float* c, Int c_row) {
  Int i = 0;
  for (; i + kTileRows <= m; i += kTileRows)
    tile<kTileRows, NV, kAdd>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row);
  a += i * a_row;
  c += i * c_row;
  switch (m - i) {
    case 1:
      return tile<1, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
    case 2:
      return tile<2, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
    case 3:
      return tile<3, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
    case 4:
      return tile<4, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
    case 5:
      return tile<5, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
  }
}

// Memory for intermediate results, one block per thread and number, kept from call to call: a fresh megabyte from the
// system costs 256 page faults, more than many a kernel takes to fill it.
template <int kNumber>
float* scratch(Int floats) {
  struct Block {
    float* p = nullptr;
    Int floats = 0;
    ~Block() { std::free(p); }
  };
  static thread_local Block block;
  if (block.floats < floats) {
    std::free(block.p);
    block.p = static_cast<float*>(std::aligned_alloc(64, static_cast<std::size_t>(floats + 63) / 16 * 64));
    if (!block.p) std::abort();
    block.floats = floats;
  }
  return block.p;
}

// A step of a ladder, as the driver finds it.
struct Step {
  const char* name;
  const char* idea;
  void* run;
  int threads;  // 1, or 0 for as many as set_threads says
};
#define STEP(name, idea, function, threads) {name, idea, reinterpret_cast<void*>(function), threads}

extern "C" {
extern const int lanes = kLanes;
void set_threads(int n) { omp_set_num_threads(n); }
}
