// Launching kernels on the current stream, and what kernels share: grid sizes, dynamic shared memory.
#pragma once
#include <atomic>
#include <cstdint>
#include <utility>

#include "cuda/runtime/stream.h"
#include "cuda/runtime/trace.h"

namespace pydlx::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kFullMask = 0xffffffffu;

int current_device();
// Multiprocessors of the current device, and its compute capability: 90 for 9.0.
int multiprocessors();
int compute_capability();
// Bytes of shared memory that a block can have there.
std::size_t shared_memory_limit();

inline unsigned ceil_div(std::int64_t a, std::int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

// Blocks for a loop over `work` blocks' worth of work: as many as needed, or enough to fill the device several times,
// each of which then strides over the rest.
inline unsigned grid_for(std::int64_t work, int waves = 8) {
  const std::int64_t most = static_cast<std::int64_t>(multiprocessors()) * waves;
  return static_cast<unsigned>(work < 1 ? 1 : (work < most ? work : most));
}

#if defined(__CUDACC__) || defined(PYDLX_CUDA_EMULATED)
// kernel<<<grid, block, shared>>>(args...) on the current stream. More than 48 KiB of shared memory must have been
// allowed with allow_shared().
template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, A&&... args) {
  if (trace_on) [[unlikely]]
    trace_kernel(reinterpret_cast<const void*>(kernel), grid, block, shared);
#if defined(PYDLX_CUDA_EMULATED)
  check(emulator::permitted(reinterpret_cast<const void*>(kernel), shared), "kernel launch");
  check(emulator::launch(grid, block, shared, current_stream().handle, [=] { kernel(static_cast<P>(args)...); }),
        "kernel launch");
#else
  kernel<<<grid, block, shared, current_stream().handle>>>(static_cast<P>(args)...);
  check(cudaGetLastError(), "kernel launch");
#endif
}

// How to launch neighbouring blocks in clusters on the current stream (sm_90).
struct LaunchInClusters {
  LaunchInClusters(unsigned cluster, unsigned grid, unsigned block, std::size_t shared)
      : config{grid, block, shared, current_stream().handle, &attribute, 1} {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {cluster, 1, 1};
  }
  LaunchInClusters(const LaunchInClusters&) = delete;
  cudaLaunchAttribute attribute = {};
  cudaLaunchConfig_t config;
};

// Allows `kernel` that many bytes of dynamic shared memory, once per device.
template <auto kernel>
void allow_shared(std::size_t bytes) {
  static std::atomic<std::size_t> allowed[kMaxDevices];
  std::atomic<std::size_t>& here = allowed[current_device()];
  if (here.load(std::memory_order_relaxed) >= bytes) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  here.store(bytes, std::memory_order_relaxed);
}

// The block's dynamic shared memory.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
#if defined(PYDLX_CUDA_EMULATED)
  return static_cast<T*>(emulator::shared_memory());
#else
  extern __shared__ __align__(1024) unsigned char pydlx_dynamic_shared[];
  return reinterpret_cast<T*>(pydlx_dynamic_shared);
#endif
}
#endif

}  // namespace pydlx::cuda
