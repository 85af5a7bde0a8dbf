// What the passes of bfloat16 convolutions on channels-last images share: the product that they are, and which pixels
// its taps see.
#pragma once
#include "cpu/conv/pairs_last.h"
#include "cpu/conv/pairs_pixels.h"

namespace pydlx::PYDLX_ISA {
namespace {

// y[pixel][k] = sum over taps and channels of x[seen pixel][channel] w(tap, channel, k), for the pixels of a grid.
struct LastProduct {
  Pixels pixels;       // planes without channels: offsets count pixels
  int tap[kMostTaps];  // of the kernel, for every tap of `pixels`
  std::int64_t batch = 0, groups = 1, channels = 0, outputs = 0;
  std::int64_t x_pixel = 0;  // elements between pixels
  const T* x = nullptr;
  const T* w = nullptr;
  std::int64_t w_group = 0, w_tap = 0, w_channel = 0, w_output = 0;
  const T *bias = nullptr, *scale = nullptr;
  bool relu = false;
  T* y = nullptr;
  std::int64_t y_image = 0, y_row = 0, y_pixel = 0;  // elements, between pixels of the grid

  std::int64_t half() const { return ceil_div(channels, 2); }
  std::int64_t words() const { return pixels.all_taps() * half(); }
  std::int64_t panels() const { return ceil_div(outputs, kColumns); }
  std::int64_t total() const { return batch * pixels.plane(); }
  // Rows of the product are one run of x.
  bool in_place() const {
    return pixels.all_taps() == 1 && pixels.at[0] == 0 && x_pixel == groups * channels && channels % 2 == 0 &&
           pixels.dense() && pixels.plane() == pixels.rows * pixels.columns;
  }
};

void set_grid(LastProduct& p, const std::int64_t (&size)[3]) {
  p.pixels.rows = size[1];
  p.pixels.columns = size[2];
  p.pixels.image = plane_of(size);
}

LastProduct forward_product(const ConvShape& c) {
  LastProduct p;
  forward_pixels(c, nullptr, p.pixels);
  set_grid(p, c.in);
  for (int t = 0; t < p.pixels.all_taps(); ++t) p.tap[t] = t;
  p.batch = c.batch;
  p.groups = c.groups;
  p.channels = c.cin;
  p.x_pixel = c.groups * c.cin;
  p.outputs = c.cout;
  const std::int64_t taps = plane_of(c.kernel);
  p.w_group = c.cout * c.cin * taps;
  p.w_output = c.cin * taps;
  p.w_tap = c.weights_last ? c.cin : 1;
  p.w_channel = c.weights_last ? 1 : taps;
  p.y_pixel = c.groups * c.cout;
  p.y_row = c.out[2] * p.y_pixel;
  p.y_image = c.out[1] * p.y_row;
  return p;
}

constexpr std::int64_t kPixelsAhead = 8;  // rows of images are far apart, and their lines come from the third level

// Pixels [first, first + count) and taps -> the pixels they see, -1 outside.
void place_pixels(const Pixels& s, std::int64_t first, std::int64_t count, std::int32_t* place) {
  std::int64_t image = first / s.plane(), h = first % s.plane() / s.width, w = first % s.width;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto below = [](std::int64_t v, std::int64_t limit) {
      return static_cast<std::uint64_t>(v) < static_cast<std::uint64_t>(limit);
    };
    for (int a = 0; a < s.taps[0]; ++a) {
      const std::int64_t y = h * s.step[0] + s.shift[0][a], row = image * s.image + y * s.columns, x = w * s.step[1];
      const std::int64_t columns = below(y, s.rows) ? s.columns : 0;
      for (int b = 0; b < s.taps[1]; ++b)
        *place++ = static_cast<std::int32_t>(below(x + s.shift[1][b], columns) ? row + x + s.shift[1][b] : -1);
    }
    if (++w < s.width) continue;
    w = 0;
    if (++h < s.height) continue;
    h = 0;
    ++image;
  }
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
