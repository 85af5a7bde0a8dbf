// Kernels whose blocks all run at a time, and wait for each other.
#pragma once
#include <tuple>

#include "cuda/runtime/patience.cuh"
#if defined(PYDLX_CUDA_EMULATED)
#include "cuda/emulator/hopper.h"
#endif

namespace pydlx::cuda {
namespace {

// Whether `blocks` blocks of the kernel are resident at a time when the device has nothing else to do. More than 48 KiB
// of shared memory must have been allowed with allow_shared().
template <auto kernel>
bool fits_together(std::int64_t blocks, int threads, std::size_t shared) {
  int each = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&each, kernel, threads, shared),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks <= static_cast<std::int64_t>(each) * multiprocessors();
}

// launch() for such a kernel: the device starts no block before there is room for all of them. The emulator keeps one
// copy of __shared__ variables; such kernels use dynamic shared memory only.
template <class... P, class... A>
void launch_together(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, A&&... args) {
  if (trace_on) [[unlikely]]
    trace_kernel(reinterpret_cast<const void*>(kernel), grid, block, shared);
#if defined(PYDLX_CUDA_EMULATED)
  check(emulator::permitted(reinterpret_cast<const void*>(kernel), shared), "cooperative kernel launch");
  check(
      emulator::launch_together(grid, block, shared, current_stream().handle, [=] { kernel(static_cast<P>(args)...); }),
      "cooperative kernel launch");
#else
  std::tuple<std::remove_cv_t<P>...> values(static_cast<P>(args)...);
  std::apply(
      [&](auto&... value) {
        void* pointers[] = {&value...};
        check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared,
                                          current_stream().handle),
              "cooperative kernel launch");
      },
      values);
#endif
}

// ---- inside kernels -------------------------------------------------------------------------------------------------

// This block's threads have written what others wait for: one arrival at a counter that starts at zero.
__device__ __forceinline__ void arrive_at(unsigned* counter) {
  __syncthreads();
  if (threadIdx.x == 0) {
#if defined(PYDLX_CUDA_EMULATED)
    atomicAdd(counter, 1u);
#else
    asm volatile("red.release.gpu.add.u32 [%0], 1;" ::"l"(counter) : "memory");
#endif
  }
}

#if defined(PYDLX_CUDA_EMULATED)
class Arrivals final : public emulator::Condition {
 public:
  Arrivals(const unsigned* counter, unsigned due) : counter_(counter), due_(due) {}
  bool met() const override { return *counter_ >= due_; }
  const char* text() const override { return "deadlock: a block waits for others that never arrive"; }

 private:
  const unsigned* counter_;
  unsigned due_;
};
#endif

// Waits for `due` arrivals in all; what came before them can then be read by all threads of the block.
__device__ __forceinline__ void wait_for_arrivals(const unsigned* counter, unsigned due) {
  if (threadIdx.x == 0) {
#if defined(PYDLX_CUDA_EMULATED)
    const Arrivals enough(counter, due);
    if (!enough.met()) emulator::wait_for(enough);
#else
    for (const Patience patience;; patience.wear()) {
      unsigned seen;
      asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      if (seen >= due) break;
    }
#endif
  }
  __syncthreads();
}

}  // namespace
}  // namespace pydlx::cuda
