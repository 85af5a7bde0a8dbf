// Weight gradient by its definition: dw[k][c][tap] is the sum over pixels of dy[k] times the input that the tap sees.
// Both operands are transposed to pixel-major bands; a register tile of input channels (broadcast) by output channels
// (vectors) runs over the pixels of a band, once per tap. Every element is one sequential sum over images and pixels.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kRows = tuning::kGradRows;  // channels of the input per register tile, by two vectors
constexpr std::int64_t kBlock = 4;        // channel groups per unit of work, on either side, at most
constexpr std::int64_t kBandFloats = tuning::kDirectGradBand;  // input of a band for kBlock groups

struct Plan {
  std::int64_t x_groups, y_groups;  // groups of kLane channels
  std::int64_t x_block, y_block;    // of them per unit of work
  std::int64_t x_blocks, y_blocks;
  std::int64_t rows, bands, pitch;  // output rows per band, input columns
  std::int64_t input_rows, x_floats, y_floats, sums, thread;
};

std::int64_t taps_of(const ConvShape& c) { return c.kernel[0] * c.kernel[1] * c.kernel[2]; }

Plan make_plan(const ConvShape& c) {
  Plan p;
  p.x_groups = ceil_div(c.cin, kLane);
  p.y_groups = ceil_div(c.cout, kLane);
  p.x_block = smaller(kBlock, p.x_groups);
  p.y_block = smaller(taps_of(c) > 9 ? kBlock : 2 * kBlock, p.y_groups);  // the sums fit a cache
  // Smaller blocks transpose the operands more often, but few units leave threads idle. The sums do not depend on it.
  while (ceil_div(p.x_groups, p.x_block) * ceil_div(p.y_groups, p.y_block) < 2 * num_threads()) {
    if (p.y_block > 2 && p.y_block >= p.x_block)
      p.y_block = round_up(p.y_block / 2, 2);
    else if (p.x_block > 1)
      p.x_block = (p.x_block + 1) / 2;
    else
      break;
  }
  p.x_blocks = ceil_div(p.x_groups, p.x_block);
  p.y_blocks = ceil_div(p.y_groups, p.y_block);
  const std::int64_t extent_y = (c.kernel[1] - 1) * c.dilation[1] + 1, extent_x = (c.kernel[2] - 1) * c.dilation[2] + 1;
  p.pitch = (c.out[2] - 1) * c.stride[2] + extent_x;
  const auto input_rows = [&](std::int64_t rows) { return (rows - 1) * c.stride[1] + extent_y; };
  p.rows = 1;
  while (p.rows < c.out[1] && input_rows(p.rows + 1) * p.pitch * kLane * kBlock <= kBandFloats &&
         (p.rows + 1) * c.out[2] * kLane * kBlock <= kBandFloats)
    ++p.rows;
  p.bands = ceil_div(c.out[1], p.rows);
  p.input_rows = input_rows(p.rows);
  p.x_floats = p.x_block * p.input_rows * p.pitch * kLane;
  p.y_floats = p.y_block * p.rows * c.out[2] * kLane;
  p.sums = p.x_block * p.y_block * taps_of(c) * kLane * kLane;
  p.thread = round_up(p.x_floats + p.y_floats + p.sums, 16);
  return p;
}

// sums[c][k] += x(pixel)[c] dy(pixel)[k] for kRows channels c and NV vectors of k.
template <int NV>
__attribute__((noinline)) void add_pixels(const float* x, std::int64_t x_row, std::int64_t x_pixel, const float* dy,
                                          std::int64_t dy_vector, std::int64_t rows, std::int64_t columns, float* sums,
                                          std::int64_t sums_vector) {
  V acc[kRows][NV];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[i][j] = load(sums + j * sums_vector + i * kLane);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* px = x + r * x_row;
    for (std::int64_t i = 0; i < columns; ++i) {
      V g[NV];
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) g[j] = load(dy + j * dy_vector);
#pragma GCC unroll 8
      for (int k = 0; k < kRows; ++k) {
        const V v = splat<float>(px[k]);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[k][j] += v * g[j];
      }
      px += x_pixel;
      dy += kLane;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) store<float>(sums + j * sums_vector + i * kLane, acc[i][j]);
}

struct Operands {
  const float *x, *dy;  // of this group
  float* dw;
};

