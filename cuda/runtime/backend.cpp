// The CUDA backend's services (core/backend.h).
#include "core/backend.h"

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "cuda/runtime/allocator.h"
#include "cuda/runtime/faults.h"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/pinned.h"
#include "cuda_families.h"  // generated: declares register_<file> for every cuda/*.cu and cuda/*/*.cu

namespace pydlx::cuda {

void fail_call(const char* call, cudaError_t e) {
  cudaGetLastError();
  fail("cuda", "", e == cudaErrorMemoryAllocation ? ErrorKind::OutOfMemory : ErrorKind::Device, call, ": ",
       cudaGetErrorString(e), " (", cudaGetErrorName(e), ")");
}

namespace {

struct Graph {
  int device = 0, pool = 0;
  cudaGraphExec_t exec = nullptr;
  std::uint64_t* draws = nullptr;  // device memory: seed and offset of the replay's first random number
  std::uint64_t drawn = 0;         // counter blocks that a replay consumes
  Stream* recorded_on = nullptr;   // whose allocations the memory goes back to
  std::set<Stream*> elsewhere;     // other streams that have replayed it
};

constexpr std::size_t kDrawsBytes = 2 * sizeof(std::uint64_t);

thread_local int t_chosen = 0;  // the thread's device

// What is queued on `later` from now on runs after what has been queued on `earlier`.
void let_wait(Stream& later, Stream& earlier) {
  const DeviceGuard guard(earlier.device);
  cudaEvent_t e = nullptr;
  check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(e, earlier.handle);
  const DeviceGuard other(later.device);
  const cudaError_t waits = recorded == cudaSuccess ? cudaStreamWaitEvent(later.handle, e, 0) : recorded;
  cudaEventDestroy(e);
  check(waits, "cudaStreamWaitEvent");
}

class CudaBackend final : public Backend {
 public:
  int device_count() noexcept override {
    init();
    return count_;
  }
  std::string why_unavailable() noexcept override {
    init();
    return why_;
  }

  DeviceProperties properties(int device) override {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
    return {p.name,
            p.major,
            p.minor,
            p.totalGlobalMem,
            p.multiProcessorCount,
            p.warpSize,
            p.maxThreadsPerBlock,
            p.sharedMemPerBlockOptin,
            static_cast<std::uint64_t>(p.l2CacheSize)};
  }
  void memory_info(int device, std::size_t& free, std::size_t& total) override {
    const DeviceGuard guard(device);
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  }

  int current_device() override { return t_chosen; }
  void set_device(int device) override {
    check(cudaSetDevice(device), "cudaSetDevice");
    t_chosen = device;
  }

  // What the runtime calls the current device is where the next kernel runs, and no choice of the thread's.
  const KernelTable& kernels(int device) override {
    if (cuda::current_device() != device) check(cudaSetDevice(device), "cudaSetDevice");  // asking costs less
    raise_faults(device);
    return table();
  }
  Allocator& allocator(int device) override { return caching(device); }
  Allocator& pinned_allocator() override { return *pinned_; }
  bool is_pinned(const void* p) noexcept override { return pinned_->owns(p); }
  Generator& generator(int device) override {
    const std::lock_guard lock(mutex_);
    auto& g = generators_[static_cast<std::size_t>(device)];
    if (!g) {
      g = std::make_unique<Generator>();
      g->device = {DeviceType::CUDA, static_cast<std::int8_t>(device)};
    }
    return *g;
  }

  void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t nbytes,
            bool non_blocking) override {
    const int device = from_device.is_cpu() ? to_device.index : from_device.index;
    const DeviceGuard guard(device);
    raise_faults(device);
    Stream& stream = cuda::current_stream(device);
    const bool between_devices = !to_device.is_cpu() && !from_device.is_cpu();
    // The other device's work of before may still use the memory, and that of later must not run ahead of the bytes.
    Stream* const other =
        between_devices && to_device.index != device ? &cuda::current_stream(to_device.index) : nullptr;
    if (other) let_wait(stream, *other);
    if (trace_on) [[unlikely]]
      trace_other(between_devices || non_blocking ? "copy" : "wait", nbytes);
    if (nbytes > 0) check(cudaMemcpyAsync(to, from, nbytes, cudaMemcpyDefault, stream.handle), "cudaMemcpyAsync");
    if (other) let_wait(*other, stream);
    if (between_devices) return;
    if (non_blocking) return pinned_->record(to_device.is_cpu() ? to : from, stream);
    check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
    raise_faults(device);
  }
  void synchronize(int device) override {
    const DeviceGuard guard(device);
    if (trace_on) [[unlikely]]
      trace_other("wait", 0);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    raise_faults(device);
  }

