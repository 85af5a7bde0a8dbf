// Depthwise convolutions of channels-last images: every channel has a kernel of its own, so vectors run along the
// channels. A band of kLane channels is copied between zero borders, which leaves the first-level cache no more, and
// the kernels stay in registers while the pixels pass. The input gradient is the same sum over the output gradient with
// zeros between its elements and the taps reversed.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kBandFloats = tuning::kDepthwiseBand;
constexpr int kMostTaps = 256;
constexpr int kPixels = 4;    // outputs side by side
constexpr int kGradTaps = 9;  // of the weight gradient, summed together

struct Layer {
  std::int64_t batch, channels, groups;  // groups of kLane channels
  std::int64_t in[2], out[2], taps[2], dilation[2], step[2], spread[2], front[2];
  std::int64_t extent[2], pitch, rows, bands, band_floats;  // `rows` of the output

  std::int64_t all_taps() const { return taps[0] * taps[1]; }
  std::int64_t input_rows(std::int64_t n) const { return (n - 1) * step[0] + extent[0]; }
};

Layer layer_of(const ConvShape& c, ConvPass pass) {
  const bool gradient = pass == ConvPass::input_grad;
  Layer s{};
  s.batch = c.batch;
  s.channels = c.groups;
  s.groups = ceil_div(c.groups, kLane);
  for (int i = 0; i < 2; ++i) {
    s.in[i] = (gradient ? c.out : c.in)[i + 1];
    s.out[i] = (gradient ? c.in : c.out)[i + 1];
    s.taps[i] = c.kernel[i + 1];
    s.dilation[i] = c.dilation[i + 1];
    s.extent[i] = (s.taps[i] - 1) * s.dilation[i] + 1;
    s.step[i] = gradient ? 1 : c.stride[i + 1];
    s.spread[i] = gradient ? c.stride[i + 1] : 1;
    s.front[i] = gradient ? s.extent[i] - 1 - c.pad[i + 1] : c.pad[i + 1];
  }
  s.pitch = (s.out[1] - 1) * s.step[1] + s.extent[1];
  s.rows = 1;
  while (s.rows < s.out[0] && s.input_rows(s.rows + 1) * s.pitch * kLane <= kBandFloats) ++s.rows;
  s.bands = ceil_div(s.out[0], s.rows);
  s.rows = ceil_div(s.out[0], s.bands);
  s.bands = ceil_div(s.out[0], s.rows);
  s.band_floats = round_up(s.input_rows(s.rows) * s.pitch * kLane, 16);
  return s;
}

// Offsets of the taps in a band.
void tap_offsets(const Layer& s, std::int64_t* offset) {
  for (std::int64_t t = 0; t < s.all_taps(); ++t)
    offset[t] = (t / s.taps[1] * s.dilation[0] * s.pitch + t % s.taps[1] * s.dilation[1]) * kLane;
}

// The input of output rows [y0, y1), with its border; `x` is the first of kLane channels of an image.
void copy_band(const Layer& s, const float* x, int channels, std::int64_t y0, std::int64_t y1, float* band) {
  const std::int64_t first = y0 * s.step[0] - s.front[0], rows = s.input_rows(y1 - y0);
  if (s.spread[0] * s.spread[1] == 1) {
    const Planes planes{const_cast<float*>(x), 1, s.in[0], s.in[1], channels, s.channels};
    if (s.channels > 1) return gather_pixels(planes, first, first + rows, -s.front[1], s.pitch - s.front[1], band);
  }
  std::memset(band, 0, static_cast<std::size_t>(rows * s.pitch * kLane) * sizeof(float));
  const Lanes lanes(channels);
  const std::int64_t sy = s.spread[0], sx = s.spread[1];
  const std::int64_t ya = first <= 0 ? 0 : ceil_div(first, sy), xa = s.front[1] >= 0 ? 0 : ceil_div(-s.front[1], sx);
  for (std::int64_t y = ya; y < s.in[0] && y * sy < first + rows; ++y)
    for (std::int64_t i = xa; i < s.in[1] && i * sx < s.pitch - s.front[1]; ++i)
      store<float>(band + ((y * sy - first) * s.pitch + i * sx + s.front[1]) * kLane,
                   load_part(x + (y * s.in[1] + i) * s.channels, lanes));
}

