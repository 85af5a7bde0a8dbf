#include <cuda_runtime.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda/emulator/hopper.h"
#include "cuda/emulator/memory.h"

// ---- fibers ---------------------------------------------------------------------------------------------------------
// A switch saves the callee-saved registers of the System V ABI on the old stack and takes those of the new one.
#if !defined(__x86_64__)
#error "PYDLX_CUDA=EMULATE needs an x86-64 processor"
#endif
extern "C" void pydlx_emulator_switch(void** old_stack, void* new_stack);
asm(R"(
.text
.local pydlx_emulator_switch
.type pydlx_emulator_switch, @function
pydlx_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size pydlx_emulator_switch, .-pydlx_emulator_switch
)");

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

constexpr unsigned kMaxThreads = 1024;
constexpr std::size_t kStack = 64 << 10;
constexpr std::size_t kSharedLimit = 227 << 10, kSharedUnasked = 48 << 10;

using emulator::die, emulator::kMemory, emulator::Memory;

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

cudaError_t run_or_record(cudaStream_t stream, std::function<void()> work) {
  if (stream && stream->capture) {
    stream->capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  const Access access;
  work();
  return cudaSuccess;
}

// ---- one block at a time --------------------------------------------------------------------------------------------

struct Fiber : emulator::Thread {
  enum State { ready, at_barrier, at_warp, at_condition, done } state = done;
  const emulator::Condition* condition = nullptr;
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  unsigned mask = 0;       // lanes this one waits for
  unsigned exchanges = 0;  // done so far; its parity chooses the buffer
};
struct WarpSlots {
  alignas(16) unsigned char value[2][32][16];
};

alignas(1024) unsigned char g_shared[kSharedLimit];

// Blocks keep their fibers' stacks for the next launch.
struct Block {
  std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
  WarpSlots warps[kMaxThreads / 32];
  unsigned threads = 0, round = 0;
  bool finished = false;
  unsigned char* shared = g_shared;
};
Block* g_block = nullptr;  // the one whose turn it is
bool g_together = false;   // of a cooperative launch
void* g_scheduler = nullptr;
struct Later {
  unsigned turn;
  std::function<void()> work;
};
std::vector<Later> g_later;
const std::function<void()>* g_kernel = nullptr;

Fiber* self() { return static_cast<Fiber*>(emulator::current); }
void to_scheduler() {
  Fiber* f = self();
  pydlx_emulator_switch(&f->stack_pointer, g_scheduler);
}
void fiber_main() {
  (*g_kernel)();
  emulator::thread_ends();
  self()->state = Fiber::done;
  to_scheduler();
  die("a finished thread was resumed");
}

void prepare(Fiber& f) {
  if (!f.stack) {
    f.stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (f.stack == MAP_FAILED) die("no memory for a thread's stack");
  }
  auto* top = reinterpret_cast<void**>(f.stack + kStack);
  *--top = nullptr;  // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  f.stack_pointer = top;
  f.state = Fiber::ready;
  f.exchanges = 0;
}

// Lanes of one warp whose masks are complete go on together.
bool release_warp(unsigned warp) {
  const unsigned first = warp * 32, end = std::min(first + 32, g_block->threads);
  bool any = false;
  for (unsigned i = first; i < end; ++i) {
    Fiber& f = g_block->fibers[i];
    if (f.state != Fiber::at_warp) continue;
    bool complete = true;
    for (unsigned l = 0; l < 32 && complete; ++l) {
      if (!(f.mask >> l & 1)) continue;
      if (first + l >= end) continue;  // lanes that a short block does not have
      const Fiber& other = g_block->fibers[first + l];
      if (other.state == Fiber::done) emulator::current = &f, die("a warp collective names a lane that has returned");
      complete = other.state == Fiber::at_warp && other.mask == f.mask && other.exchanges == f.exchanges;
    }
    if (!complete) continue;
    const unsigned mask = f.mask;
    for (unsigned l = 0; l < 32; ++l)
      if (mask >> l & 1 && first + l < end) g_block->fibers[first + l].state = Fiber::ready;
    any = true;
  }
  return any;
}

unsigned g_turn = 0;

// Work of other units whose turn has come, the newest first; if nothing else can go on, whatever is there.
bool run_later(unsigned turn, bool all) {
  bool any = false;
  for (std::size_t i = g_later.size(); i-- > 0;)
    if (all || g_later[i].turn <= turn) {
      const auto work = std::move(g_later[i].work);
      g_later.erase(g_later.begin() + static_cast<std::ptrdiff_t>(i));
      work();
      any = true;
    }
  return any;
}

// Threads whose conditions are met go on.
bool release_conditions() {
  bool any = false;
  for (unsigned i = 0; i < g_block->threads; ++i) {
    Fiber& f = g_block->fibers[i];
    if (f.state != Fiber::at_condition || !f.condition->met()) continue;
    f.state = Fiber::ready;
    any = true;
  }
  return any;
}

[[noreturn]] void deadlock() {
  for (unsigned i = 0; i < g_block->threads; ++i)
    if (g_block->fibers[i].state == Fiber::at_condition)
      emulator::current = &g_block->fibers[i], die(g_block->fibers[i].condition->text());
  die("deadlock: some threads wait at __syncthreads(), others in a warp collective");
}

Block& block_at(std::size_t i) {
  static auto* blocks = new std::vector<std::unique_ptr<Block>>;
  while (blocks->size() <= i) blocks->push_back(std::make_unique<Block>());
  return *(*blocks)[i];
}

void prepare(Block& b, dim3 grid, dim3 block, uint3 at) {
  b.threads = block.x * block.y * block.z;
  b.round = 0;
  b.finished = false;
  for (unsigned i = 0; i < b.threads; ++i) {
    Fiber& f = b.fibers[i];
    prepare(f);
    f.thread = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    f.block = at;
    f.block_size = block;
    f.grid_size = grid;
    f.lane = i % 32;
  }
}

// Every thread of the block that can go on does so once. False when none could.
bool take_turn(Block& b) {
  g_block = &b;
  const unsigned round = b.round++;
  unsigned finished = 0, waiting = 0;
  bool progress = false;
  for (unsigned k = 0; k < b.threads; ++k) {
    Fiber& f = b.fibers[round % 2 ? b.threads - 1 - k : k];  // alternating: a missing barrier shows
    if (f.state == Fiber::ready) {
      emulator::current = &f;
      pydlx_emulator_switch(&g_scheduler, f.stack_pointer);
      progress = true;
    }
  }
  for (unsigned w = 0; w * 32 < b.threads; ++w) progress |= release_warp(w);
  if (!g_later.empty()) progress |= run_later(g_turn, !progress);
  progress |= release_conditions();
  ++g_turn;
  for (unsigned i = 0; i < b.threads; ++i) {
    finished += b.fibers[i].state == Fiber::done;
    waiting += b.fibers[i].state == Fiber::at_barrier;
  }
  if (finished == b.threads) {
    b.finished = true;
    if (!g_later.empty()) die("a block has ended while copies into its shared memory were under way");
  } else if (waiting == b.threads) {
    for (unsigned i = 0; i < b.threads; ++i) b.fibers[i].state = Fiber::ready;
    return true;
  } else if (waiting + finished == b.threads) {
    die("threads have returned while others wait at __syncthreads()");
  }
  emulator::current = nullptr;
  return progress;
}

void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  g_kernel = &kernel;
  Block& b = block_at(0);
  b.shared = g_shared;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        std::memset(g_shared, 0xa5, shared_bytes);  // reads before writes give nonsense
        prepare(b, grid, block, {x, y, z});
        while (!b.finished)
          if (!take_turn(b)) deadlock();
      }
}

