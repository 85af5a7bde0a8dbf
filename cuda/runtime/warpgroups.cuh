// Blocks that keep their place (sm_90a): two warpgroups consume what a third one brings to a ring of stages in shared
// memory. A barrier per stage says that its contents are there, another that both consumers have done with them.
#pragma once
#include "core/verbose.h"
#include "cuda/runtime/tma.cuh"
#include "cuda/runtime/wgmma.cuh"

namespace pydlx::cuda {
namespace {

[[maybe_unused]] constexpr int kConsumers = 2, kThreads = (kConsumers + 1) * kWarpgroup,
                               kConsumerWarps = kConsumers * kWarpgroup / kWarp;

// Stage and parity of a ring's next contents. With a power of two of stages one number counts both.
template <int stages>
struct Turn {
  std::uint32_t count = 0;
  __device__ __forceinline__ int stage() const { return static_cast<int>(count % stages); }
  __device__ __forceinline__ std::uint32_t parity() const { return count / stages % 2; }
  __device__ __forceinline__ void next() { ++count; }
};
template <int stages>
  requires((stages & (stages - 1)) != 0)
struct Turn<stages> {
  int at = 0;
  std::uint32_t odd = 0;
  __device__ __forceinline__ int stage() const { return at; }
  __device__ __forceinline__ std::uint32_t parity() const { return odd; }
  __device__ __forceinline__ void next() {
    if (++at < stages) return;
    at = 0;
    odd ^= 1;
  }
};

// Dynamic shared memory from where swizzles count, kSwizzlePeriod bytes at most after its beginning.
__device__ __forceinline__ unsigned char* swizzled_shared() {
  unsigned char* const shared = dynamic_shared<unsigned char>();
  return shared + (kSwizzlePeriod - shared_address(shared) % kSwizzlePeriod) % kSwizzlePeriod;
}

// The same where there is no room to move: from its beginning, which is declared so.
__device__ __forceinline__ unsigned char* aligned_shared() {
  unsigned char* const shared = dynamic_shared<unsigned char>();
#if !defined(PYDLX_CUDA_EMULATED)
  if (shared_address(shared) % kSwizzlePeriod != 0) __trap();
#endif
  return shared;
}

// One thread's init() sets the barriers up; then the third warpgroup's threads produce() and the others consume().
// A multiprocessor has 168 registers for each of the threads: most go to the sums of those who consume. Blocks of a
// cluster begin and end together.
template <int of_producer = 40, int of_consumer = 232, class Init, class Produce, class Consume>
__device__ __forceinline__ void share_work(const Init& init, const Produce& produce, const Consume& consume,
                                           bool in_cluster = false) {
  static_assert(of_producer + kConsumers * of_consumer <= (kConsumers + 1) * 168);
  if (threadIdx.x == 0) {
    init();
    publish_barriers();
  }
  in_cluster ? meet_cluster<false>() : __syncthreads();
  // The branches do not come together again: each is compiled for its own number of registers.
  if (static_cast<int>(threadIdx.x) / kWarpgroup == kConsumers) {
    fewer_registers<of_producer>();
    produce();
    if (in_cluster) meet_cluster<true>();
  } else {
    more_registers<of_consumer>();
    consume();
    if (in_cluster) meet_cluster<true>();
  }
}

// The threads of the calling consuming warpgroup meet, and see what the others have written.
__device__ __forceinline__ void meet_warpgroup() {
  const unsigned group = threadIdx.x / kWarpgroup;
#if defined(PYDLX_CUDA_EMULATED)
  emulator::named_barrier(1 + group, kWarpgroup);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(1 + group), "n"(kWarpgroup) : "memory");
#endif
}

// The numbers of a ring's barriers; `arrivals` of those that say that a stage is full, consumers in `blocks` blocks.
__device__ __forceinline__ void init_ring(Barrier* full, Barrier* empty, int stages, int arrivals, int blocks = 1) {
  for (int s = 0; s < stages; ++s) {
    init_barrier(full + s, arrivals);
    init_barrier(empty + s, kConsumerWarps * blocks);
  }
}

// ---- host -----------------------------------------------------------------------------------------------------------

// As many blocks as stay on the GPU at a time, or fewer.
template <auto kernel, class P>
void launch_staying(const P& p, std::int64_t work, std::size_t shared) {
  allow_shared<kernel>(shared);
  const std::int64_t blocks = multiprocessors();
  launch(kernel, static_cast<unsigned>(work < blocks ? work : blocks), kThreads, shared, p);
}

// How many blocks that is in clusters of `cluster`; 0 where there can be none. The question is asked once per device.
template <auto kernel, unsigned cluster>
int blocks_in_clusters(std::size_t shared) {
  static std::atomic<int> known[kMaxDevices];  // and one more
  std::atomic<int>& here = known[current_device()];
  if (const int found = here.load(std::memory_order_relaxed)) return found - 1;
  allow_shared<kernel>(shared);
  int clusters = 0;
  const LaunchInClusters config(cluster, cluster, kThreads, shared);
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.config) != cudaSuccess) {
    cudaGetLastError();
    clusters = 0;
  }
  const int blocks = clusters * static_cast<int>(cluster);
  here.store(blocks + 1, std::memory_order_relaxed);
  return blocks;
}
// `work` is a multiple of `cluster`.
template <auto kernel, unsigned cluster, class P>
void launch_staying_in_clusters(const P& p, std::int64_t work, std::size_t shared) {
  const std::int64_t blocks = blocks_in_clusters<kernel, cluster>(shared);
  const auto grid = static_cast<unsigned>(work < blocks ? work : blocks);
  if (trace_on) [[unlikely]]
    trace_kernel(reinterpret_cast<const void*>(kernel), grid, kThreads, shared);
  const LaunchInClusters config(cluster, grid, kThreads, shared);
  check(cudaLaunchKernelEx(&config.config, kernel, p), "kernel launch");
}

// Whether there is a reason against these instructions, told where calls are described.
inline bool refused(const char* why) {
  if (why && verbose_on) verbose_note("; not wgmma: %s", why);
  return why;
}
[[maybe_unused]] constexpr const char* kNoMaps = "the driver encodes no tensor maps for these operands";

}  // namespace
}  // namespace pydlx::cuda
