// Peak arithmetic and bandwidth with the widest vectors of this instruction set.
#include "kernels/probe.h"

#include "cpu/gemm/vec.h"
#include "cpu/isa.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Two units of four or five cycles' latency need ten independent sums; twelve and two operands fit 16 registers.
constexpr int kSums = 12;
constexpr int kUnroll = 64;  // multiply-adds per sum and round, so that the loop itself costs nothing
constexpr int kStreams = 8;  // vectors in flight: enough loads to cover the latency of the second-level cache

double fma_peak(std::int64_t rounds) {
  const int threads = num_threads();
  parallel_for(threads, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      Vector<float> sum[kSums];
      for (int i = 0; i < kSums; ++i) sum[i] = splat(1.0f + static_cast<float>(i));
      // Each sum converges to one, far from overflow and denormals; the compiler may know neither factor nor term.
      Vector<float> factor = splat(0.5f), term = splat(0.5f);
      asm volatile("" : "+m"(factor), "+m"(term));
      for (std::int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 64
        for (int u = 0; u < kUnroll; ++u)
#pragma GCC unroll 12
          for (int i = 0; i < kSums; ++i) sum[i] = sum[i] * factor + term;
      for (int i = 0; i < kSums; ++i) asm volatile("" : : "m"(sum[i]));
    }
  });
  return 2.0 * static_cast<double>(rounds) * kUnroll * kSums * kLanesOf<float> * threads;
}

constexpr std::int64_t kStep = kStreams * kLanesOf<float>;

void read(const float* from, std::int64_t n, std::int64_t repeats) {
  const std::int64_t steps = n / kStep, grain = (steps + num_threads() - 1) / num_threads();
  parallel_for(steps, grain, [&](std::int64_t begin, std::int64_t end) {
    Vector<float> sum[kStreams] = {};
    for (std::int64_t r = 0; r < repeats; ++r)
      for (const float *p = from + begin * kStep, *stop = from + end * kStep; p < stop; p += kStep)
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) sum[s] += load(p + s * kLanesOf<float>);
    for (int s = 0; s < kStreams; ++s) asm volatile("" : : "m"(sum[s]));
  });
}

void copy(float* to, const float* from, std::int64_t n, std::int64_t repeats) {
  const std::int64_t steps = n / kStep, grain = (steps + num_threads() - 1) / num_threads();
  parallel_for(steps, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = 0; r < repeats; ++r)
      for (std::int64_t i = begin * kStep; i < end * kStep; i += kStep)
#pragma GCC unroll 8
        for (int s = 0; s < kStreams; ++s) store(to + i + s * kLanesOf<float>, load(from + i + s * kLanesOf<float>));
  });
}

}  // namespace

void register_probe(KernelTable& t) {
  ProbeKernels& k = family<ProbeKernels>(t);
  k.fma = fma_peak;
  k.read = read;
  k.copy = copy;
}

}  // namespace pydlx::PYDLX_ISA
