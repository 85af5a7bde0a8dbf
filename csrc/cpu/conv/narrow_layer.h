// What the passes of convolutions with few channels per group share: planes with their zero border, columns sorted by
// their residue modulo the stride, so that every tap of every output is one contiguous load without a test.
#pragma once
#include "cpu/conv/channel_end.h"
#include "cpu/conv/special.h"
#include "cpu/row_copy.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
using V = Vector<float>;

PYDLX_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
PYDLX_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// y[k](oy, ox) = bias[k] + sum over c, taps of w[k, c, tap] bordered[c](oy step_y + tap_y, ox step_x + tap_x).
struct Layer {
  std::int64_t batch, groups, cin, cout;
  std::int64_t in_y, in_x, out_y, out_x;
  std::int64_t taps_y, taps_x, dilation_y, dilation_x;
  std::int64_t step_y, step_x;      // between outputs
  std::int64_t spread_y, spread_x;  // between inputs: zeros are inserted for the gradient of a strided convolution
  std::int64_t front_y, front_x;    // border in front; negative values cut
  const float *x, *w, *start;
  ChannelEnd<float> end;
  float* y;
  std::int64_t w_in, w_out, w_group;
  bool flip;

  // What follows from the above: the bordered plane, and the inputs that fall inside of it.
  std::int64_t taps, rows, columns, part, pitch, plane;
  std::int64_t first_y, last_y, first_x, last_x;

  void finish() {
    taps = taps_y * taps_x;
    rows = (out_y - 1) * step_y + (taps_y - 1) * dilation_y + 1;
    columns = (out_x - 1) * step_x + (taps_x - 1) * dilation_x + 1;
    part = ceil_div(columns, step_x) + kLane;  // of one residue, with room for a vector that starts at the last output
    pitch = part * step_x;
    first_y = front_y >= 0 ? 0 : ceil_div(-front_y, spread_y);
    last_y = smaller(in_y, front_y >= rows ? 0 : (rows - 1 - front_y) / spread_y + 1);
    first_x = front_x >= 0 ? 0 : ceil_div(-front_x, spread_x);
    last_x = smaller(in_x, front_x >= columns ? 0 : (columns - 1 - front_x) / spread_x + 1);
    // With a large dilation the product need not fit an integer.
    fits = static_cast<double>(rows) * static_cast<double>(pitch) * static_cast<double>(cin) < 400e3;
    plane = fits ? rows * pitch : 0;
  }
  bool fits;  // the planes of a group stay in the second-level cache
};

Layer forward_layer(const ConvShape& c) {
  Layer s{};
  s.batch = c.batch;
  s.groups = c.groups;
  s.cin = c.cin;
  s.cout = c.cout;
  s.in_y = c.in[1];
  s.in_x = c.in[2];
  s.out_y = c.out[1];
  s.out_x = c.out[2];
  s.taps_y = c.kernel[1];
  s.taps_x = c.kernel[2];
  s.dilation_y = c.dilation[1];
  s.dilation_x = c.dilation[2];
  s.step_y = c.stride[1];
  s.step_x = c.stride[2];
  s.spread_y = s.spread_x = 1;
  s.front_y = c.pad[1];
  s.front_x = c.pad[2];
  s.w_in = c.kernel[1] * c.kernel[2];
  s.w_out = c.cin * s.w_in;
  s.w_group = c.cout * s.w_out;
  s.flip = false;
  s.finish();
  return s;
}

[[maybe_unused]] Layer gradient_layer(const ConvShape& c) {
  Layer s = forward_layer(c);
  s.cin = c.cout;
  s.cout = c.cin;
  s.in_y = c.out[1];
  s.in_x = c.out[2];
  s.out_y = c.in[1];
  s.out_x = c.in[2];
  s.step_y = s.step_x = 1;
  s.spread_y = c.stride[1];
  s.spread_x = c.stride[2];
  s.front_y = c.dilation[1] * (c.kernel[1] - 1) - c.pad[1];
  s.front_x = c.dilation[2] * (c.kernel[2] - 1) - c.pad[2];
  const std::int64_t w_in = s.w_in;
  s.w_in = s.w_out;
  s.w_out = w_in;
  s.flip = true;
  s.finish();
  return s;
}

// One plane into a buffer that was zero, or held another plane: element (r, col) of the bordered plane goes to
// r * pitch + col % step_x * part + col / step_x. The border is not written.
void copy_plane(const Layer& s, const float* x, float* out) {
  for (std::int64_t iy = s.first_y; iy < s.last_y; ++iy) {
    float* to = out + (s.front_y + iy * s.spread_y) * s.pitch;
    const float* from = x + iy * s.in_x;
    if (s.step_x == 1 && s.spread_x == 1) {
      copy_run(to + s.front_x + s.first_x, from + s.first_x, s.last_x - s.first_x);
    } else if (s.spread_x > 1) {  // step_x is 1
      for (std::int64_t i = s.first_x; i < s.last_x; ++i) to[s.front_x + i * s.spread_x] = from[i];
    } else {
      for (std::int64_t f = 0; f < s.step_x; ++f) {  // columns f, f + step, ... of the bordered row
        const std::int64_t lo = s.front_x <= f ? 0 : ceil_div(s.front_x - f, s.step_x);
        const std::int64_t end = smaller(s.columns, s.front_x + s.in_x);
        const std::int64_t hi = end <= f ? 0 : ceil_div(end - f, s.step_x);
        const float* src = from + f - s.front_x;
        float* dst = to + f * s.part;
        if (s.step_x == 2)
          for (std::int64_t i = lo; i < hi; ++i) dst[i] = src[2 * i];
        else
          for (std::int64_t i = lo; i < hi; ++i) dst[i] = src[i * s.step_x];
      }
    }
  }
}

// Offsets of the taps inside a bordered plane, in the order of the weights.
void tap_offsets(const Layer& s, std::int64_t* offset) {
  for (std::int64_t t = 0; t < s.taps; ++t) {
    const std::int64_t k = s.flip ? s.taps - 1 - t : t;
    const std::int64_t row = k / s.taps_x * s.dilation_y, col = k % s.taps_x * s.dilation_x;
    offset[t] = row * s.pitch + col % s.step_x * s.part + col / s.step_x;
  }
}

std::int64_t thread_floats(const Layer& s) { return (s.cin * s.plane + kLane + 15) / 16 * 16; }

// Output channels per unit of work: all, unless that leaves too few units. Every unit copies its own planes.
std::int64_t channel_share(const Layer& s, std::int64_t units) {
  return larger(8, ceil_div(ceil_div(s.cout, ceil_div(16, units)), 4) * 4);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
