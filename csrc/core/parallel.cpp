#include "core/parallel.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>

#include "core/check.h"
#include "core/phases.h"

namespace pydlx {

namespace {

std::atomic<int> g_threads{0};  // 0: not decided yet
thread_local struct {
  int depth = 0, threads = 0;
} t_fixed;  // see FixedThreads
std::atomic<bool> g_forked{false};
thread_local bool t_inside = false;
thread_local int t_index = 0;

// CPU quota of the control group in whole processors, or a large number. Version 2 first, then version 1.
int cgroup_quota() {
  long long quota = -1, period = -1;
  if (std::FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%lld %lld", &quota, &period) != 2) quota = -1;  // "max 100000"
    std::fclose(f);
  } else {
    if (std::FILE* q = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
      if (std::fscanf(q, "%lld", &quota) != 1) quota = -1;
      std::fclose(q);
    }
    if (std::FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%lld", &period) != 1) period = -1;
      std::fclose(p);
    }
  }
  if (quota <= 0 || period <= 0) return kMaxThreads;
  return static_cast<int>(std::max(1LL, (quota + period - 1) / period));
}

int initial_threads() {
  for (const char* name : {"PYDLX_NUM_THREADS", "OMP_NUM_THREADS"})
    if (const char* v = std::getenv(name)) {
      const long n = std::strtol(v, nullptr, 10);
      if (n >= 1) return static_cast<int>(std::min<long>(n, kMaxThreads));
    }
  return hardware_threads();
}

// libgomp's worker threads do not exist in a forked child, and its next team would wait for them forever. A child
// therefore runs everything on one thread (data loader workers want that anyway).
void after_fork_in_child() {
  g_forked.store(true);
  g_threads.store(1);
  omp_set_num_threads(1);
  t_inside = false;
}

const int g_atfork = [] { return pthread_atfork(nullptr, nullptr, after_fork_in_child); }();

}  // namespace

int hardware_threads() noexcept {
  static const int n = [] {
    cpu_set_t set;
    int cpus =
        sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
    return std::clamp(std::min(cpus, cgroup_quota()), 1, kMaxThreads);
  }();
  return n;
}

FixedThreads::FixedThreads() noexcept {
  if (t_fixed.depth == 0) t_fixed.threads = num_threads();
  ++t_fixed.depth;
}
FixedThreads::~FixedThreads() { --t_fixed.depth; }

int num_threads() noexcept {
  if (t_fixed.depth > 0) return t_fixed.threads;
  int n = g_threads.load(std::memory_order_relaxed);
  if (n == 0) {
    n = initial_threads();
    g_threads.store(n, std::memory_order_relaxed);
  }
  return n;
}

void set_num_threads(int n) {
  require(n >= 1 && n <= kMaxThreads, "set_num_threads", "n", ErrorKind::Value, "expected 1 to ", kMaxThreads, ", got ",
          n);
  if (g_forked.load()) return;  // see after_fork_in_child
  g_threads.store(n);
}

bool in_parallel_region() noexcept { return t_inside; }
int thread_index() noexcept { return t_index; }

BlockingHooks& blocking_hooks() {
  static BlockingHooks hooks;
  return hooks;
}

namespace {

// The chunks of one thread, handed out in a few pieces: a thread takes its own first, in order, which keeps data in its
// cache from one op to the next, and then helps the others. On a machine busy with other work a thread may start late
// by milliseconds; the rest do its share meanwhile.
constexpr std::int64_t kPieces = 4;
struct alignas(64) Share {
  std::int64_t next;  // piece to take next; through atomic_ref, so that unused shares cost no initialisation
};

struct Team {
  const std::int64_t n, grain, chunks;
  const int threads;
  const RangeFn fn;
  void* const context;
  Share* const shares;