// Outputs of a row, kPixels or one at a time: sum(x, acc) adds the taps to acc, the outputs from x on. Vectors lie a
// pixel's channels apart, which the hardware does not see coming: the lines of the next row are asked for.
template <class Sum>
PYDLX_INLINE void row_of(const Layer& s, V start, const Ending<float>* end, float* y, int channels, const Sum& sum) {
  const Lanes lanes(channels);
  const std::int64_t pixel = s.channels, next = pixel * s.out[1], wide = s.out[1];
  const auto some = [&]<int P>(std::int64_t x) __attribute__((always_inline)) {
    V acc[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) acc[p] = start;
    sum(x, acc);
    if (end)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[p] = (*end)(acc[p]);
    float* to = y + x * pixel;
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p, to += pixel) {
      __builtin_prefetch(to + next, 1);
      if (channels == kLane)
        store<float>(to, acc[p]);
      else
        store_part(to, acc[p], lanes);
    }
  };
  std::int64_t x = 0;
  for (; x + kPixels <= wide; x += kPixels) some.template operator()<kPixels>(x);
  for (; x < wide; ++x) some.template operator()<1>(x);
}

// Into the second level: the input rows that belong to output row i, of the group of channels whose turn is next.
PYDLX_INLINE void ask_for_rows(const Layer& s, const float* x, std::int64_t i) {
  const std::int64_t first = i * s.step[0] / s.spread[0], last = smaller(s.in[0], (i + 1) * s.step[0] / s.spread[0]);
  for (std::int64_t q = first * s.in[1]; q < last * s.in[1]; ++q) __builtin_prefetch(x + q * s.channels, 0, 2);
}

// Any kernel.
__attribute__((noinline)) void output_row(const Layer& s, const float* band, const float* w, const std::int64_t* offset,
                                          V start, const Ending<float>* end, float* y, int channels) {
  const int taps = static_cast<int>(s.all_taps());
  const std::int64_t step = s.step[1] * kLane;
  row_of(s, start, end, y, channels, [&]<int P>(std::int64_t x, V(&acc)[P]) __attribute__((always_inline)) {
    const float* from = band + x * step;
    for (int t = 0; t < taps; ++t) {
      const V v = load(w + t * kLane);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[p] += v * load(from + p * step + offset[t]);
    }
  });
}

// K x K taps without dilation, S columns between outputs: all distances are known, so that no address is computed, and
// a value is loaded once for all the outputs side by side that see it. The same sums in the same order.
template <int K, int S>
__attribute__((noinline)) void output_row_of(const Layer& s, const float* band, const float* w, const std::int64_t*,
                                             V start, const Ending<float>* end, float* y, int channels) {
  V kept[K * K];
#pragma GCC unroll 25
  for (int t = 0; t < K * K; ++t) kept[t] = load(w + t * kLane);
  const std::int64_t pitch = s.pitch * kLane;
  row_of(s, start, end, y, channels, [&]<int P>(std::int64_t x, V(&acc)[P]) __attribute__((always_inline)) {
    const float* from = band + x * S * kLane;
#pragma GCC unroll 5
    for (int i = 0; i < K; ++i, from += pitch)
#pragma GCC unroll 16
      for (int j = 0; j < (P - 1) * S + K; ++j) {
        const V v = load(from + j * kLane);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
          if (j >= p * S && j < p * S + K) acc[p] += kept[i * K + j - p * S] * v;
      }
  });
}

using RowFn = void (*)(const Layer&, const float*, const float*, const std::int64_t*, V, const Ending<float>*, float*,
                       int);
