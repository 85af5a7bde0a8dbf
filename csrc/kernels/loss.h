// Classification losses on a contiguous x[outer, classes, inner]; a row is one (outer, inner) pair, numbered outer *
// inner_size + inner. `acc` below is float32, float64 for float64 input. Kernels return the row of the first target
// outside [0, classes) that is not ignore_index, or -1.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct CrossEntropy {
  const void* x = nullptr;
  const std::int64_t* target = nullptr;  // [rows]
  const void* weight = nullptr;          // acc [classes] or null
  std::int64_t outer = 0, classes = 0, inner = 1;
  std::int64_t ignore_index = -100;
  double smoothing = 0;          // label smoothing
  void* loss = nullptr;          // forward: acc [rows], 0 for ignored rows
  void* row_weight = nullptr;    // forward: acc [rows], weight of the row's target, 0 for ignored rows
  void* lse = nullptr;           // acc [rows], log sum exp; written by forward, read by backward
  const void* grad = nullptr;    // backward: acc, one per row or a single one
  std::int64_t grad_stride = 0;  // 1 or 0
  void* dx = nullptr;            // backward; may be x itself
};

struct NllLoss {
  const void* x = nullptr;
  const std::int64_t* target = nullptr;
  const void* weight = nullptr;
  std::int64_t outer = 0, classes = 0, inner = 1;
  std::int64_t ignore_index = -100;
  void* loss = nullptr;        // forward: dtype of x [rows]: -weight[t] x[t]
  void* row_weight = nullptr;  // forward: acc [rows]
  const void* grad = nullptr;  // backward: dtype of x, one per row
  void* dx = nullptr;          // backward: -weight[t] grad at t, 0 elsewhere
};

// The losses of up to kMostMeanRows rows over their weights, all in acc.
struct MeanLoss {
  std::int64_t rows = 0;
  const void *loss = nullptr, *row_weight = nullptr;
  void *mean = nullptr, *total_weight = nullptr;
};
inline constexpr std::int64_t kMostMeanRows = 1 << 15;

struct LossKernels {
  std::int64_t (*cross_entropy[kDTypeCount])(const CrossEntropy&) = {};
  void (*cross_entropy_backward[kDTypeCount])(const CrossEntropy&) = {};
  std::int64_t (*nll_loss[kDTypeCount])(const NllLoss&) = {};
  void (*nll_loss_backward[kDTypeCount])(const NllLoss&) = {};
  void (*mean[kDTypeCount])(const MeanLoss&) = {};  // by acc; where there is none, sums are divided
};

}  // namespace pydlx