  void work_on(int owner) const {
    const std::int64_t first = chunks * owner / threads, last = chunks * (owner + 1) / threads;
    const std::int64_t pieces = std::min(kPieces, last - first);
    const std::atomic_ref next(shares[owner].next);
    for (std::int64_t k; (k = next.fetch_add(1, std::memory_order_relaxed)) < pieces;)
      fn(context, (first + (last - first) * k / pieces) * grain,
         std::min(n, (first + (last - first) * (k + 1) / pieces) * grain));
  }
  void work(int me) const {
    for (int i = 0; i < threads; ++i) work_on((me + i) % threads);
  }
};

}  // namespace

void parallel_run(std::int64_t n, std::int64_t grain, RangeFn fn, void* context) {
  if (n <= 0) return;
  if (grain < 1) grain = 1;
  const std::int64_t chunks = (n - 1) / grain + 1;
  const int threads = static_cast<int>(std::min<std::int64_t>(chunks, num_threads()));
  if (chunks <= 1 || t_inside) {
    fn(context, 0, n);
    return;
  }
  void* token = blocking_hooks().release ? blocking_hooks().release() : nullptr;
  if (threads <= 1) {  // a plain `if`: an `omp parallel if(false)` still costs 0.3 us
    fn(context, 0, n);
  } else {
    Share shares[kMaxThreads];
    for (int i = 0; i < threads; ++i) shares[i].next = 0;
    const Team team{n, grain, chunks, threads, fn, context, shares};
#pragma omp parallel num_threads(threads)
    {
      const int outer_index = t_index;
      t_inside = true;
      t_index = omp_get_thread_num();
      team.work(t_index);
      t_inside = false;
      t_index = outer_index;
    }
  }
  if (token) blocking_hooks().acquire(token);
}

namespace {

// Shares as in Team, but each counter carries its phase in the upper half, so that a thread which comes late cannot
// take a range of a phase it has not seen begin.
class PhaseTeam {
 public:
  PhaseTeam(std::int64_t phases, std::int64_t n, std::int64_t grain, int threads, PhaseFn fn, void* context,
            Share* shares)
      : phases_(phases),
        n_(n),
        grain_(grain),
        chunks_((n - 1) / grain + 1),
        threads_(threads),
        fn_(fn),
        context_(context),
        shares_(shares) {
    for (int i = 0; i < threads; ++i) {
      shares[i].next = 0;
      pieces_ += pieces_of(i);
    }
  }

  void work(int me) {
    for (std::int64_t phase = 0; phase < phases_;) {
      for (int i = 0; i < threads_; ++i) work_on((me + i) % threads_, phase);
      wait_for_end_of(phase);
      phase = phase_.load(std::memory_order_acquire);
    }
  }

 private:
  std::int64_t first_of(int owner) const { return chunks_ * owner / threads_; }
  std::int64_t pieces_of(int owner) const { return std::min(kPieces, first_of(owner + 1) - first_of(owner)); }

  void work_on(int owner, std::int64_t phase) {
    const std::int64_t first = first_of(owner), count = first_of(owner + 1) - first, pieces = pieces_of(owner);
    const std::atomic_ref next(shares_[owner].next);
    std::int64_t seen = next.load(std::memory_order_relaxed);
    while (seen >> 32 == phase && (seen & 0xffffffff) < pieces) {
      if (!next.compare_exchange_weak(seen, seen + 1, std::memory_order_relaxed)) continue;
      // Odd phases go backwards: what a thread read last, it reads first, while its caches have it.
      const std::int64_t taken = seen & 0xffffffff, k = phase % 2 ? pieces - 1 - taken : taken;
      fn_(context_, phase, (first + count * k / pieces) * grain_,
          std::min(n_, (first + count * (k + 1) / pieces) * grain_));
      if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == pieces_) begin_next(phase);
      seen = next.load(std::memory_order_relaxed);
    }
  }

  void begin_next(std::int64_t phase) {
    done_.store(0, std::memory_order_relaxed);
    for (int i = 0; i < threads_; ++i)
      std::atomic_ref(shares_[i].next).store((phase + 1) << 32, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_seq_cst);
    if (sleeping_.load(std::memory_order_seq_cst) > 0) phase_.notify_all();
  }

  // Some tens of microseconds of spinning, then sleep: the thread we wait for may need this processor.
  void wait_for_end_of(std::int64_t phase) {
    const int spins = threads_ <= hardware_threads() ? 2000 : 20;
    for (int i = 0; i < spins; ++i) {
      if (phase_.load(std::memory_order_acquire) != phase) return;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    phase_.wait(phase, std::memory_order_seq_cst);
    sleeping_.fetch_sub(1, std::memory_order_relaxed);
  }

  const std::int64_t phases_, n_, grain_, chunks_;
  const int threads_;
  const PhaseFn fn_;
  void* const context_;
  Share* const shares_;
  std::int64_t pieces_ = 0;
  alignas(64) std::atomic<std::int64_t> done_{0};
  alignas(64) std::atomic<std::int64_t> phase_{0};
  alignas(64) std::atomic<int> sleeping_{0};
};

}  // namespace

void parallel_phases_run(std::int64_t phases, std::int64_t n, std::int64_t grain, PhaseFn fn, void* context) {
  if (phases <= 0 || n <= 0) return;
  if (grain < 1) grain = 1;
  const int threads = static_cast<int>(std::min<std::int64_t>((n - 1) / grain + 1, num_threads()));
  if (threads <= 1 || t_inside) {
    for (std::int64_t phase = 0; phase < phases; ++phase) fn(context, phase, 0, n);
    return;
  }
  void* token = blocking_hooks().release ? blocking_hooks().release() : nullptr;
  Share shares[kMaxThreads];
  PhaseTeam team(phases, n, grain, threads, fn, context, shares);
#pragma omp parallel num_threads(threads)
  {
    const int outer_index = t_index;
    t_inside = true;
    t_index = omp_get_thread_num();
    team.work(t_index);
    t_inside = false;
    t_index = outer_index;
  }
  if (token) blocking_hooks().acquire(token);
}

}  // namespace pydlx