RowFn choose_row(const Layer& s) {
  const std::int64_t k = s.taps[0], step = s.step[1];
  if (s.taps[1] != k || s.dilation[0] * s.dilation[1] != 1 || step > 2) return output_row;
  if (k == 3) return step == 1 ? output_row_of<3, 1> : output_row_of<3, 2>;
  if (k == 5) return step == 1 ? output_row_of<5, 1> : output_row_of<5, 2>;
  return output_row;
}

// sums[t] += dy times the input that the tap sees, over output rows of a band and kGradTaps taps.
__attribute__((noinline)) void add_rows(const Layer& s, const float* band, const std::int64_t* offset, const float* dy,
                                        int channels, std::int64_t rows, float* sums) {
  const Lanes lanes(channels);
  V acc[kGradTaps];
#pragma GCC unroll 9
  for (int t = 0; t < kGradTaps; ++t) acc[t] = load(sums + t * kLane);
  for (std::int64_t y = 0; y < rows; ++y) {
    const float* from = band + y * s.step[0] * s.pitch * kLane;
    for (std::int64_t x = 0; x < s.out[1]; ++x, from += s.step[1] * kLane, dy += s.channels) {
      const V g = channels == kLane ? load(dy) : load_part(dy, lanes);
#pragma GCC unroll 9
      for (int t = 0; t < kGradTaps; ++t) acc[t] += g * load(from + offset[t]);
    }
  }
#pragma GCC unroll 9
  for (int t = 0; t < kGradTaps; ++t) store<float>(sums + t * kLane, acc[t]);
}

float* align(void* memory) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory) + 63) & ~std::uintptr_t{63});
}

// Images with sums of their own, so that few channels occupy all threads; a function of the geometry.
std::int64_t image_chunks(const Layer& s) { return s.groups >= 8 ? 1 : smaller(s.batch, ceil_div(8, s.groups)); }
std::int64_t grad_taps(const Layer& s) { return round_up(s.all_taps(), kGradTaps); }

}  // namespace

bool depthwise_last_fits(const ConvShape& c) {
  if (c.cin != 1 || c.cout != 1 || c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1 || c.pad[0] != 0) return false;
  if (c.kernel[1] * c.kernel[2] > kMostTaps) return false;
  for (int i = 1; i < 3; ++i)
    if (c.dilation[i] > 1024 || c.stride[i] > 64 || c.pad[i] > 1024) return false;
  return layer_of(c, ConvPass::forward).band_floats <= 32 * kBandFloats &&
         layer_of(c, ConvPass::input_grad).band_floats <= 32 * kBandFloats;
}

std::int64_t depthwise_last_scratch(const ConvShape& c, ConvPass pass) {
  const Layer s = layer_of(c, pass);
  const std::int64_t kernels = pass == ConvPass::weight_grad ? s.groups * image_chunks(s) * grad_taps(s) * kLane
                                                             : s.groups * s.all_taps() * kLane;
  return (round_up(kernels, 16) + num_threads() * s.band_floats + 16) * static_cast<std::int64_t>(sizeof(float));
}

