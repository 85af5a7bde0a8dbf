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
  void* mean = nullptr;  // [rows], float32 (float64 for float64 input)
  void* rstd = nullptr;  // [rows], 1 / sqrt(var + eps)
  std::int64_t rows = 0, cols = 0;
  double eps = 0;
};

struct LayerNormBackward {
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  void* dx = nullptr;       // or null
  void* dweight = nullptr;  // or null
  void* dbias = nullptr;    // or null
  std::int64_t rows = 0, cols = 0;
};

struct NormKernels {
  void (*layer_norm[kDTypeCount])(const LayerNormForward&) = {};
  void (*layer_norm_backward[kDTypeCount])(const LayerNormBackward&) = {};
};

}  // namespace pydlx
