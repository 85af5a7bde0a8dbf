// What all four ladders stand on: a vector of floats, scratch memory that stays, and the table of steps that the driver
// reads. Sizes must be multiples of the tiles; a library handles the rest, a lesson need not.
#pragma once
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

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

// e^x for x <= 0, in every lane; 0 below -87. With n = round(x / ln 2), e^x = 2^n e^r and |r| <= ln 2 / 2, where six
// terms of the series reach the last bit. Adding 1.5 x 2^23 rounds x / ln 2 to an integer in the low bits of the float;
// ln 2 is subtracted in two parts so that r keeps its digits (Cody and Waite 1980); 2^n is made by writing n into the
// exponent. No table, no branch, no call: about twenty instructions for all lanes.
inline V exponential(V x) {
  typedef int Index __attribute__((vector_size(4 * kLanes)));
  const V low = splat(-87.0f), magic = splat(12582912.0f);
  const V c = x < low ? low : x;
  const V rounded = c * 1.44269504f + magic, n = rounded - magic;
  const V r = (c - n * 0x1.62E400p-1f) - n * 0x1.7F7D1Cp-20f;
  V p = splat(1.0f / 720);
  for (const float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + term;
  const Index power = ((Index)rounded - (Index)magic + 127) << 23;
  return x < low ? V{} : p * (V)power;
}

// A square of kLanes vectors changes rows and columns: halves of width H trade places, then the halves of the halves.
template <int H, int... l>
inline void trade_halves(V* square, std::integer_sequence<int, l...> lanes) {
  typedef int Index __attribute__((vector_size(4 * kLanes)));
  constexpr Index low{(l & H ? kLanes + l - H : l)...}, high{(l & H ? kLanes + l : l + H)...};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i)
    if (!(i & H)) {
      const V a = square[i], b = square[i + H];
      square[i] = __builtin_shuffle(a, b, low);
      square[i + H] = __builtin_shuffle(a, b, high);
    }
  if constexpr (H > 1) trade_halves<H / 2>(square, lanes);
}
inline void transpose(V* square) { trade_halves<kLanes / 2>(square, std::make_integer_sequence<int, kLanes>{}); }

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

// A strip of C, NV vectors wide and m rows high, against the same columns of B: tiles of R rows, then one of the rest.
template <bool kAdd, int NV = kTileVectors, int R = kTileRows>
inline void strip(Int m, Int k, const float* a, Int a_row, Int a_col, const float* b, Int b_row, float* c, Int c_row) {
  for (; m >= R; m -= R) {
    tile<R, NV, kAdd>(k, a, a_row, a_col, b, b_row, c, c_row);
    a += R * a_row;
    c += R * c_row;
  }
  if constexpr (R > 1)
    if (m > 0) strip<kAdd, NV, R - 1>(m, k, a, a_row, a_col, b, b_row, c, c_row);
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
