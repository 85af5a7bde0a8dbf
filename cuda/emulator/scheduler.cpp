// Threads, warps and blocks of a running kernel: fibers that take turns.
#include "cuda/emulator/scheduler.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

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

namespace emulator {
namespace {

constexpr std::size_t kStack = 64 << 10;

// ---- one block at a time --------------------------------------------------------------------------------------------

struct Fiber : Thread {
  enum State { ready, at_barrier, at_warp, at_condition, done } state = done;
  const Condition* condition = nullptr;
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  unsigned mask = 0;       // lanes this one waits for
  unsigned exchanges = 0;  // done so far; its parity chooses the buffer
};
struct WarpSlots {
  alignas(16) unsigned char value[2][32][16];
};

alignas(1024) unsigned char g_shared[kMostCluster][kSharedLimit];

// Blocks keep their fibers' stacks for the next launch.
struct Block {
  std::vector<Fiber> fibers = std::vector<Fiber>(kMaxThreads);
  WarpSlots warps[kMaxThreads / 32];
  unsigned threads = 0, round = 0;
  unsigned rank = 0;  // in its cluster
  bool finished = false;
  unsigned char* shared = nullptr;
};
Block* g_block = nullptr;  // the one whose turn it is
unsigned g_cluster = 1;    // blocks of the running cluster
bool g_together = false;   // of a cooperative launch
void* g_scheduler = nullptr;
constexpr int kOutside = -1;
struct Later {
  unsigned turn;
  int rank;  // of the block whose shared memory it writes to, or kOutside
  std::function<void()> work;
};
std::vector<Later> g_later;
const std::function<void()>* g_kernel = nullptr;

Fiber* self() { return static_cast<Fiber*>(current); }
void to_scheduler() {
  Fiber* f = self();
  pydlx_emulator_switch(&f->stack_pointer, g_scheduler);
}
void fiber_main() {
  (*g_kernel)();
  thread_ends();
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
      if (other.state == Fiber::done) current = &f, die("a warp collective names a lane that has returned");
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

[[noreturn]] void deadlock(Block& b) {
  g_block = &b;
  for (unsigned i = 0; i < g_block->threads; ++i)
    if (g_block->fibers[i].state == Fiber::at_condition)
      current = &g_block->fibers[i], die(g_block->fibers[i].condition->text());
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

bool go_on(Fiber& f) {
  if (f.state != Fiber::ready) return false;
  current = &f;
  pydlx_emulator_switch(&g_scheduler, f.stack_pointer);
  return true;
}

// As far as the warp comes without the others: a missing barrier shows that its collectives would hide. False when
// that is nowhere.
bool run_ahead(Block& b, unsigned warp) {
  bool any = false;
  for (bool goes_on = true; goes_on; any |= goes_on) {
    goes_on = false;
    for (unsigned i = warp * 32; i < std::min(warp * 32 + 32, b.threads); ++i) goes_on |= go_on(b.fibers[i]);
    goes_on |= release_warp(warp);
  }
  return any;
}

// Every thread of the block that can go on does so once, after those of another warp each time have as often as they
// can. False when none could.
bool take_turn(Block& b) {
  g_block = &b;
  const unsigned round = b.round++, warps = (b.threads + 31) / 32;
  unsigned finished = 0, waiting = 0;
  bool progress = run_ahead(b, (round + b.rank * 3) % warps);
  for (unsigned k = 0; k < b.threads; ++k)  // alternating: a missing barrier shows
    progress |= go_on(b.fibers[round % 2 ? b.threads - 1 - k : k]);
  for (unsigned w = 0; w < warps; ++w) progress |= release_warp(w);
  progress |= run_later(g_turn, false);
  progress |= release_conditions();
  ++g_turn;
  for (unsigned i = 0; i < b.threads; ++i) {
    finished += b.fibers[i].state == Fiber::done;
    waiting += b.fibers[i].state == Fiber::at_barrier;
  }
  if (finished == b.threads) {
    b.finished = true;
    if (std::any_of(g_later.begin(), g_later.end(), [&](const Later& l) { return l.rank == static_cast<int>(b.rank); }))
      die("a block has ended while copies into its shared memory were under way");
  } else if (waiting == b.threads) {
    for (unsigned i = 0; i < b.threads; ++i) b.fibers[i].state = Fiber::ready;
    return true;
  } else if (waiting + finished == b.threads) {
    die("threads have returned while others wait at __syncthreads()");
  }
  current = nullptr;
  return progress;
}

// Blocks 0 .. count - 1, until all have ended. Another one in each sweep runs ahead as far as it can: a missing barrier
// between blocks shows.
void run_blocks(std::size_t count) {
  std::size_t finished = 0;
  for (std::size_t sweep = 0; finished < count; ++sweep) {
    bool progress = false;
    const std::size_t ahead = (sweep * 5 + count / 2) % count;
    for (std::size_t k = 0; k < count; ++k) {
      Block& b = block_at(sweep % 2 ? k : count - 1 - k);
      if (b.finished) continue;
      bool goes_on = take_turn(b);
      progress |= goes_on;
      while (&b == &block_at(ahead) && goes_on && !b.finished) goes_on = take_turn(b);
      finished += b.finished;
    }
    if (progress || run_later(0, true)) continue;
    for (std::size_t k = 0; k < count; ++k)
      if (!block_at(k).finished) deadlock(block_at(k));
  }
}

}  // namespace

// Every other grid begins with its last blocks: what a block finds must not depend on those before it.
void run_grid(dim3 grid, dim3 block, unsigned cluster, std::size_t shared_bytes, const std::function<void()>& kernel) {
  static bool backwards = false;
  backwards = !backwards;
  g_kernel = &kernel;
  g_cluster = cluster;
  const unsigned across = grid.x / cluster;
  const std::uint64_t count = std::uint64_t{across} * grid.y * grid.z;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t at = backwards ? count - 1 - i : i, rest = at / across;
    const auto x = static_cast<unsigned>(at % across) * cluster, y = static_cast<unsigned>(rest % grid.y),
               z = static_cast<unsigned>(rest / grid.y);
    for (unsigned rank = 0; rank < cluster; ++rank) {
      Block& b = block_at(rank);
      b.shared = g_shared[rank];
      b.rank = rank;
      std::memset(b.shared, 0xa5, shared_bytes);  // reads before writes give nonsense
      prepare(b, grid, block, {x + rank, y, z});
    }
    run_blocks(cluster);
  }
  run_later(0, true);
  g_cluster = 1;
}

void run_grid_together(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel) {
  g_kernel = &kernel;
  const std::size_t count = std::size_t{grid.x} * grid.y * grid.z;
  std::vector<unsigned char> shared(count * shared_bytes + 1024, 0xa5);
  unsigned char* first = shared.data() + (1024 - reinterpret_cast<std::uintptr_t>(shared.data()) % 1024) % 1024;
  for (std::size_t i = 0; i < count; ++i) {
    Block& b = block_at(i);
    b.shared = first + i * shared_bytes;
    b.rank = 0;
    const auto at = static_cast<unsigned>(i);
    prepare(b, grid, block, {at % grid.x, at / grid.x % grid.y, at / grid.x / grid.y});
  }
  g_together = true;
  run_blocks(count);
  g_together = false;
}

Thread* current = nullptr;

void* shared_memory() { return g_block->shared; }

// Addresses: what comes before kSharedStart is the system's; block r of the cluster has its own from (r + 1) kWindow.
constexpr std::uint32_t kSharedStart = 1024, kWindow = 1 << 20;

std::uint32_t shared_address(const void* p) {
  const auto* at = static_cast<const unsigned char*>(p);
  if (g_together) die("barriers and copies of sm_90 are not modelled in cooperative launches");
  if (at < g_block->shared || at >= g_block->shared + kSharedLimit) die("an address outside dynamic shared memory");
  return kSharedStart + static_cast<std::uint32_t>(at - g_block->shared);
}
std::uint32_t cluster_address(std::uint32_t address, unsigned rank) {
  if (rank >= g_cluster) die("an address in a block that the cluster does not have");
  return (rank + 1) * kWindow + address % kWindow;
}
bool in_cluster(std::uint32_t address) { return address >= kWindow; }
void* shared_pointer(std::uint32_t address, std::uint32_t bytes) {
  const std::uint32_t at = address % kWindow;
  if (at < kSharedStart || at - kSharedStart + bytes > kSharedLimit) die("an access outside shared memory");
  const Block& b = in_cluster(address) ? block_at(address / kWindow - 1) : *g_block;
  if (b.finished) die("an access to the shared memory of a block that has ended");
  return b.shared + (at - kSharedStart);
}

int shared_chunk(const void* p) {
  static_assert(sizeof g_shared / 16 <= kSharedChunks);
  const auto *at = static_cast<const unsigned char*>(p), *first = g_shared[0];
  return at >= first && at < first + sizeof g_shared ? static_cast<int>((at - first) / 16) : -1;
}

unsigned block_rank() { return g_block->rank; }
unsigned cluster_threads() { return g_cluster * g_block->threads; }

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
void add_later(std::function<void()> work, int rank) {
  static unsigned count = 0;
  g_later.push_back({g_turn + 1 + count++ % 3, rank, std::move(work)});
}
void later(unsigned rank, std::function<void()> work) { add_later(std::move(work), static_cast<int>(rank)); }
void later_outside(std::function<void()> work) { add_later(std::move(work), kOutside); }

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

}  // namespace emulator
