// The only way to use threads. Work is cut into chunks whose size does not depend on the number of threads, so results
// are bit-identical for any count; chunks are handed to threads in contiguous runs, and idle threads help out.
#pragma once
#include <cstdint>

namespace pydlx {

using RangeFn = void (*)(void* context, std::int64_t begin, std::int64_t end);

// Calls fn(context, begin, end) so that the ranges tile [0, n); every begin is a multiple of `grain`, and every range
// except the last a multiple of `grain` long. Serial when there is one chunk, one thread, or we already are inside a
// parallel region.
void parallel_run(std::int64_t n, std::int64_t grain, RangeFn fn, void* context);

int num_threads() noexcept;
void set_num_threads(int n);      // throws Value for n < 1
int hardware_threads() noexcept;  // honours affinity and the cgroup quota
// While one lives, num_threads() keeps its value for the calling thread, whatever other threads set: for memory that is
// laid out for a number of threads before the kernel runs that uses it.
class FixedThreads {
 public:
  FixedThreads() noexcept;
  FixedThreads(const FixedThreads&) noexcept : FixedThreads() {}
  FixedThreads& operator=(const FixedThreads&) = default;
  ~FixedThreads();
};
bool in_parallel_region() noexcept;
int thread_index() noexcept;  // 0 outside a parallel region
inline constexpr int kMaxThreads = 256;

// Called around long kernels so that other Python threads can run; the bindings install them.
struct BlockingHooks {
  void* (*release)() =
      nullptr;  // gives the interpreter lock up if this thread holds it; null result: nothing to restore
  void (*acquire)(void*) = nullptr;
};
BlockingHooks& blocking_hooks();

// fn(begin, end) over chunks. Always inline: in per-instruction-set objects the lambda's type keeps the instantiation
// local.
template <class F>
inline __attribute__((always_inline)) void parallel_for(std::int64_t n, std::int64_t grain, const F& fn) {
  parallel_run(
      n, grain, [](void* c, std::int64_t b, std::int64_t e) { (*static_cast<const F*>(c))(b, e); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace pydlx