  StreamHandle default_stream(int device) override { return &cuda::default_stream(device); }
  StreamHandle new_stream(int device, int priority) override { return &cuda::new_stream(device, priority); }
  StreamHandle current_stream(int device) override { return &cuda::current_stream(device); }
  void set_stream(StreamHandle s) override { set_current_stream(stream(s)); }
  int stream_device(StreamHandle s) override { return stream(s).device; }
  std::uintptr_t native_stream(StreamHandle s) override { return reinterpret_cast<std::uintptr_t>(stream(s).handle); }
  // The handle of a default stream is that of the current device.
  bool stream_done(StreamHandle s) override {
    const DeviceGuard guard(stream(s).device);
    return done(cudaStreamQuery(stream(s).handle), "cudaStreamQuery");
  }
  void synchronize_stream(StreamHandle s) override {
    const DeviceGuard guard(stream(s).device);
    if (trace_on) [[unlikely]]
      trace_other("wait", 0);
    check(cudaStreamSynchronize(stream(s).handle), "cudaStreamSynchronize");
    raise_faults(stream(s).device);
  }
  void record_stream(void* memory, StreamHandle s) override {
    caching(stream(s).device).record_stream(memory, stream(s));
  }

  EventHandle new_event(bool timing, StreamHandle s) override {
    const DeviceGuard guard(stream(s).device);
    cudaEvent_t e = nullptr;
    check(cudaEventCreateWithFlags(&e, timing ? 0 : cudaEventDisableTiming), "cudaEventCreateWithFlags");
    return e;
  }
  void delete_event(EventHandle e) noexcept override { cudaEventDestroy(event(e)); }
  void record_event(EventHandle e, StreamHandle s) override {
    const DeviceGuard guard(stream(s).device);
    check(cudaEventRecord(event(e), stream(s).handle), "cudaEventRecord");
  }
  void wait_event(StreamHandle s, EventHandle e) override {
    const DeviceGuard guard(stream(s).device);
    check(cudaStreamWaitEvent(stream(s).handle, event(e), 0), "cudaStreamWaitEvent");
  }
  bool event_done(EventHandle e) override { return done(cudaEventQuery(event(e)), "cudaEventQuery"); }
  void synchronize_event(EventHandle e) override { check(cudaEventSynchronize(event(e)), "cudaEventSynchronize"); }
  double elapsed_ms(EventHandle from, EventHandle to) override {
    float ms = 0;
    check(cudaEventElapsedTime(&ms, event(from), event(to)), "cudaEventElapsedTime");
    return ms;
  }