// All blocks. Another one in each sweep runs ahead as far as it can: a missing barrier between blocks shows.
void run_grid_together(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  g_kernel = &kernel;
  const std::size_t count = std::size_t{grid.x} * grid.y * grid.z;
  std::vector<unsigned char> shared(count * shared_bytes + 1024, 0xa5);
  unsigned char* first = shared.data() + (1024 - reinterpret_cast<std::uintptr_t>(shared.data()) % 1024) % 1024;
  for (std::size_t i = 0; i < count; ++i) {
    Block& b = block_at(i);
    b.shared = first + i * shared_bytes;
    const auto at = static_cast<unsigned>(i);
    prepare(b, grid, block, {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y});
  }
  g_together = true;
  std::size_t finished = 0;
  for (std::size_t sweep = 0; finished < count; ++sweep) {
    bool progress = false;
    const std::size_t ahead = (sweep * 5 + count / 2) % count;
    for (std::size_t k = 0; k < count; ++k) {
      Block& b = block_at(sweep % 2 ? count - 1 - k : k);
      if (b.finished) continue;
      bool goes_on = take_turn(b);
      progress |= goes_on;
      while (&b == &block_at(ahead) && goes_on && !b.finished) goes_on = take_turn(b);
      finished += b.finished;
    }
    if (!progress)
      for (std::size_t k = 0; k < count; ++k)
        if (!block_at(k).finished) g_block = &block_at(k), deadlock();
  }
  g_together = false;
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

Thread* current = nullptr;

void* shared_memory() { return g_block->shared; }

constexpr std::uint32_t kSharedStart = 1024;  // what comes before is the system's

std::uint32_t shared_address(const void* p) {
  const auto* at = static_cast<const unsigned char*>(p);
  if (g_together) die("barriers and copies of sm_90 are not modelled in cooperative launches");
  if (at < g_shared || at >= g_shared + kSharedLimit) die("an address outside dynamic shared memory");
  return kSharedStart + static_cast<std::uint32_t>(at - g_shared);
}
void* shared_pointer(std::uint32_t address, std::uint32_t bytes) {
  if (address < kSharedStart || address - kSharedStart + bytes > kSharedLimit) die("an access outside shared memory");
  return g_shared + (address - kSharedStart);
}

int shared_chunk(const void* p) {
  static_assert(kSharedLimit / 16 <= kSharedChunks);
  const auto* at = static_cast<const unsigned char*>(p);
  return at >= g_shared && at < g_shared + kSharedLimit ? static_cast<int>((at - g_shared) / 16) : -1;
}

void die(const char* what) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u, thread %u)\n", what, current ? current->block.x : 0,
               current ? current->thread.x : 0);
  std::abort();
}
unsigned thread_number() { return static_cast<unsigned>(self() - g_block->fibers.data()); }
void wait_for(const Condition& c) {
  self()->condition = &c;
  self()->state = Fiber::at_condition;
  to_scheduler();
}
void later(std::function<void()> work) {
  static unsigned count = 0;
  g_later.push_back({g_turn + 1 + count++ % 3, std::move(work)});
}

