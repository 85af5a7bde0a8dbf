// Convolutions whose groups have few channels (depthwise above all), where a matrix product would be mostly padding.
// Vectors run along the output row; the planes of a group are first copied with their zero border, columns sorted by
// their residue modulo the stride, so that every tap of every output is one contiguous load without a test. The input
// gradient is the same sum over the output gradient with zeros between its elements and the taps reversed.
#include "cpu/conv/narrow_layer.h"

namespace pydlx::PYDLX_ISA {
namespace {

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

std::int64_t data_scratch(const Layer& s) { return (num_threads() * thread_floats(s) + 16) * 4 + (s.taps + 8) * 8; }

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

void register_narrow(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
