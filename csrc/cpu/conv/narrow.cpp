// Convolutions whose groups have few channels (depthwise above all), where a matrix product would be mostly padding.
// Vectors run along the output row; the planes of a group are first copied with their zero border, columns sorted by
// their residue modulo the stride, so that every tap of every output is one contiguous load without a test. The input
// gradient is the same sum over the output gradient with zeros between its elements and the taps reversed.
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

Layer gradient_layer(const ConvShape& c) {
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

constexpr int kRows = 4;      // output rows computed together
constexpr int kManyRows = 8;  // with one output channel: fewer sums than that leave the multipliers waiting

// KB output channels of `PV` rows, one vector of columns, any kernel.
template <int KB, int PV>
PYDLX_INLINE void sum_taps(const Layer& s, const float* planes, const float* w, const std::int64_t* offset,
                           V (&acc)[KB][PV]) {
  const std::int64_t taps = s.taps, row_step = s.step_y * s.pitch;
  for (std::int64_t c = 0; c < s.cin; ++c) {
    const float* plane = planes + c * s.plane;
    const float* wc = w + c * s.w_in;
    for (std::int64_t t = 0; t < taps; ++t) {
      const float* p = plane + offset[t];
      V x[PV];
#pragma GCC unroll 4
      for (int r = 0; r < PV; ++r) x[r] = load(p + r * row_step);
#pragma GCC unroll 4
      for (int k = 0; k < KB; ++k) {
        const V v = splat<float>(wc[k * s.w_out + t]);
#pragma GCC unroll 4
        for (int r = 0; r < PV; ++r) acc[k][r] += v * x[r];
      }
    }
  }
}

// The same for PV rows of a kernel KH rows high without dilation, SY input rows between outputs: a row of input is
// loaded once for all the outputs that see it. Most loads straddle two cache lines, so they are the limit.
template <int KB, int PV, int KH, int SY>
PYDLX_INLINE void sum_columns(const Layer& s, const float* planes, const float* w, const std::int64_t* offset,
                              V (&acc)[KB][PV]) {
  constexpr int kInputs = (PV - 1) * SY + KH;
  const std::int64_t pitch = s.pitch, across = s.taps_x;
  const std::int64_t w_row = s.flip ? -across : across, w_first = s.flip ? s.taps - 1 : 0;
  for (std::int64_t c = 0; c < s.cin; ++c) {
    const float* plane = planes + c * s.plane;
    const float* wc = w + c * s.w_in + w_first;
    for (std::int64_t j = 0; j < across; ++j) {
      const float* p = plane + offset[s.flip ? s.taps - 1 - j : j];
      const float* wj = s.flip ? wc - j : wc + j;
      V x[kInputs];
#pragma GCC unroll 16
      for (int r = 0; r < kInputs; ++r) x[r] = load(p + r * pitch);
#pragma GCC unroll 8
      for (int i = 0; i < KH; ++i)
#pragma GCC unroll 4
        for (int k = 0; k < KB; ++k) {
          const V v = splat<float>(wj[k * s.w_out + i * w_row]);
#pragma GCC unroll 8
          for (int r = 0; r < PV; ++r) acc[k][r] += v * x[r * SY + i];
        }
    }
  }
}

template <int KB, int PV, int KH, int SY>
PYDLX_INLINE void outputs(const Layer& s, const float* planes, const float* w, const std::int64_t* offset,
                          std::int64_t channel, float* y, int lanes) {
  V acc[KB][PV];
#pragma GCC unroll 4
  for (int k = 0; k < KB; ++k)
#pragma GCC unroll 8
    for (int r = 0; r < PV; ++r) acc[k][r] = splat<float>(s.start ? s.start[channel + k] : 0.0f);
  if constexpr (KH > 0)
    sum_columns<KB, PV, KH, SY>(s, planes, w, offset, acc);
  else
    sum_taps<KB, PV>(s, planes, w, offset, acc);
  if (s.end.active())
#pragma GCC unroll 4
    for (int k = 0; k < KB; ++k) {
      const Ending<float> end = s.end.one(channel + k);
#pragma GCC unroll 8
      for (int r = 0; r < PV; ++r) acc[k][r] = end(acc[k][r]);
    }
#pragma GCC unroll 4
  for (int k = 0; k < KB; ++k)
#pragma GCC unroll 8
    for (int r = 0; r < PV; ++r) {
      float* to = y + (k * s.out_y + r) * s.out_x;
      if (lanes == kLane)
        store<float>(to, acc[k][r]);
      else
        store_part(to, acc[k][r], Lanes(lanes));
    }
}

// KB output channels of one image and group. The last rows may be computed twice.
template <int KB, int KH, int SY>
void output_planes(const Layer& s, const float* planes, const float* w, const std::int64_t* offset,
                   std::int64_t channel, float* y) {
  const std::int64_t row_step = s.step_y * s.pitch;
  for (std::int64_t ox = 0; ox < s.out_x; ox += kLane) {
    const int lanes = static_cast<int>(smaller(kLane, s.out_x - ox));
    if (s.out_y < kRows) {
      for (std::int64_t oy = 0; oy < s.out_y; ++oy)
        outputs<KB, 1, 0, 0>(s, planes + oy * row_step + ox, w, offset, channel, y + oy * s.out_x + ox, lanes);
      continue;
    }
    std::int64_t i = 0;
    if constexpr (KB == 1 && KH > 0 && SY == 1)
      for (; i + kManyRows <= s.out_y; i += kManyRows)
        outputs<KB, kManyRows, KH, SY>(s, planes + i * row_step + ox, w, offset, channel, y + i * s.out_x + ox, lanes);
    for (; i < s.out_y; i += kRows) {
      const std::int64_t oy = smaller(i, s.out_y - kRows);
      outputs<KB, kRows, KH, SY>(s, planes + oy * row_step + ox, w, offset, channel, y + oy * s.out_x + ox, lanes);
    }
  }
}

using PlanesFn = void (*)(const Layer&, const float*, const float*, const std::int64_t*, std::int64_t, float*);
template <int KB>
PlanesFn planes_fn(const Layer& s) {
  if (s.dilation_y == 1 && kVectorBytes == 64) {  // other register files are too small
    if (s.taps_y == 3 && s.step_y == 1) return output_planes<KB, 3, 1>;
    if (s.taps_y == 3 && s.step_y == 2) return output_planes<KB, 3, 2>;
    if (s.taps_y == 5 && s.step_y == 1) return output_planes<KB, 5, 1>;
    if (s.taps_y == 7 && s.step_y == 1) return output_planes<KB, 7, 1>;
    if (s.taps_y == 7 && s.step_y == 2) return output_planes<KB, 7, 2>;
  }
  return output_planes<KB, 0, 0>;
}

// A whole plane whose rows fit a vector, one output channel, unit steps and a kernel KH rows high: rows are loaded once
// as they are, and a tap sees a row shifted by a permutation that brings in zeros. Copying such a plane between borders
// would take longer than its sums.
template <int KH>
void small_plane(const Layer& s, const float* x, const float* w, const std::int64_t*, std::int64_t channel, float* y) {
  constexpr int kInputs = kRows - 1 + KH;
  const std::int64_t in_plane = s.in_y * s.in_x;
  const Lanes in(static_cast<int>(s.in_x)), out(static_cast<int>(s.out_x));
  const std::int64_t w_row = s.flip ? -s.taps_x : s.taps_x, w_first = s.flip ? s.taps - 1 : 0, w_step = s.flip ? -1 : 1;
  using I = VectorOf<float>::index;
  I lane{};
  for (int l = 0; l < kLane; ++l) lane[l] = l;
  for (std::int64_t oy = 0; oy < s.out_y; oy += kRows) {
    V acc[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) acc[r] = splat<float>(s.start ? s.start[channel] : 0.0f);
    for (std::int64_t c = 0; c < s.cin; ++c) {
      V row[kInputs];
#pragma GCC unroll 16
      for (int r = 0; r < kInputs; ++r) {
        const std::int64_t iy = oy - s.front_y + r;
        row[r] = iy >= 0 && iy < s.in_y ? load_part(x + c * in_plane + iy * s.in_x, in) : V{};
      }
      const float* wc = w + c * s.w_in + w_first;
      for (std::int64_t j = 0; j < s.taps_x; ++j) {
        // Lane l of the tap is column l + shift: lanes of a second, zero operand where there is no such column.
        I from = lane + static_cast<int>(j * s.dilation_x - s.front_x);
        from = ((from < 0) | (from >= kLane)) ? I{} + kLane : from;
        V seen[kInputs];
#pragma GCC unroll 16
        for (int r = 0; r < kInputs; ++r) seen[r] = __builtin_shuffle(row[r], V{}, from);
#pragma GCC unroll 8
        for (int i = 0; i < KH; ++i) {
          const V v = splat<float>(wc[i * w_row + j * w_step]);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r) acc[r] += v * seen[r + i];
        }
      }
    }
    if (s.end.active())
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r] = s.end.one(channel)(acc[r]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
      if (oy + r < s.out_y) store_part(y + (oy + r) * s.out_x, acc[r], out);
  }
}

