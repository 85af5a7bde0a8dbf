// Pooling over planes: every channel of every image is one plane of up to three axes (depth, height, width; missing
// ones have size 1).
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

// The window of output o along an axis starts at o * stride - pad and takes `kernel` positions `dilation` apart,
// clipped to the plane. Adaptive windows run from floor(o * in / out) to ceil((o + 1) * in / out).
struct Pool {
  std::int64_t planes = 0;
  std::int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1};
  std::int64_t kernel[3] = {1, 1, 1}, stride[3] = {1, 1, 1}, pad[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};
  bool adaptive = false;
  bool count_include_pad = true;  // averages divide by the window including padding (not what ceil mode adds)
  std::int64_t divisor = 0;       // averages divide by this when not 0
  void* x = nullptr;              // [planes, in]; written by average_grad
  void* y = nullptr;              // [planes, out]; written by the others
  std::int64_t* index = nullptr;  // [planes, out]: flat position of the maximum in its plane, or null when not wanted
  std::int64_t* pixel = nullptr;  // [planes, out]: the same over the first two axes alone, or null when not wanted
};

// wide [planes, wide_size] and narrow [planes, narrow_size], linked by index [planes, narrow_size] into the wide plane.
struct PlaneIndex {
  std::int64_t planes = 0, wide_size = 0, narrow_size = 0;
  void* wide = nullptr;
  void* narrow = nullptr;
  const std::int64_t* index = nullptr;
  bool trusted = false;  // made by the max kernel of the same geometry: not checked again
};

struct PoolKernels {
  // 16-bit floats where a backend has them; others are widened. Averages are then rounded once.
  void (*max[kDTypeCount])(const Pool&) = {};
  void (*average[kDTypeCount])(const Pool&) = {};
  void (*average_grad[kDTypeCount])(const Pool&) = {};
  // x <- for every position the sum of y over the windows whose index names it, or null: then it is scatter_add.
  void (*max_grad[kDTypeCount])(const Pool&) = {};
  // All three return the flat position of the first index outside its plane, or -1. scatter_add and place zero `wide`
  // first; place keeps the last of several values for one position.
  std::int64_t (*gather[kDTypeCount])(const PlaneIndex&) = {};
  std::int64_t (*scatter_add[kDTypeCount])(const PlaneIndex&) = {};
  std::int64_t (*place[kDTypeCount])(const PlaneIndex&) = {};
};

}  // namespace pydlx