void depthwise_last_data(const Conv& conv, ConvPass pass) {
  const Layer s = layer_of(conv.shape, pass);
  const bool forward = pass == ConvPass::forward;
  const std::int64_t taps = s.all_taps(), in_image = s.in[0] * s.in[1] * s.channels,
                     out_image = s.out[0] * s.out[1] * s.channels;
  const float *x = static_cast<const float*>(forward ? conv.x : conv.y), *w = static_cast<const float*>(conv.w),
              *bias = start_of<float>(conv);
  const ChannelEnd<float> all_ends = end_of<float>(conv);
  float* y = static_cast<float*>(forward ? conv.y : conv.x);
  float* packed = align(conv.scratch);  // [group][tap][kLane]
  float* buffers = packed + round_up(s.groups * taps * kLane, 16);
  for (std::int64_t c = 0; c < s.groups * kLane; ++c)
    for (std::int64_t t = 0; t < taps; ++t)
      packed[(c / kLane * taps + t) * kLane + c % kLane] =
          c < s.channels ? w[c * taps + (forward ? t : taps - 1 - t)] : 0.0f;
  std::int64_t offset[kMostTaps];
  tap_offsets(s, offset);
  const RowFn row = choose_row(s);
  const std::int64_t work = s.rows * s.pitch * kLane * (taps + 4);
  parallel_for(s.batch * s.bands * s.groups, 65536 * 4 / work + 1, [&](std::int64_t b, std::int64_t e) {
    float* band = buffers + thread_index() * s.band_floats;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t n = u / s.groups / s.bands, c = u % s.groups * kLane, y0 = u / s.groups % s.bands * s.rows,
                         y1 = smaller(s.out[0], y0 + s.rows);
      const int channels = static_cast<int>(smaller(kLane, s.channels - c));
      copy_band(s, x + n * in_image + c, channels, y0, y1, band);
      const V start = bias ? load_part(bias + c, Lanes(channels)) : V{};
      const Ending<float> end = all_ends.lanes(c, channels);
      for (std::int64_t i = y0; i < y1; ++i) {
        if (c + kLane < s.channels) ask_for_rows(s, x + n * in_image + c + kLane, i);
        row(s, band + (i - y0) * s.step[0] * s.pitch * kLane, packed + c * taps, offset, start,
            all_ends.active() ? &end : nullptr, y + n * out_image + i * s.out[1] * s.channels + c, channels);
      }
    }
  });
}

void depthwise_last_weight(const Conv& conv) {
  const Layer s = layer_of(conv.shape, ConvPass::weight_grad);
  const std::int64_t taps = s.all_taps(), padded = grad_taps(s), chunks = image_chunks(s),
                     chunk = ceil_div(s.batch, chunks), in_image = s.in[0] * s.in[1] * s.channels,
                     out_image = s.out[0] * s.out[1] * s.channels;
  const float *x = static_cast<const float*>(conv.x), *dy = static_cast<const float*>(conv.y);
  float* all_sums = align(conv.scratch);  // [group][chunk][tap][kLane]
  float* buffers = all_sums + round_up(s.groups * chunks * padded * kLane, 16);
  std::int64_t offset[kMostTaps + kGradTaps];
  tap_offsets(s, offset);
  for (std::int64_t t = taps; t < padded; ++t) offset[t] = offset[0];  // not used
  parallel_for(s.groups * chunks, 1, [&](std::int64_t b, std::int64_t e) {
    float* band = buffers + thread_index() * s.band_floats;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t c = u / chunks * kLane, n0 = u % chunks * chunk;
      const int channels = static_cast<int>(smaller(kLane, s.channels - c));
      float* sums = all_sums + u * padded * kLane;
      std::memset(sums, 0, static_cast<std::size_t>(padded * kLane) * sizeof(float));
      for (std::int64_t n = n0; n < smaller(s.batch, n0 + chunk); ++n)
        for (std::int64_t y0 = 0; y0 < s.out[0]; y0 += s.rows) {
          const std::int64_t y1 = smaller(s.out[0], y0 + s.rows);
          copy_band(s, x + n * in_image + c, channels, y0, y1, band);
          for (std::int64_t t = 0; t < padded; t += kGradTaps)
            add_rows(s, band, offset + t, dy + n * out_image + y0 * s.out[1] * s.channels + c, channels, y1 - y0,
                     sums + t * kLane);
        }
    }
  });
  float* dw = static_cast<float*>(conv.w);
  for (std::int64_t c = 0; c < s.channels; ++c)
    for (std::int64_t t = 0; t < taps; ++t) {
      const float* sums = all_sums + c / kLane * chunks * padded * kLane + t * kLane + c % kLane;
      float total = sums[0];
      for (std::int64_t q = 1; q < chunks; ++q) total += sums[q * padded * kLane];
      dw[c * taps + t] = total;
    }
}

void register_depthwise_last(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