PlanesFn small_plane_fn(const Layer& s) {
  if (kVectorBytes != 64 || s.in_x > kLane || s.out_x > kLane || s.step_y * s.step_x * s.spread_y * s.spread_x != 1 ||
      s.dilation_y != 1 || s.dilation_x > 64 || s.cout != 1)
    return nullptr;
  return s.taps_y == 3 ? small_plane<3> : s.taps_y == 5 ? small_plane<5> : s.taps_y == 7 ? small_plane<7> : nullptr;
}

std::int64_t thread_floats(const Layer& s) { return (s.cin * s.plane + kLane + 15) / 16 * 16; }

std::int64_t data_scratch(const Layer& s) { return (num_threads() * thread_floats(s) + 16) * 4 + (s.taps + 8) * 8; }

// Output channels per unit of work: all, unless that leaves too few units. Every unit copies its own planes.
std::int64_t channel_share(const Layer& s, std::int64_t units) {
  return larger(8, ceil_div(ceil_div(s.cout, ceil_div(16, units)), 4) * 4);
}

void run_data(const Layer& s, void* scratch) {
  std::int64_t* offset =
      reinterpret_cast<std::int64_t*>((reinterpret_cast<std::uintptr_t>(scratch) + 63) & ~std::uintptr_t{63});
  float* buffers = reinterpret_cast<float*>(offset + (s.taps + 7) / 8 * 8);
  tap_offsets(s, offset);
  const std::int64_t share = channel_share(s, s.batch * s.groups), shares = ceil_div(s.cout, share);
  const PlanesFn small = small_plane_fn(s);
  const PlanesFn one = planes_fn<1>(s), two = planes_fn<2>(s), four = planes_fn<4>(s);
  const std::int64_t work = s.plane * s.cin + s.out_y * s.out_x * s.taps * s.cin * smaller(share, s.cout) / 4;
  parallel_for(s.batch * s.groups * shares, 65536 / work + 1, [&](std::int64_t b, std::int64_t e) {
    float* planes = buffers + thread_index() * thread_floats(s);
    if (!small) std::memset(planes, 0, static_cast<std::size_t>(thread_floats(s)) * sizeof(float));
    std::int64_t copied = -1;
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t u = i / shares, g = u % s.groups, k0 = i % shares * share;
      if (small) {
        small(s, s.x + u * s.cin * s.in_y * s.in_x, s.w + g * s.w_group, offset, g, s.y + u * s.out_y * s.out_x);
        continue;
      }
      if (u != copied)
        for (std::int64_t c = 0; c < s.cin; ++c)
          copy_plane(s, s.x + (u * s.cin + c) * s.in_y * s.in_x, planes + c * s.plane);
      copied = u;
      for (std::int64_t k = k0, k1 = smaller(s.cout, k0 + share); k < k1;) {
        const std::int64_t left = k1 - k, block = left >= 4 && kVectorBytes == 64 ? 4 : left >= 2 ? 2 : 1;
        (block == 4   ? four
         : block == 2 ? two
                      : one)(s, planes, s.w + g * s.w_group + k * s.w_out, offset, g * s.cout + k,
                             s.y + (u * s.cout + k) * s.out_y * s.out_x);
        k += block;
      }
    }
  });
}

