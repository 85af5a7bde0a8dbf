// Random numbers. Kernels are functions of (seed, offset): the ops reserve counter blocks from a Generator first.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

enum class RandomOp : int {
  uniform,      // [a, b)
  normal,       // mean a, standard deviation b
  exponential,  // rate a; never 0
  geometric,    // trials until the first success of probability a
  cauchy,       // median a, scale b
  COUNT
};

struct RandomFill {
  void* out = nullptr;  // contiguous
  std::int64_t n = 0;
  std::uint64_t seed = 0, offset = 0;
  const std::uint64_t* base = nullptr;  // see PhiloxState
  double a = 0, b = 1;
  int bits = 24;                // uniform float32: resolution
  std::int64_t low = 0;         // integers: low + [0, range)
  std::uint64_t range = 0;      // 0 stands for 2^64
  const void* input = nullptr;  // bernoulli, poisson: parameters per element, or null for `a`
};

// With replacement, cumulative weights are the sum inside their chunk plus the sum of all chunks before, each in order:
// the same bits from one thread and from many.
constexpr std::int64_t kWeightChunk = 128;

struct Multinomial {
  const double* weights = nullptr;  // [rows, cols]
  std::int64_t* out = nullptr;      // [rows, samples]
  std::int64_t rows = 0, cols = 0, samples = 0;
  bool replacement = false;
  std::uint64_t seed = 0, offset = 0;
  const std::uint64_t* base = nullptr;  // see PhiloxState
  double* scratch = nullptr;            // [rows, cols]
  std::int64_t* order = nullptr;        // [rows, cols]; only without replacement
};

// y = keep ? x * scale + shift : dropped, where word i of the stream is >= threshold.
struct Dropout {
  const void* in = nullptr;
  void* out = nullptr;
  std::int64_t n = 0;
  std::uint64_t seed = 0, offset = 0;
  const std::uint64_t* base = nullptr;  // see PhiloxState
  std::uint64_t threshold = 0;          // p * 2^32
  double scale = 1, shift = 0, dropped = 0;
};

struct RandomKernels {
  void (*fill[static_cast<int>(RandomOp::COUNT)][kDTypeCount])(const RandomFill&) = {};
  void (*integers)(const RandomFill&) = nullptr;     // out: int64
  void (*permutation)(const RandomFill&) = nullptr;  // out: int64
  std::int64_t (*bernoulli[kDTypeCount])(
      const RandomFill&) = {};  // out: bool; returns the first probability outside [0, 1], or -1
  std::int64_t (*poisson[kDTypeCount])(const RandomFill&) = {};  // returns the first bad rate, or -1
  // -1: fine; >= 0: flat position of a negative or non-finite weight; -2 - r: row r has too few positive weights.
  std::int64_t (*multinomial)(const Multinomial&) = nullptr;
  void (*dropout[kDTypeCount])(const Dropout&) = {};
};

}  // namespace pydlx
