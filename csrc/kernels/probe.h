// What the machine can do at most, measured with loops that do nothing else: the limits of the benchmark program.
#pragma once
#include <cstdint>

namespace pydlx {

struct ProbeKernels {
  // `rounds` times a block of independent float32 fused multiply-adds on every thread; returns the operations done.
  double (*fma)(std::int64_t rounds) = nullptr;
  // Each thread passes `repeats` times over its own part of n floats: adds them up, or copies them to `to`.
  void (*read)(const float* from, std::int64_t n, std::int64_t repeats) = nullptr;
  void (*copy)(float* to, const float* from, std::int64_t n, std::int64_t repeats) = nullptr;
};

}  // namespace pydlx