// Taps accumulated together with one or two channels, and with eight: loads of the input straddle cache lines, so
// several channels share them.
constexpr int kTaps = 9, kFewTaps = 3, kManyChannels = 8;

// sums[k][t] += over rows [first, last) of dy[k] times the bordered input seen by each of NT taps.
template <int KB, int NT>
void plane_dots(const Layer& s, const float* plane, const float* dy, const std::int64_t* offset, float* sums,
                std::int64_t sums_channel, std::int64_t first, std::int64_t last) {
  V acc[KB][NT];
#pragma GCC unroll 8
  for (int k = 0; k < KB; ++k)
#pragma GCC unroll 9
    for (int t = 0; t < NT; ++t) acc[k][t] = load(sums + k * sums_channel + t * kLane);
  const std::int64_t channel = s.out_y * s.out_x;
  for (std::int64_t oy = first; oy < last; ++oy) {
    const float* p = plane + oy * s.step_y * s.pitch;
    const float* g = dy + oy * s.out_x;
    std::int64_t ox = 0;
    for (; ox + kLane <= s.out_x; ox += kLane) {
      V v[KB];
#pragma GCC unroll 8
      for (int k = 0; k < KB; ++k) v[k] = load(g + k * channel + ox);
#pragma GCC unroll 9
      for (int t = 0; t < NT; ++t) {
        const V x = load(p + ox + offset[t]);
#pragma GCC unroll 8
        for (int k = 0; k < KB; ++k) acc[k][t] += v[k] * x;
      }
    }
    if (ox < s.out_x) {  // masked on both sides: what follows a row may be infinite
      const Lanes lanes(static_cast<int>(s.out_x - ox));
      V v[KB];
#pragma GCC unroll 8
      for (int k = 0; k < KB; ++k) v[k] = load_part(g + k * channel + ox, lanes);
#pragma GCC unroll 9
      for (int t = 0; t < NT; ++t) {
        const V x = load_part(p + ox + offset[t], lanes);
#pragma GCC unroll 8
        for (int k = 0; k < KB; ++k) acc[k][t] += v[k] * x;
      }
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < KB; ++k)
#pragma GCC unroll 9
    for (int t = 0; t < NT; ++t) store<float>(sums + k * sums_channel + t * kLane, acc[k][t]);
}

std::int64_t padded_taps(const Layer& s) { return ceil_div(s.taps, kTaps) * kTaps; }
std::int64_t weight_floats(const Layer& s) { return thread_floats(s) + s.cin * s.cout * padded_taps(s) * kLane; }

}  // namespace

