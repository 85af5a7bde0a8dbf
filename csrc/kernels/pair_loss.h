// Losses that compare a prediction x with a target t element by element, fused with their reduction.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

enum class PairLossOp : int {
  mse,         // (x - t)^2
  l1,          // |x - t|
  smooth_l1,   // quadratic below param, slope 1 beyond
  huber,       // quadratic below param, slope param beyond
  bce,         // x and t are probabilities; logarithms bounded below by -100
  bce_logits,  // x is a logit
  kl,          // t (log t - x)
  kl_log,      // the same with t given as a logarithm
  COUNT
};

struct PairLoss {
  const void* x = nullptr;  // all contiguous
  const void* t = nullptr;
  std::int64_t n = 0;
  double param = 0;
  void* out = nullptr;           // forward: [n], or null
  void* partial = nullptr;       // forward: sums of kChunk elements each, float32 (float64 for float64), or null
  const void* grad = nullptr;    // backward: float32 (float64 for float64), one per element or a single one
  std::int64_t grad_stride = 0;  // 1 or 0
  void* dx = nullptr;            // backward: or null
  void* dt = nullptr;
  static constexpr std::int64_t kChunk = 4096;
};

struct PairLossKernels {
  // Returns the flat position of the first prediction outside the loss's domain, or -1.
  std::int64_t (*forward[static_cast<int>(PairLossOp::COUNT)][kDTypeCount])(const PairLoss&) = {};
  void (*backward[static_cast<int>(PairLossOp::COUNT)][kDTypeCount])(const PairLoss&) = {};
};

}  // namespace pydlx