void barrier() {
  self()->state = Fiber::at_barrier;
  to_scheduler();
}

void exchange(unsigned mask, const void* value, std::size_t bytes) {
  Fiber* f = self();
  if (bytes > 16) die("a warp collective of more than 16 bytes");
  if (!(mask >> f->lane & 1)) die("a warp collective whose mask leaves out the calling lane");
  const auto index = thread_number();
  std::memcpy(g_block->warps[index / 32].value[f->exchanges % 2][f->lane], value, bytes);
  f->mask = mask;
  f->state = Fiber::at_warp;
  to_scheduler();
  ++f->exchanges;
}

const void* slot(unsigned lane) {
  const Fiber* f = self();
  return g_block->warps[thread_number() / 32].value[(f->exchanges - 1) % 2][lane];
}

bool lane_in(unsigned mask, unsigned lane) {
  const auto first = thread_number() / 32 * 32;
  return lane < 32 && (mask >> lane & 1) && first + lane < g_block->threads;
}

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
  return run_or_record(stream, [=, kernel = std::move(kernel)] { run_grid(grid, block, shared_bytes, kernel); });
}

cudaError_t launch_together(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel) {
  if (foreign(stream)) return error(cudaErrorInvalidResourceHandle);
  if (const cudaError_t e = check_launch(grid, block, shared_bytes)) return e;
  int each = 0;
  emulated_occupancy(&each, static_cast<int>(block.x * block.y * block.z), shared_bytes);
  if (std::size_t{grid.x} * grid.y * grid.z > static_cast<std::size_t>(each) * multiprocessors())
    return error(cudaErrorCooperativeLaunchTooLarge);
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
  return run_or_record(stream, [=] { std::memset(p, value, n); });
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
