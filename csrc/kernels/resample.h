// Moving images: sparse linear maps along one axis (padding, interpolation), sliding blocks, and sampling at given
// points.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/pool.h"

namespace pydlx {

// y[o, j, i] = sum over e in [start[j], start[j + 1]) of weight[e] x[o, index[e], i], with x [outer, in, inner], y
// [outer, out, inner]. The tables are host memory.
struct AxisMap {
  std::int64_t outer = 0, in = 0, out = 0, inner = 0;
  const std::int64_t* start = nullptr;
  const std::int64_t* index = nullptr;
  const double* weight = nullptr;
  const void* x = nullptr;
  void* y = nullptr;
};

// y[o, i, j, k] = x[o, index[0][i], index[1][j], index[2][k]], or `value` where an index is negative; x [outer, in], y
// [outer, out], both contiguous. The tables are host memory.
struct PlaneMap {
  std::int64_t outer = 0;
  std::int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1};
  const std::int64_t* index[3] = {};
  const void* x = nullptr;
  void* y = nullptr;
  alignas(8) unsigned char value[8] = {};  // one element
};

// Samples x [batch, channels, in] at grid [batch, out, axes], last coordinate first axis; [-1, 1] spans the image.
struct GridSample {
  enum class Mode : int { bilinear, nearest };
  enum class Padding : int { zeros, border, reflection };
  std::int64_t batch = 0, channels = 0, points = 0;  // points: product of the output's spatial sizes
  int axes = 2;                                      // 2 or 3
  std::int64_t in[3] = {1, 1, 1};                    // depth, height, width
  Mode mode = Mode::bilinear;
  Padding padding = Padding::zeros;
  bool align_corners = false;
  const void* x = nullptr;
  const void* grid = nullptr;
  void* y = nullptr;         // forward
  const void* dy = nullptr;  // backward
  void* dx = nullptr;        // or null
  void* dgrid = nullptr;     // or null
};

struct ResampleKernels {
  void (*axis_map[kDTypeCount])(const AxisMap&) = {};
  void (*plane_map[4])(const PlaneMap&) = {};  // by width_index; may be absent: then axis by axis
  // x [planes, in] <-> y [planes, kernel, out]: y[p, t, o] = x at o * stride - pad + t * dilation, 0 outside; fold is
  // the adjoint.
  void (*unfold[kDTypeCount])(const Pool&) = {};
  void (*fold[kDTypeCount])(const Pool&) = {};
  void (*grid_sample[kDTypeCount])(const GridSample&) = {};
  void (*grid_sample_backward[kDTypeCount])(const GridSample&) = {};
};

}  // namespace pydlx
