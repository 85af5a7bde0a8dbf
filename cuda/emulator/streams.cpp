// Streams, events, graphs and copies on the host.
//
// With PYDLX_EMULATED_LAZY=1 a stream's work is kept until somebody waits for it, or for something behind it: work that
// runs before another stream's, and reads by the host, show if nothing orders them.
#include "cuda/emulator/streams.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <utility>
#include <vector>

using Work = std::function<void()>;

struct EmulatedGraph {
  std::shared_ptr<std::vector<Work>> work = std::make_shared<std::vector<Work>>();
};
struct EmulatedStream {
  EmulatedGraph* capture = nullptr;
  int device = 0;
  std::deque<Work> waiting;
  std::uint64_t queued = 0, run = 0;  // pieces of work so far
};
struct EmulatedEvent {
  int device = 0;
  bool captured = false;  // of a graph, nothing to ask
  EmulatedStream* stream = nullptr;
  std::uint64_t place = 0;                                  // in the stream's work
  std::shared_ptr<double> ms = std::make_shared<double>();  // 0: never met
};

namespace emulator {

std::recursive_mutex mutex;
thread_local cudaError_t last_error = cudaSuccess;
thread_local int current_device = 0;
thread_local int Access::depth = 0;

Memory& memory() {
  static auto* m = new Memory;
  return *m;
}

cudaError_t error(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

bool foreign(cudaStream_t stream) { return stream && stream->device != current_device; }

// PYDLX_EMULATED_IDLE=1: what is left of a program's time is the host's.
bool idle() {
  static const bool on = [] {
    const char* v = std::getenv("PYDLX_EMULATED_IDLE");
    return v && std::atoi(v) != 0;
  }();
  return on;
}

namespace {

bool lazy() {
  static const bool on = [] {
    const char* v = std::getenv("PYDLX_EMULATED_LAZY");
    return v && std::atoi(v) != 0;
  }();
  return on;
}

std::vector<EmulatedStream*>& streams() {
  static auto* all = new std::vector<EmulatedStream*>;
  return *all;
}
EmulatedStream* new_stream(int device) {
  const std::lock_guard lock(mutex);
  streams().push_back(new EmulatedStream{nullptr, device, {}});
  return streams().back();
}
// The stream itself, or the current device's default one.
EmulatedStream& of(cudaStream_t stream) {
  if (stream) return *stream;
  const std::lock_guard lock(mutex);
  static auto* defaults = new std::map<int, EmulatedStream*>;
  EmulatedStream*& s = (*defaults)[current_device];
  return s ? *s : *(s = new_stream(current_device));
}

void run_up_to(EmulatedStream& s, std::uint64_t place) {
  const Access access;
  while (s.run < place) {
    const Work work = std::move(s.waiting.front());
    s.waiting.pop_front();
    ++s.run;
    work();
  }
}
void run_whole(EmulatedStream& s) { run_up_to(s, s.queued); }

// Whether it has come so far; otherwise it goes on a bit.
cudaError_t has_run(EmulatedStream& s, std::uint64_t place) {
  const std::lock_guard lock(mutex);
  if (s.run >= place) return cudaSuccess;
  run_up_to(s, s.run + 1);
  return error(cudaErrorNotReady);
}

double now_ms() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
}

// Page-locked pieces of host memory and their ends.
std::map<const char*, const char*>& pinned() {
  static auto* all = new std::map<const char*, const char*>;
  return *all;
}
bool is_pinned(const void* p) {
  const auto* at = static_cast<const char*>(p);
  const auto after = pinned().upper_bound(at);
  return after != pinned().begin() && at < std::prev(after)->second;
}

}  // namespace

cudaError_t run_or_record(cudaStream_t stream, Work work) {
  const std::lock_guard lock(mutex);
  EmulatedStream& s = of(stream);
  if (s.capture) {
    s.capture->work->push_back(std::move(work));
    return cudaSuccess;
  }
  s.waiting.push_back(std::move(work));
  ++s.queued;
  if (!lazy()) run_whole(s);
  return cudaSuccess;
}

void run_all() {
  const std::lock_guard lock(mutex);
  for (std::size_t i = 0; i < streams().size(); ++i) run_whole(*streams()[i]);
}

}  // namespace emulator

using namespace emulator;

// ---- copies ---------------------------------------------------------------------------------------------------------

cudaError_t cudaHostAlloc(void** p, std::size_t n, unsigned) {
  const std::lock_guard lock(emulator::mutex);
  *p = std::aligned_alloc(64, (n + 63) / 64 * 64);
  if (!*p) return error(cudaErrorMemoryAllocation);
  const auto* first = static_cast<const char*>(*p);
  pinned()[first] = first + n;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  const std::lock_guard lock(emulator::mutex);
  pinned().erase(static_cast<const char*>(p));
  std::free(p);
  return cudaSuccess;
}
// Other host memory than page-locked one is read at once, and is written before the call returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t n, cudaMemcpyKind, cudaStream_t stream) {
  const std::lock_guard lock(emulator::mutex);
  EmulatedStream& s = of(stream);
  const bool waits = !s.capture && !memory().owns(to) && !is_pinned(to);
  if (s.capture || memory().owns(from) || is_pinned(from)) {
    run_or_record(stream, [=] { std::memcpy(to, from, n); });
  } else {
    const auto* bytes = static_cast<const char*>(from);
    run_or_record(stream, [to, staged = std::vector<char>(bytes, bytes + n)] {
      if (!staged.empty()) std::memcpy(to, staged.data(), staged.size());
    });
  }
  if (waits) run_whole(s);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t n, cudaStream_t stream) {
  return idle() ? cudaSuccess : run_or_record(stream, [=] { std::memset(p, value, n); });
}

// ---- streams --------------------------------------------------------------------------------------------------------

cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard lock(emulator::mutex);
  for (std::size_t i = 0; i < streams().size(); ++i)
    if (streams()[i]->device == current_device) run_whole(*streams()[i]);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) {
  *s = new_stream(current_device);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  const std::lock_guard lock(emulator::mutex);
  run_whole(*s);
  std::erase(streams(), s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  EmulatedStream& s = of(stream);
  if (s.capture) return error(cudaErrorStreamCaptureUnsupported);
  run_whole(s);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  EmulatedStream& s = of(stream);
  return has_run(s, s.queued);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t e, unsigned) {
  const std::lock_guard lock(emulator::mutex);
  EmulatedStream* const other = e->stream;
  const std::uint64_t place = e->place;
  if (!other || e->captured || of(stream).capture) return cudaSuccess;
  return run_or_record(stream, [=] { run_up_to(*other, place); });
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

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
  return run_or_record(stream, [all = e->work] {
    for (const Work& work : *all) work();
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

// ---- events ---------------------------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = new EmulatedEvent{current_device};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t stream) {
  const std::lock_guard lock(emulator::mutex);
  EmulatedStream& s = of(stream);
  if (e->device != s.device) return error(cudaErrorInvalidResourceHandle);
  e->captured = s.capture;
  e->stream = &s;
  e->place = s.queued + 1;
  return run_or_record(stream, [ms = e->ms] { *ms = now_ms(); });
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (e->captured) return error(cudaErrorInvalidValue);
  return e->stream ? has_run(*e->stream, e->place) : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (e->stream && !e->captured) run_up_to(*e->stream, e->place);
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (*a->ms == 0 || *b->ms == 0) return error(cudaErrorInvalidResourceHandle);
  *ms = static_cast<float>(*b->ms - *a->ms);
  return cudaSuccess;
}