void run_unit(const ConvShape& c, const Plan& p, const Operands& o, std::int64_t xb, std::int64_t yb, float* memory) {
  float *pixels = memory, *grads = pixels + p.x_floats, *sums = grads + p.y_floats;
  const std::int64_t g0 = xb * p.x_block, g1 = smaller(p.x_groups, g0 + p.x_block);
  const std::int64_t h0 = yb * p.y_block, h1 = smaller(p.y_groups, h0 + p.y_block);
  const std::int64_t taps = taps_of(c), in_plane = c.in[1] * c.in[2], out_plane = c.out[1] * c.out[2],
                     plane_taps = c.kernel[1] * c.kernel[2];
  const ImageLayout x_at = x_layout(c), y_at = y_layout(c);
  // sums[output group][input group][tap][input channel][output channel]
  const std::int64_t per_tap = kLane * kLane, per_output = (g1 - g0) * taps * per_tap;
  std::memset(sums, 0, static_cast<std::size_t>((h1 - h0) * per_output) * sizeof(float));
  // One band of one output plane, and the input plane that a tap along the depth sees.
  const auto add_plane = [&](std::int64_t n, std::int64_t z, std::int64_t depth_tap, std::int64_t y0, std::int64_t y1) {
    const std::int64_t first = y0 * c.stride[1] - c.pad[1];
    const std::int64_t rows = (y1 - y0 - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
    const std::int64_t x_group = rows * p.pitch * kLane, y_group = (y1 - y0) * c.out[2] * kLane;
    for (std::int64_t g = g0; g < g1; ++g) {
      const Planes planes{
          const_cast<float*>(o.x) + n * x_at.image + g * kLane * x_at.channel + z * in_plane * x_at.pixel,
          x_at.channel,
          c.in[1],
          c.in[2],
          static_cast<int>(smaller(kLane, c.cin - g * kLane)),
          x_at.pixel};
      gather_pixels(planes, first, first + rows, -c.pad[2], p.pitch - c.pad[2], pixels + (g - g0) * x_group);
    }
    for (std::int64_t h = 0; h < h1 - h0; h += 2)
      for (std::int64_t g = 0; g < g1 - g0; ++g)
        for (std::int64_t t = 0; t < plane_taps; ++t) {
          const float* x = pixels + g * x_group +
                           (t / c.kernel[2] * c.dilation[1] * p.pitch + t % c.kernel[2] * c.dilation[2]) * kLane;
          float* to = sums + h * per_output + (g * taps + depth_tap * plane_taps + t) * per_tap;
          for (int r = 0; r < kLane; r += kRows)
            (h + 1 < h1 - h0 ? add_pixels<2> : add_pixels<1>)(x + r, c.stride[1] * p.pitch * kLane, c.stride[2] * kLane,
                                                              grads + h * y_group, y_group, y1 - y0, c.out[2],
                                                              to + r * kLane, per_output);
        }
  };
  for (std::int64_t n = 0; n < c.batch; ++n)
    for (std::int64_t z = 0; z < c.out[0]; ++z)
      for (std::int64_t band = 0; band < p.bands; ++band) {
        const std::int64_t y0 = band * p.rows, y1 = smaller(c.out[1], y0 + p.rows);
        for (std::int64_t h = h0; h < h1; ++h) {
          const Planes planes{
              const_cast<float*>(o.dy) + n * y_at.image + h * kLane * y_at.channel + z * out_plane * y_at.pixel,
              y_at.channel,
              c.out[1],
              c.out[2],
              static_cast<int>(smaller(kLane, c.cout - h * kLane)),
              y_at.pixel};
          gather_pixels(planes, y0, y1, 0, c.out[2], grads + (h - h0) * (y1 - y0) * c.out[2] * kLane);
        }
        for (std::int64_t t = 0; t < c.kernel[0]; ++t) {
          const std::int64_t from = z * c.stride[0] - c.pad[0] + t * c.dilation[0];
          if (from >= 0 && from < c.in[0]) add_plane(n, from, t, y0, y1);
        }
      }
  for (std::int64_t h = 0; h < h1 - h0; ++h)
    for (std::int64_t g = 0; g < g1 - g0; ++g) {
      const std::int64_t k0 = (h0 + h) * kLane, c0 = (g0 + g) * kLane;
      const float* from = sums + h * per_output + g * taps * per_tap;
      for (std::int64_t k = k0; k < smaller(c.cout, k0 + kLane); ++k)
        for (std::int64_t ch = c0; ch < smaller(c.cin, c0 + kLane); ++ch)
          for (std::int64_t t = 0; t < taps; ++t)
            o.dw[(k * c.cin + ch) * taps + t] = from[t * per_tap + (ch - c0) * kLane + (k - k0)];
    }
}

}  // namespace

std::int64_t direct_weight_scratch(const ConvShape& c) {
  return (num_threads() * make_plan(c).thread + 16) * static_cast<std::int64_t>(sizeof(float));
}

void direct_weight(const Conv& conv) {
  const ConvShape& c = conv.shape;
  const Plan p = make_plan(c);
  float* buffers =
      reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  const std::int64_t units = p.x_blocks * p.y_blocks, taps = taps_of(c);
  parallel_for(c.groups * units, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t g = u / units, i = u % units;
      const Operands o{static_cast<const float*>(conv.x) + g * x_layout(c).group,
                       static_cast<const float*>(conv.y) + g * y_layout(c).group,
                       static_cast<float*>(conv.w) + g * c.cout * c.cin * taps};
      run_unit(c, p, o, i / p.y_blocks, i % p.y_blocks, buffers + thread_index() * p.thread);
    }
  });
}

void register_direct_weight(KernelTable&) {}  // reached through conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
