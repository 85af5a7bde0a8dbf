// Several parallel loops in a row by one team of threads.
#pragma once
#include <cstdint>

namespace pydlx {

using PhaseFn = void (*)(void* context, std::int64_t phase, std::int64_t begin, std::int64_t end);

// `phases` loops over [0, n) as parallel_run makes them, one after another: fn(context, phase, begin, end). A phase
// begins when every range of the one before is finished; that costs a fraction of a microsecond, where starting threads
// anew costs several. A thread takes its ranges in turn, last to first in odd phases. A thread that the system takes
// off the processor holds up the others only while it has a range.
void parallel_phases_run(std::int64_t phases, std::int64_t n, std::int64_t grain, PhaseFn fn, void* context);

// fn(phase, begin, end).
template <class F>
inline __attribute__((always_inline)) void parallel_phases(std::int64_t phases, std::int64_t n, std::int64_t grain,
                                                           const F& fn) {
  parallel_phases_run(
      phases, n, grain,
      [](void* c, std::int64_t p, std::int64_t b, std::int64_t e) { (*static_cast<const F*>(c))(p, b, e); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace pydlx
