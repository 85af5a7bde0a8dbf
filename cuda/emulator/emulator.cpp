// The runtime on the host: device memory, launches, streams, events and graphs.
#include <cuda_runtime.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/emulator/memory.h"
#include "cuda/emulator/scheduler.h"

struct EmulatedGraph {
  std::vector<std::function<void()>> work;
};
struct EmulatedStream {
  EmulatedGraph* capture = nullptr;
  int device = 0;
};
struct EmulatedEvent {
  int device = 0;
  double ms = 0;
  bool recorded = false, captured = false;  // captured: of a graph, nothing to ask
};

namespace {

constexpr std::size_t kSharedUnasked = 48 << 10;

using emulator::kMaxThreads, emulator::kMemory, emulator::kSharedLimit, emulator::Memory;

// ---- device memory --------------------------------------------------------------------------------------------------

std::recursive_mutex g_mutex;
thread_local cudaError_t t_error = cudaSuccess;
thread_local int t_device = 0;
Memory& memory() {
  static auto* m = new Memory;
  return *m;
}
// Access to device memory while it lives. A thread that has never been here starts without access.
struct Access {
  const std::lock_guard<std::recursive_mutex> lock{g_mutex};
  Access() { memory().unlock(); }
  ~Access() { memory().lock(); }
};

cudaError_t error(cudaError_t e) {
  if (e != cudaSuccess) t_error = e;
  return e;
}

// One, or PYDLX_EMULATED_DEVICES, for tests of what has to happen on a certain one. All share one memory.
int devices() {
  static const int count = [] {
    const char* v = std::getenv("PYDLX_EMULATED_DEVICES");
    return v ? std::max(1, std::atoi(v)) : 1;
  }();
  return count;
}
// Work goes to a stream of the current device only, though copies go to any.
bool foreign(cudaStream_t stream) { return stream && stream->device != t_device; }

// PYDLX_EMULATED_IDLE=1: kernels are accepted and not run, so that what is left of a program's time is the host's.
bool idle() {
  static const bool on = [] {
    const char* v = std::getenv("PYDLX_EMULATED_IDLE");
    return v && std::atoi(v) != 0;
  }();
  return on;
}

cudaError_t run_or_record(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->capture) {
    stream->capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  const Access access;
  work();
  return cudaSuccess;
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

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

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
  const std::lock_guard<std::recursive_mutex> lock(g_mutex);
  const auto it = g_allowed.find({t_device, kernel});
  return it != g_allowed.end() && shared_bytes <= it->second ? cudaSuccess : error(cudaErrorInvalidValue);
}

cudaError_t launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel) {
  if (foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  if (idle()) return cudaSuccess;
  return run_or_record(stream, [=, kernel = std::move(kernel)] { run_grid(grid, block, 1, shared_bytes, kernel); });
}

cudaError_t launch_clusters(dim3 grid, dim3 block, dim3 cluster, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel) {
  if (foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  if (cluster.x < 1 || cluster.x > kMostCluster || cluster.y != 1 || cluster.z != 1 || grid.x % cluster.x != 0)
    return error(cudaErrorInvalidClusterSize);
  if (idle()) return cudaSuccess;
  return run_or_record(stream,
                       [=, kernel = std::move(kernel)] { run_grid(grid, block, cluster.x, shared_bytes, kernel); });
}

cudaError_t launch_together(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel) {
  if (foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  int each = 0;
  emulated_occupancy(&each, static_cast<int>(block.x * block.y * block.z), shared_bytes);
  if (std::size_t{grid.x} * grid.y * grid.z > static_cast<std::size_t>(each) * multiprocessors())
    return error(cudaErrorCooperativeLaunchTooLarge);
  if (idle()) return cudaSuccess;
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
cudaError_t cudaGetLastError() { return std::exchange(t_error, cudaSuccess); }
cudaError_t cudaGetDeviceCount(int* n) {
  *n = devices();
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* d) {
  *d = t_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
  if (d < 0 || d >= devices()) return error(cudaErrorInvalidDevice);
  t_device = d;
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
  const std::lock_guard<std::recursive_mutex> lock(g_mutex);
  g_allowed[{t_device, kernel}] = static_cast<std::size_t>(bytes);
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
  const Access access;
  return !p || memory().release(p) ? cudaSuccess : error(cudaErrorInvalidValue);
}
cudaError_t cudaHostAlloc(void** p, std::size_t n, unsigned) {
  *p = std::aligned_alloc(64, (n + 63) / 64 * 64);
  return *p ? cudaSuccess : error(cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void* p) {
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  a->type = memory().owns(p) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n, cudaMemcpyKind, cudaStream_t stream) {
  return run_or_record(stream, [=] { std::memcpy(to, from, n); });
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t n, cudaStream_t stream) {
  return idle() ? cudaSuccess : run_or_record(stream, [=] { std::memset(p, value, n); });
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) {
  *s = new EmulatedStream{nullptr, t_device};
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  return s && s->capture ? error(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (!s || s->capture) return error(cudaErrorStreamCaptureUnsupported);
  s->capture = new EmulatedGraph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  if (!s || !s->capture) return error(cudaErrorInvalidResourceHandle);
  *g = std::exchange(s->capture, nullptr);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* status) {
  *status = s && s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long) {
  *e = new EmulatedGraph(*g);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t stream) {
  return run_or_record(stream, [e] {
    for (const auto& work : e->work) work();
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new EmulatedEvent{t_device};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
  if (e->device != (stream ? stream->device : t_device)) return error(cudaErrorInvalidResourceHandle);
  e->captured = stream && stream->capture;
  return run_or_record(stream, [e] {
    e->ms = now_ms();
    e->recorded = true;
  });
}
cudaError_t cudaEventQuery(cudaEvent_t e) { return e->captured ? error(cudaErrorInvalidValue) : cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (!a->recorded || !b->recorded) return error(cudaErrorInvalidResourceHandle);
  *ms = static_cast<float>(b->ms - a->ms);
  return cudaSuccess;
}
