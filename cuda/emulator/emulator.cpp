// The runtime on the host: device memory, launches, and what there is to ask about devices.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/emulator/scheduler.h"
#include "cuda/emulator/streams.h"

namespace {

constexpr std::size_t kSharedUnasked = 48 << 10;

using emulator::Access, emulator::error, emulator::kMaxThreads, emulator::kMemory, emulator::kSharedLimit,
    emulator::memory, emulator::run_or_record;

// One, or PYDLX_EMULATED_DEVICES, for tests of what has to happen on a certain one. All share one memory.
int devices() {
  static const int count = [] {
    const char* v = std::getenv("PYDLX_EMULATED_DEVICES");
    return v ? std::max(1, std::atoi(v)) : 1;
  }();
  return count;
}
// Few, so that grids stride and share; PYDLX_EMULATED_MULTIPROCESSORS changes it, for tests of what must not depend on
// it.
unsigned multiprocessors() {
  static const unsigned count = [] {
    const char* v = std::getenv("PYDLX_EMULATED_MULTIPROCESSORS");
    const int n = v ? std::atoi(v) : 0;
    return n > 0 ? static_cast<unsigned>(n) : 4u;
  }();
  return count;
}

// Dynamic shared memory of a block in bytes: kSharedLimit, or PYDLX_EMULATED_SHARED KiB, for tests of what smaller GPUs
// do (99 for compute capabilities 8.6 and 8.9, 163 for 8.0).
std::size_t shared_limit() {
  static const std::size_t limit = [] {
    const char* v = std::getenv("PYDLX_EMULATED_SHARED");
    return v ? std::min(kSharedLimit, static_cast<std::size_t>(std::atoi(v)) << 10) : kSharedLimit;
  }();
  return limit;
}
std::map<std::pair<int, const void*>, std::size_t> g_allowed;  // by device and kernel

}  // namespace

namespace emulator {

namespace {
cudaError_t check_launch(dim3 grid, dim3 block, std::size_t shared_bytes) {
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return error(cudaErrorInvalidConfiguration);
  return shared_bytes > shared_limit() ? error(cudaErrorInvalidValue) : cudaSuccess;
}
}  // namespace

cudaError_t permitted(const void* kernel, std::size_t shared_bytes) {
  if (shared_bytes <= kSharedUnasked) return cudaSuccess;
  const std::lock_guard<std::recursive_mutex> lock(emulator::mutex);
  const auto it = g_allowed.find({emulator::current_device, kernel});
  return it != g_allowed.end() && shared_bytes <= it->second ? cudaSuccess : error(cudaErrorInvalidValue);
}

cudaError_t launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel) {
  if (emulator::foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  if (emulator::idle()) return cudaSuccess;
  return run_or_record(stream, [=, kernel = std::move(kernel)] { run_grid(grid, block, 1, shared_bytes, kernel); });
}

cudaError_t launch_clusters(dim3 grid, dim3 block, dim3 cluster, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel) {
  if (emulator::foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  if (cluster.x < 1 || cluster.x > kMostCluster || cluster.y != 1 || cluster.z != 1 || grid.x % cluster.x != 0)
    return error(cudaErrorInvalidClusterSize);
  if (emulator::idle()) return cudaSuccess;
  return run_or_record(stream,
                       [=, kernel = std::move(kernel)] { run_grid(grid, block, cluster.x, shared_bytes, kernel); });
}

cudaError_t launch_together(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel) {
  if (emulator::foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  int each = 0;
  emulated_occupancy(&each, static_cast<int>(block.x * block.y * block.z), shared_bytes);
  if (std::size_t{grid.x} * grid.y * grid.z > static_cast<std::size_t>(each) * multiprocessors())
    return error(cudaErrorCooperativeLaunchTooLarge);
  if (emulator::idle()) return cudaSuccess;
  return run_or_record(stream,
                       [=, kernel = std::move(kernel)] { run_grid_together(grid, block, shared_bytes, kernel); });
}

}  // namespace emulator

// ---- host interface -------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    default:
      return "cudaErrorInvalidValue";
  }
}
const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error, cudaSuccess); }
cudaError_t cudaGetDeviceCount(int* n) {
  *n = devices();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* d) {
  *d = emulator::current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
  if (d < 0 || d >= devices()) return error(cudaErrorInvalidDevice);
  emulator::current_device = d;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "CUDA emulator");
  p->major = 9;
  p->multiProcessorCount = static_cast<int>(multiprocessors());
  p->warpSize = 32;
  p->maxThreadsPerBlock = kMaxThreads;
  p->l2CacheSize = 1 << 20;
  p->totalGlobalMem = kMemory;
  p->sharedMemPerBlockOptin = shared_limit();
  return cudaSuccess;
}
cudaError_t emulated_occupancy(int* blocks, int threads, std::size_t shared_bytes) {
  constexpr std::size_t kThreads = 2048, kReserved = 1 << 10;
  const std::size_t shared = shared_limit() + kReserved;  // of a multiprocessor
  *blocks =
      static_cast<int>(std::min(kThreads / static_cast<std::size_t>(threads), shared / (shared_bytes + kReserved)));
  return cudaSuccess;
}
// PYDLX_EMULATED_CLUSTERS=0: none fits, for tests of what happens then.
cudaError_t emulated_clusters(int* clusters, const cudaLaunchConfig_t& c) {
  const char* v = std::getenv("PYDLX_EMULATED_CLUSTERS");
  int each = 0;
  emulated_occupancy(&each, static_cast<int>(c.block.x), c.dynamicSmemBytes);
  const unsigned blocks = static_cast<unsigned>(each) * multiprocessors();
  *clusters = v && std::atoi(v) == 0 ? 0 : static_cast<int>(blocks / c.attrs->val.clusterDim.x);
  return cudaSuccess;
}
cudaError_t emulated_allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<std::size_t>(bytes) > shared_limit()) return error(cudaErrorInvalidValue);
  const std::lock_guard<std::recursive_mutex> lock(emulator::mutex);
  g_allowed[{emulator::current_device, kernel}] = static_cast<std::size_t>(bytes);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const Access access;
  *free = memory().unused();
  *total = kMemory;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** p, std::size_t n) {
  const Access access;
  *p = memory().allocate(n);
  return *p ? cudaSuccess : error(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
  emulator::run_all();  // the driver waits for all work
  const Access access;
  return !p || memory().release(p) ? cudaSuccess : error(cudaErrorInvalidValue);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  a->type = memory().owns(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
