// Normalisation over rows of a contiguous [rows, cols] matrix.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/half.h"

namespace pydlx {

struct LayerNormForward {
  const void* x = nullptr;
  // With a residual, x + residual is written to `sum` and normalised.
  const void* residual = nullptr;
  void* sum = nullptr;
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
  const void* dsum = nullptr;  // added to dx, or null
  void* dx = nullptr;          // or null
  void* dweight = nullptr;     // or null
  void* dbias = nullptr;       // or null
  void* scratch = nullptr;     // layer_norm_scratch(rows, cols) statistics when dweight or dbias is given
  std::int64_t rows = 0, cols = 0;
};

// The gradients of weight and bias are sums over rows. Chunks of rows keep partial sums, which are then added in order:
// a function of the shape alone, so any number of threads gives the same bits. At most 64 chunks (threads to feed, and
// little to add afterwards), of 16 rows or more (a chunk's partial sums are written and read once).
inline constexpr std::int64_t kNormChunks = 64, kNormChunkRows = 16;
PYDLX_HD std::int64_t layer_norm_chunk_rows(std::int64_t rows) {
  const std::int64_t even = (rows + kNormChunks - 1) / kNormChunks;
  return even > kNormChunkRows ? even : kNormChunkRows;
}
// Two sums per chunk and column, each with a running sum of at most kNormBlockRows rows beside its total.
inline constexpr std::int64_t kNormBlockRows = 256;
PYDLX_HD std::int64_t layer_norm_scratch(std::int64_t rows, std::int64_t cols) {
  const std::int64_t chunk = layer_norm_chunk_rows(rows), chunks = (rows + chunk - 1) / chunk;
  return (chunk > kNormBlockRows ? 4 : 2) * chunks * cols;
}

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
  void* var = nullptr;  // batch statistics: biased variance
  // Batch norm, [channels] or null: training moves them by `momentum` towards the statistics of the batch.
  void* running_mean = nullptr;
  void* running_var = nullptr;
  double momentum = 0;
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
  void (*batch_norm_fixed[kDTypeCount])(const ChannelNorm&) = {};  // mean and rstd of evaluation, from running ones
  void (*batch_norm_apply[kDTypeCount])(const ChannelNorm&) = {};
  void (*batch_norm_train[kDTypeCount])(const ChannelNorm&) = {};  // the two above at once, or null
  void (*batch_norm_backward[kDTypeCount])(const ChannelNorm&) = {};
  void (*group_norm[kDTypeCount])(const ChannelNorm&) = {};
  void (*group_norm_backward[kDTypeCount])(const ChannelNorm&) = {};
};

}  // namespace pydlx
