// How the steps of recurrent layers are counted and divided among threads.
#pragma once
#include "core/phases.h"
#include "cpu/gemm/cuts.h"
#include "cpu/tuning/tuning.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Up to so many sequences, weights are read in place; rows whose sums wait for their gates in the first level.
inline constexpr std::int64_t kFewSequences = tuning::kFewSequences, kBlockRows = tuning::kGateRows;

// Tasks per range of a parallel phase. `speed` multiply-adds, or bytes of weights, take a nanosecond or so, and so does
// a gate; a phase of less than 1.5 us is not worth a second thread.
PYDLX_INLINE std::int64_t task_grain(std::int64_t tasks, std::int64_t rows, std::int64_t k, std::int64_t columns,
                                     std::int64_t speed) {
  const std::int64_t busy = rows < 4 ? 4 : rows, ns = busy * k * columns / speed + rows * columns / 2 + 1;
  return tasks * ns < 1500 ? tasks : 500 / ns + 1;
}

// Step s in the order of work -> its time.
template <class Sequence>
PYDLX_INLINE std::int64_t time_of(const Sequence& q, std::int64_t s) {
  return q.reverse ? q.steps - 1 - s : s;
}

// Task i of begin..end, backwards in odd phases: weights beyond the second level are read in turn from either end, and
// as much of them as it holds is still there.
PYDLX_INLINE std::int64_t in_turn(std::int64_t phase, std::int64_t begin, std::int64_t end, std::int64_t i) {
  return phase % 2 ? begin + end - 1 - i : i;
}

// The last state of a row is its output at the last step it took part in. Elements of `size` bytes.
template <class Sequence>
PYDLX_INLINE void last_states(const Sequence& q, std::int64_t size) {
  const std::int64_t row = q.hidden * size;
  for (std::int64_t t = 0; t < q.steps; ++t) {
    const std::int64_t rest = q.reverse || t + 1 == q.steps ? 0 : q.rows[t + 1];
    std::memcpy(static_cast<char*>(q.h) + rest * row, static_cast<const char*>(q.y) + (q.offset[t] + rest) * row,
                static_cast<std::size_t>((q.rows[t] - rest) * row));
    if (q.reverse) break;
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