  void begin_capture() override {
    const int device = t_chosen;
    const DeviceGuard guard(device);
    Stream& s = cuda::current_stream(device);
    require(
        s.handle != nullptr, "cuda.graph", "stream", ErrorKind::Device,
        "expected a stream other than the default one, which cannot be recorded; use cuda.graph(g) or cuda.stream(s)");
    require(!cuda::is_capturing(s), "cuda.graph", "", ErrorKind::Runtime,
            "expected a stream that is not recording yet");
    raise_faults(device);
    auto* draws = static_cast<std::uint64_t*>(caching(device).allocate(kDrawsBytes));
    const int pool = caching(device).begin_pool(s);
    const cudaError_t e = cudaStreamBeginCapture(s.handle, cudaStreamCaptureModeRelaxed);
    if (e != cudaSuccess) {
      caching(device).end_pool(s);
      caching(device).release_pool(pool);
      caching(device).deallocate(draws, kDrawsBytes);
    }
    check(e, "cudaStreamBeginCapture");
    generator(device).begin_recording(draws);
    const std::lock_guard lock(mutex_);
    recordings_[&s] = {pool, draws};
  }
  GraphHandle end_capture() override {
    const int device = t_chosen;
    const DeviceGuard guard(device);
    Stream& s = cuda::current_stream(device);
    auto g = std::make_unique<Graph>();
    g->device = device;
    g->recorded_on = &s;
    {
      const std::lock_guard lock(mutex_);
      const auto it = recordings_.find(&s);
      require(it != recordings_.end(), "cuda.graph", "", ErrorKind::Runtime, "expected a stream that is recording");
      g->pool = it->second.pool;
      g->draws = it->second.draws;
      recordings_.erase(it);
    }
    g->drawn = generator(device).end_recording();
    caching(device).end_pool(s);
    cudaGraph_t recorded = nullptr;
    cudaError_t e = cudaStreamEndCapture(s.handle, &recorded);
    if (e == cudaSuccess) {
      e = cudaGraphInstantiate(&g->exec, recorded, 0);
      cudaGraphDestroy(recorded);
    }
    if (e != cudaSuccess) {
      caching(device).release_pool(g->pool);
      caching(device).deallocate(g->draws, kDrawsBytes);
    }
    check(e, "recording a graph");
    return g.release();
  }
  bool is_capturing() override { return cuda::is_capturing(cuda::current_stream(t_chosen)); }
  void replay(GraphHandle h) override {
    Graph& g = *static_cast<Graph*>(h);
    const DeviceGuard guard(g.device);
    raise_faults(g.device);
    Stream& current = cuda::current_stream(g.device);
    const cudaStream_t stream = current.handle;
    if (&current != g.recorded_on) {
      const std::lock_guard lock(mutex_);
      g.elsewhere.insert(&current);
    }
    if (g.drawn > 0) {  // random numbers go on where the generator stands, as if the work ran anew
      const PhiloxState state = generator(g.device).reserve(g.drawn);
      const std::uint64_t start[2] = {state.seed, state.offset};
      check(cudaMemcpyAsync(g.draws, start, sizeof start, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
    }
    if (trace_on) [[unlikely]]
      trace_other("graph", 0);
    check(cudaGraphLaunch(g.exec, stream), "cudaGraphLaunch");
  }
  void delete_graph(GraphHandle h) noexcept override {
    const std::unique_ptr<Graph> g(static_cast<Graph*>(h));
    cudaGraphExecDestroy(g->exec);
    if (!replays_precede(*g)) return;
    caching(g->device).release_pool(g->pool);
    caching(g->device).deallocate(g->draws, kDrawsBytes);
  }

 private:
  // Replays that other streams still run use the graph's memory: what its own stream does with it next comes after
  // them. False where that cannot be arranged because one of the streams is recording; the memory is never used again
  // then.
  static bool replays_precede(const Graph& g) noexcept {
    try {
      for (Stream* s : g.elsewhere) {
        if (cuda::is_capturing(*s) || cuda::is_capturing(*g.recorded_on)) return false;
        let_wait(*g.recorded_on, *s);
      }
      return true;
    } catch (...) {
      return false;
    }
  }
  static Stream& stream(StreamHandle s) { return *static_cast<Stream*>(s); }
  static cudaEvent_t event(EventHandle e) { return static_cast<cudaEvent_t>(e); }
  static bool done(cudaError_t e, const char* call) {
    if (e == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    check(e, call);
    return true;
  }

  // The driver is looked for on first use, so that importing costs nothing and a fork before it is harmless.
  void init() noexcept {
    std::call_once(once_, [this] {
      const cudaError_t e = cudaGetDeviceCount(&count_);
      if (e != cudaSuccess) {
        cudaGetLastError();
        count_ = 0;
        why_ = std::string("the CUDA driver answers: ") + cudaGetErrorString(e);
      } else if (count_ == 0) {
        why_ = "the CUDA driver finds no GPU";
      }
      count_ = std::min(count_, kMaxDevices);
    });
  }
  CachingAllocator& caching(int device) {
    std::atomic<CachingAllocator*>& slot = allocators_[static_cast<std::size_t>(device)];
    if (CachingAllocator* a = slot.load(std::memory_order_acquire)) return *a;
    const std::lock_guard lock(mutex_);
    if (!slot.load(std::memory_order_relaxed)) slot.store(new CachingAllocator(device), std::memory_order_release);
    return *slot.load(std::memory_order_relaxed);
  }
  static const KernelTable& table() {
    static const KernelTable* t = [] {
      auto* k = new KernelTable;
      k->name = "cuda";
      fill_cuda_table(*k);
      return k;
    }();
    return *t;
  }

  std::once_flag once_;
  int count_ = 0;
  std::string why_;
  std::mutex mutex_;
  std::array<std::atomic<CachingAllocator*>, kMaxDevices> allocators_{};
  std::array<std::unique_ptr<Generator>, kMaxDevices> generators_;
  struct Recording {
    int pool;
    std::uint64_t* draws;
  };
  std::map<Stream*, Recording> recordings_;
  PinnedAllocator* pinned_ = new PinnedAllocator;  // never destroyed, like every allocator: tensors may live longer
};

const bool g_registered = [] {
  register_backend(DeviceType::CUDA, new CudaBackend);
  return true;
}();

}  // namespace

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

namespace {

// Properties that kernels are chosen by, asked for once per device.
struct Known {
  std::atomic<int> multiprocessors{0}, compute_capability{0};
  std::atomic<std::size_t> shared_memory{0};
};
const Known& known() {
  static Known all[kMaxDevices];
  const int device = current_device();
  Known& k = all[device];
  if (k.compute_capability.load(std::memory_order_acquire) == 0) {
    cudaDeviceProp p;
    check(cudaGetDeviceProperties(&p, device), "cudaGetDeviceProperties");
    k.multiprocessors.store(p.multiProcessorCount, std::memory_order_relaxed);
    k.shared_memory.store(p.sharedMemPerBlockOptin, std::memory_order_relaxed);
    k.compute_capability.store(p.major * 10 + p.minor, std::memory_order_release);
  }
  return k;
}

}  // namespace

int multiprocessors() { return known().multiprocessors.load(std::memory_order_relaxed); }
int compute_capability() { return known().compute_capability.load(std::memory_order_relaxed); }
std::size_t shared_memory_limit() { return known().shared_memory.load(std::memory_order_relaxed); }

}  // namespace pydlx::cuda