void narrow_data(const Conv& conv, ConvPass pass) {
  const bool forward = pass == ConvPass::forward;
  Layer s = forward ? forward_layer(conv.shape) : gradient_layer(conv.shape);
  s.x = static_cast<const float*>(forward ? conv.x : conv.y);
  s.y = static_cast<float*>(forward ? conv.y : conv.x);
  s.w = static_cast<const float*>(conv.w);
  s.start = start_of<float>(conv);
  s.end = end_of<float>(conv);
  run_data(s, conv.scratch);
}

bool narrow_fits(const ConvShape& c, ConvPass pass) {
  return (pass == ConvPass::input_grad ? gradient_layer(c) : forward_layer(c)).fits;
}

std::int64_t narrow_data_scratch(const ConvShape& c, ConvPass pass) {
  return data_scratch(pass == ConvPass::forward ? forward_layer(c) : gradient_layer(c));
}

std::int64_t narrow_weight_scratch(const ConvShape& c) {
  const Layer s = forward_layer(c);
  return (num_threads() * weight_floats(s) + 16) * 4 + (padded_taps(s) + 8) * 8;
}

// One group (or a share of its output channels) at a time, its images in order.
void narrow_weight(const Conv& conv) {
  const Layer s = forward_layer(conv.shape);
  const std::int64_t taps = s.taps, all = padded_taps(s);
  std::int64_t* offset =
      reinterpret_cast<std::int64_t*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  float* buffers = reinterpret_cast<float*>(offset + (all + 7) / 8 * 8);
  tap_offsets(s, offset);
  for (std::int64_t t = taps; t < all; ++t) offset[t] = offset[0];  // not used
  const float *x = static_cast<const float*>(conv.x), *dy = static_cast<const float*>(conv.y);
  const std::int64_t share = channel_share(s, s.groups), shares = ceil_div(s.cout, share);
  const std::int64_t channel = s.out_y * s.out_x;
  // Rows whose input stays in the first-level cache while all channels and taps pass over it.
  const std::int64_t band = larger(1, 4096 / (s.pitch * s.step_y));
  parallel_for(s.groups * shares, 1, [&](std::int64_t b, std::int64_t e) {
    float* planes = buffers + thread_index() * weight_floats(s);
    float* sums = planes + thread_floats(s);
    std::memset(planes, 0, static_cast<std::size_t>(thread_floats(s)) * sizeof(float));
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t g = u / shares, k0 = u % shares * share, k1 = smaller(s.cout, k0 + share);
      std::memset(sums, 0, static_cast<std::size_t>(s.cin * (k1 - k0) * all * kLane) * sizeof(float));
      for (std::int64_t n = 0; n < s.batch; ++n)
        for (std::int64_t c = 0; c < s.cin; ++c) {
          copy_plane(s, x + ((n * s.groups + g) * s.cin + c) * s.in_y * s.in_x, planes);
          for (std::int64_t y0 = 0; y0 < s.out_y; y0 += band)
            for (std::int64_t k = k0; k < k1;) {
              const std::int64_t y1 = smaller(s.out_y, y0 + band);
              const float* from = dy + ((n * s.groups + g) * s.cout + k) * channel;
              float* to = sums + ((k - k0) * s.cin + c) * all * kLane;
              const std::int64_t next = s.cin * all * kLane, left = kVectorBytes == 64 ? k1 - k : 1;
              if (left >= kManyChannels) {
                for (std::int64_t t = 0; t < taps; t += kFewTaps)
                  plane_dots<kManyChannels, kFewTaps>(s, planes, from, offset + t, to + t * kLane, next, y0, y1);
                k += kManyChannels;
              } else if (left >= 2) {
                for (std::int64_t t = 0; t < taps; t += kTaps)
                  plane_dots<2, kTaps>(s, planes, from, offset + t, to + t * kLane, next, y0, y1);
                k += 2;
              } else {
                for (std::int64_t t = 0; t < taps; t += kTaps)
                  plane_dots<1, kTaps>(s, planes, from, offset + t, to + t * kLane, next, y0, y1);
                k += 1;
              }
            }
        }
      float* dw = static_cast<float*>(conv.w) + g * s.w_group + k0 * s.w_out;
      for (std::int64_t i = 0; i < s.cin * (k1 - k0); ++i)
        for (std::int64_t t = 0; t < taps; ++t) {
          float* p = sums + (i * all + t) * kLane;
          for (int half = kLane / 2; half >= 1; half /= 2)
            for (int l = 0; l < half; ++l) p[l] += p[l + half];
          dw[i * taps + t] = p[0];
        }
    }
  });
}

void register_narrow(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
