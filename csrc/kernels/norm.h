// Normalisation over rows of a contiguous [rows, cols] matrix.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct LayerNormForward {
  const void* x = nullptr;
  const void* weight = nullptr;  // [cols] or null
  const void* bias = nullptr;    // [cols] or null
  void* y = nullptr;
  void* mean = nullptr;  // [rows], float32 (float64 for float64 input); null: no centring, which is RMS normalisation
  void* rstd = nullptr;  // [rows], 1 / sqrt(var + eps)
  std::int64_t rows = 0, cols = 0;
  double eps = 0;
};

struct LayerNormBackward {
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* mean = nullptr;  // null for RMS normalisation
  const void* rstd = nullptr;
  void* dx = nullptr;       // or null
  void* dweight = nullptr;  // or null
  void* dbias = nullptr;    // or null
  std::int64_t rows = 0, cols = 0;
};

// Normalisation of a contiguous x[batch, channels, spatial]. Statistics and affine parameters are float32 (float64 for
// float64 input). Batch norm has one mean per channel, group norm one per (sample, group).
struct ChannelNorm {
  const void* x = nullptr;
  const void* dy = nullptr;      // backward only
  void* out = nullptr;           // y, or dx (may be null)
  const void* weight = nullptr;  // [channels] or null
  const void* bias = nullptr;
  void* mean = nullptr;  // written by the statistics kernels, read by the others
  void* rstd = nullptr;
  void* var = nullptr;      // batch statistics: biased variance
  void* dweight = nullptr;  // [channels] or null
  void* dbias = nullptr;
  void* scratch = nullptr;  // 2 * batch * channels statistics
  std::int64_t batch = 0, channels = 0, spatial = 0;
  std::int64_t groups = 0;  // group norm only
  double eps = 0;
  bool training = true;  // batch norm backward: the statistics depend on x
};

struct NormKernels {
  void (*layer_norm[kDTypeCount])(const LayerNormForward&) = {};
  void (*layer_norm_backward[kDTypeCount])(const LayerNormBackward&) = {};
  void (*batch_norm_stats[kDTypeCount])(const ChannelNorm&) = {};
  void (*batch_norm_apply[kDTypeCount])(const ChannelNorm&) = {};
  void (*batch_norm_backward[kDTypeCount])(const ChannelNorm&) = {};
  void (*group_norm[kDTypeCount])(const ChannelNorm&) = {};
  void (*group_norm_backward[kDTypeCount])(const ChannelNorm&) = {};
};

}  // namespace pydlx
