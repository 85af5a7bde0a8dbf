// The weight gradient of convolutions whose groups have few channels: for every tap the dot product of rows of the
// output gradient with the bordered input that it sees (see narrow_layer.h).
#include "cpu/conv/narrow_layer.h"

namespace pydlx::PYDLX_ISA {
namespace {

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

void register_narrow_weight(KernelTable&) {}  // reached through conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
