// Peak arithmetic and bandwidth of the device, for the benchmark program.
#include "cuda/runtime/launch.h"
#include "kernels.h"
#include "kernels/probe.h"

namespace pydlx::cuda {
namespace {

constexpr int kThreads = 256, kBlocksPerProcessor = 8;
constexpr int kSums = 8, kUnroll = 64;

// Independent sums hide the latency of four cycles; each converges to one, far from overflow.
__global__ void __launch_bounds__(kThreads) fma_loop(std::int64_t rounds, float factor, float term, float* out) {
  float sum[kSums];
#pragma unroll
  for (int i = 0; i < kSums; ++i) sum[i] = static_cast<float>(i) + static_cast<float>(threadIdx.x);
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
#pragma unroll
      for (int i = 0; i < kSums; ++i) sum[i] = sum[i] * factor + term;
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) total += sum[i];
  if (total == -1.0f) *out = total;  // never: keeps the loop
}

double fma_peak(std::int64_t rounds) {
  const int blocks = multiprocessors() * kBlocksPerProcessor;
  launch(fma_loop, blocks, kThreads, 0, rounds, 0.5f, 0.5f, static_cast<float*>(nullptr));
  return 2.0 * static_cast<double>(rounds) * kUnroll * kSums * kThreads * blocks;
}

__global__ void __launch_bounds__(kThreads) read_loop(const float4* from, std::int64_t n, float* out) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  float sum = 0;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const float4 v = from[i];
    sum += v.x + v.y + v.z + v.w;
  }
  if (sum == -1.0f && out) *out = sum;
}
__global__ void __launch_bounds__(kThreads) copy_loop(float4* to, const float4* from, std::int64_t n) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step)
    to[i] = from[i];
}

// Sizes are multiples of four floats and the memory comes from the allocator: 16-byte accesses.
void read(const float* from, std::int64_t n, std::int64_t repeats) {
  for (std::int64_t r = 0; r < repeats && n >= 4; ++r)
    launch(read_loop, grid_for((n / 4 + kThreads - 1) / kThreads, 16), kThreads, 0,
           reinterpret_cast<const float4*>(from), n / 4, static_cast<float*>(nullptr));
}
void copy(float* to, const float* from, std::int64_t n, std::int64_t repeats) {
  for (std::int64_t r = 0; r < repeats && n >= 4; ++r)
    launch(copy_loop, grid_for((n / 4 + kThreads - 1) / kThreads, 16), kThreads, 0, reinterpret_cast<float4*>(to),
           reinterpret_cast<const float4*>(from), n / 4);
}

}  // namespace

void register_probe(KernelTable& t) {
  ProbeKernels& k = family<ProbeKernels>(t);
  k.fma = fma_peak;
  k.read = read;
  k.copy = copy;
}

}  // namespace pydlx::cuda
