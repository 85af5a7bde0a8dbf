// Connectionist temporal classification (Graves et al. 2006) on contiguous log-probabilities x[steps, batch, classes].
// A sequence of `labels[n]` symbols has 2 labels[n] + 1 states: the symbols, with blanks before, between and behind
// them.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Ctc {
  const void* x = nullptr;
  const std::int64_t* target = nullptr;  // [batch, longest], within the classes as far as labels[n] goes
  const std::int64_t* frames = nullptr;  // [batch], at most `steps`
  const std::int64_t* labels = nullptr;  // [batch], at most `longest`
  std::int64_t steps = 0, batch = 0, classes = 0, longest = 0, blank = 0;
  void* loss = nullptr;  // forward: [batch], infinite where no alignment fits
  // [batch, steps, 2 longest + 1]: log-probability of reaching a state at a step, relative to the likeliest state of
  // that step. Written by forward unless it is null, read by backward.
  void* alpha = nullptr;
  void* scratch = nullptr;      // [batch, ctc_scratch(longest)]
  const void* grad = nullptr;   // backward: [batch]
  const void* total = nullptr;  // backward: the losses
  void* dx = nullptr;           // backward
};

// Elements of working memory per sequence: two rows of states, their emissions and what may be skipped.
constexpr std::int64_t ctc_scratch(std::int64_t longest) { return 4 * (2 * longest + 3); }

struct CtcKernels {
  // Return the first sequence with a length or symbol out of bounds, or -1.
  std::int64_t (*forward[kDTypeCount])(const Ctc&) = {};
  std::int64_t (*backward[kDTypeCount])(const Ctc&) = {};
};

}  // namespace pydlx
