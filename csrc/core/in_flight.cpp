#include "core/in_flight.h"

#include <pthread.h>

#include <chrono>
#include <thread>

#include "core/check.h"
#include "core/parallel.h"

namespace pydlx {

namespace detail {
std::atomic<int> ops_in_flight{0};
}  // namespace detail

namespace {

thread_local struct InFlight {
  bool yes = false;
  void set(bool on) noexcept {
    if (yes == on) return;
    yes = on;
    detail::ops_in_flight.fetch_add(on ? 1 : -1, std::memory_order_acq_rel);
  }
  ~InFlight() { set(false); }
} t_flight;

// The thread that changes a tensor or waits to do so; null: nobody.
std::atomic<const void*> g_alone{nullptr};

// Gives the interpreter lock up until `done()`; false after ten seconds.
template <class F>
bool wait_unlocked(F done) {
  const BlockingHooks& hooks = blocking_hooks();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool in_time = true;
  void* token = pause_interpreter ? pause_interpreter() : nullptr;
  for (int i = 0; !done() && in_time; ++i) {
    if (i < 100)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    in_time = std::chrono::steady_clock::now() < deadline;
  }
  if (token) hooks.acquire(token);
  return in_time;
}

// The other threads are gone in a forked child, and what they were doing with them.
void after_fork_in_child() {
  detail::ops_in_flight.store(t_flight.yes ? 1 : 0);
  if (g_alone.load() != &t_flight) g_alone.store(nullptr);
}
const int g_atfork = [] { return pthread_atfork(nullptr, nullptr, after_fork_in_child); }();

}  // namespace

bool enter_flight() noexcept {
  if (g_alone.load(std::memory_order_relaxed) == &t_flight) return false;
  t_flight.set(true);
  return true;
}

void detail::leave_flight() noexcept {
  if (!t_flight.yes) return;
  t_flight.set(false);
  // Somebody waits for all to leave: let them go ahead before this thread starts its next operation.
  if (g_alone.load(std::memory_order_acquire)) wait_unlocked([] { return !g_alone.load(std::memory_order_acquire); });
}

Alone::Alone(const char* op) {
  if (g_alone.load(std::memory_order_relaxed) == &t_flight) {
    outermost_ = false;
    return;
  }
  t_flight.set(false);
  // Two conditions that hold at once only while the interpreter lock is ours: nobody else changes a tensor, nobody is
  // in flight. Whoever has announced itself goes first.
  const void* nobody = nullptr;
  bool in_time = true;
  while (in_time && !g_alone.compare_exchange_strong(nobody, &t_flight, std::memory_order_acq_rel)) {
    nobody = nullptr;
    in_time = wait_unlocked([] { return !g_alone.load(std::memory_order_acquire); });
  }
  require(in_time, op, "", ErrorKind::Runtime, "expected other threads to finish changing tensors within 10 s");
  while (in_time && detail::ops_in_flight.load(std::memory_order_acquire))
    in_time = wait_unlocked([] { return !detail::ops_in_flight.load(std::memory_order_acquire); });
  if (in_time) return;
  g_alone.store(nullptr, std::memory_order_release);
  fail(op, "", ErrorKind::Runtime,
       "expected operations of other threads to end within 10 s; a tensor cannot get other data or another shape while "
       "they run");
}

Alone::~Alone() {
  if (outermost_) g_alone.store(nullptr, std::memory_order_release);
}

}  // namespace pydlx
