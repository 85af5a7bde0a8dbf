// Barriers in shared memory that count arrivals of threads and bytes of the copy engine (PTX: mbarrier; sm_90).
//
// A barrier goes through phases 0, 1, 2, ... A phase is over when the arrivals and the bytes that it expects have all
// come; then the next one begins and expects the same number of arrivals, and no bytes. Waiting names the parity of a
// phase: wait(b, 0) on a new barrier waits for its first phase, wait(b, 1) returns at once, as if an odd phase before
// the first were over.
#pragma once
#include <cstdint>

#include "core/half.h"
#include "cuda/runtime/patience.cuh"
#if defined(PYDLX_CUDA_EMULATED)
#include "cuda/emulator/hopper.h"
#endif

namespace pydlx::cuda {
namespace {

struct alignas(8) Barrier {
  std::uint64_t state;  // opaque
};

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
#if defined(PYDLX_CUDA_EMULATED)
  return emulator::shared_address(p);
#else
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
#endif
}

__device__ __forceinline__ void init_barrier(Barrier* b, int arrivals) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::mbarrier_init(shared_address(b), static_cast<std::uint32_t>(arrivals));
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
#endif
}
// Shows what this thread has written to shared memory to the copy engine and to products of warpgroups.
__device__ __forceinline__ void show_to_engines() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::show_to_engines();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Shows the new barriers to the copy engine; the block's threads see them after a __syncthreads() as well.
__device__ __forceinline__ void publish_barriers() {
#if !defined(PYDLX_CUDA_EMULATED)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
  show_to_engines();
}

__device__ __forceinline__ void arrive(Barrier* b) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::mbarrier_arrive(shared_address(b), 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
#endif
}
// The same place in another block of the cluster, and an arrival at a barrier there: of threads that have read what the
// engine brought, and have written nothing that the waiting ones read. Release in the scope of the cluster would wait
// for all of the thread's memory (MEMBAR.GPU) at every panel.
__device__ __forceinline__ std::uint32_t address_in_block(const void* p, std::uint32_t rank) {
#if defined(PYDLX_CUDA_EMULATED)
  return emulator::cluster_address(shared_address(p), rank);
#else
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(shared_address(p)), "r"(rank));
  return there;
#endif
}
__device__ __forceinline__ void arrive_there(std::uint32_t barrier) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::mbarrier_arrive(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}
// All threads of the cluster meet. A block must not use another one's shared memory before that has begun, nor end
// before the others have done with its own: `last` waits for what they have started there, too, such as arrivals.
// Otherwise it shows nothing that threads have written but barriers (publish_barriers).
template <bool last>
__device__ __forceinline__ void meet_cluster() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::cluster_barrier();
#else
  __syncwarp();
  if constexpr (last)
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  else
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
// Arrives, and lets the present phase expect that many bytes more.
__device__ __forceinline__ void arrive_expecting(Barrier* b, int bytes) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::mbarrier_arrive(shared_address(b), static_cast<std::uint32_t>(bytes));
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
#endif
}

#if !defined(PYDLX_CUDA_EMULATED)
__device__ __forceinline__ bool is_over(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t over;
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
      "selp.u32 %0, 1, 0, over;\n"
      "}"
      : "=r"(over)
      : "r"(barrier), "r"(parity)
      : "memory");
  return over;
}
#endif
// Waits until the phase of that parity is over.
__device__ __forceinline__ void wait(const Barrier* b, std::uint32_t parity) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::mbarrier_wait(shared_address(b), parity);
#else
  const std::uint32_t at = shared_address(b);
  if (is_over(at, parity)) return;
  for (const Patience patience; !is_over(at, parity);) patience.wear();
#endif
}

}  // namespace
}  // namespace pydlx::cuda
