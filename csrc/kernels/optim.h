// Optimiser steps over many tensors at once. All lists have `count` entries; every tensor is dense and all lists agree
// in layout.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

inline constexpr int kMaxOptimState = 3;

struct OptimStep {
  std::int64_t count = 0;                   // tensors
  const std::int64_t* start = nullptr;      // [count + 1]: the tensors' places when all elements are laid end to end
  void* const* param = nullptr;             // [count]
  const void* const* grad = nullptr;        // [count]
  void* const* state[kMaxOptimState] = {};  // each [count], or null when the options leave it unused
  double weight_decay = 0;                  // added to the gradient
  bool maximize = false;
  // Where a recorded step finds, on its device, the numbers that change between replays; null outside of
  // recordings.
  const double* numbers = nullptr;
};

inline constexpr int kMaxOptimNumbers = 3;

struct SgdStep : OptimStep {  // state: momentum buffer; numbers: lr, first_step
  double lr = 0, momentum = 0, dampening = 0;
  bool nesterov = false;
  bool first_step = false;  // the buffers hold nothing yet: they become the gradients
};

// State: first moment, second moment, largest second moment (amsgrad). Numbers: step_size, correction2_sqrt, shrink.
struct AdamStep : OptimStep {
  double step_size = 0;  // lr / (1 - beta1^t)
  double beta1 = 0, beta2 = 0, eps = 0;
  double correction2_sqrt = 1;  // sqrt(1 - beta2^t)
  double shrink = 1;            // 1 - lr * decoupled weight decay
};

// State: square average, gradient average (centered), momentum buffer. Numbers: lr.
struct RmspropStep : OptimStep {
  double lr = 0, alpha = 0, eps = 0, momentum = 0;
};

struct AdagradStep : OptimStep {  // state: sum of squares; numbers: lr
  double lr = 0;                  // after its own decay
  double eps = 0;
};

// Tensors of any dtypes to fill with zeros.
struct ZeroStep {
  std::int64_t count = 0;
  const std::int64_t* start = nullptr;  // [count + 1]: their places, in cache lines, when all are laid end to end
  void* const* data = nullptr;          // [count]
  const std::int64_t* bytes = nullptr;  // [count]
};

struct OptimKernels {
  void (*zero)(const ZeroStep&) = nullptr;  // where there is none, tensors are filled one by one
  void (*sgd[kDTypeCount])(const SgdStep&) = {};
  void (*adam[kDTypeCount])(const AdamStep&) = {};
  void (*rmsprop[kDTypeCount])(const RmspropStep&) = {};
  void (*adagrad[kDTypeCount])(const AdagradStep&) = {};
};

}  // namespace pydlx
