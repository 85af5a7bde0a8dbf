// Depthwise convolutions of channels-last images: every channel has a kernel of its own, so vectors run along the
// channels. A few outputs side by side of a few rows take all groups of channels in turn, so that the images pass in
// the order in which they lie, and what neighbouring outputs share is still in the first-level cache. The input
// gradient is the same sum over the output gradient with the taps reversed, of which an output sees, if the convolution
// was strided, only those that fall on elements.
#include <vector>

#include "cpu/conv/channel_end.h"
#include "cpu/conv/special.h"
#include "cpu/loaded.h"
#include "cpu/tuning/tuning.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kLane = kLanesOf<float>;
using V = Vector<float>;

constexpr int kMostTaps = 256;
constexpr int kPixels = 4;               // outputs side by side
constexpr int kRows = 4;                 // rows of outputs together
constexpr std::int64_t kGradParts = 16;  // parts of the output with weight gradients of their own

PYDLX_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
PYDLX_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Tap k of output o sees input (o step + k dilation - front) / spread, if that is an element.
struct Axis {
  std::int64_t in, out, taps, dilation, step, spread, front;

  std::int64_t seen(std::int64_t o, std::int64_t k) const {
    const std::int64_t at = o * step + k * dilation - front;
    return at < 0 || at % spread != 0 || at / spread >= in ? -1 : at / spread;
  }
};
Axis axis_of(const ConvShape& c, int i, ConvPass pass) {
  const std::int64_t reach = (c.kernel[i] - 1) * c.dilation[i];
  if (pass == ConvPass::input_grad)
    return {c.out[i], c.in[i], c.kernel[i], c.dilation[i], 1, c.stride[i], reach - c.pad[i]};
  return {c.in[i], c.out[i], c.kernel[i], c.dilation[i], c.stride[i], 1, c.pad[i]};
}

struct Layer {
  std::int64_t batch, channels, groups;  // groups of kLane channels
  Axis y, x;

  std::int64_t taps() const { return y.taps * x.taps; }
};
Layer layer_of(const ConvShape& c, ConvPass pass) {
  return {c.batch, c.groups, ceil_div(c.groups, kLane), axis_of(c, 1, pass), axis_of(c, 2, pass)};
}

// Outputs first, first + spread, ... of a row, which the same taps reach: tap[j] of the q-th sees q step + offset[j].
// Those in [inner, outer) see elements with all of them.
struct Columns {
  std::int64_t first, count, inner, outer;
  int taps;
  std::int64_t offset[kMostTaps], tap[kMostTaps];
};
Columns columns_of(const Axis& a, std::int64_t first) {
  Columns c;
  c.first = first;
  c.count = first < a.out ? (a.out - 1 - first) / a.spread + 1 : 0;
  c.taps = 0;
  for (std::int64_t k = 0; k < a.taps; ++k) {
    const std::int64_t at = first + k * a.dilation - a.front;
    if (at % a.spread != 0) continue;
    c.offset[c.taps] = at / a.spread;
    c.tap[c.taps++] = k;
  }
  c.inner = 0;
  c.outer = c.count;
  if (c.taps > 0) {  // offsets ascend
    c.inner = smaller(c.count, ceil_div(larger(0, -c.offset[0]), a.step));
    const std::int64_t room = a.in - 1 - c.offset[c.taps - 1];
    c.outer = larger(c.inner, smaller(c.count, room < 0 ? 0 : room / a.step + 1));
  }
  return c;
}

// The taps of a row of outputs that see a row of input, in steps: the input's first pixel, and the kernel's first
// column.
struct Row {
  const float* x;
  std::int64_t x_step, tap, tap_step, taps;
};
Row row_of(const Layer& s, const float* image, std::int64_t y) {
  Row row{image, 0, 0, 0, 0};
  std::int64_t last_k = 0, last_i = 0;
  for (std::int64_t k = 0; k < s.y.taps; ++k) {
    const std::int64_t i = s.y.seen(y, k), pitch = s.x.in * s.channels;
    if (i < 0) continue;
    if (row.taps == 0) row.x = image + i * pitch, row.tap = k * s.x.taps;
    if (row.taps == 1) row.x_step = (i - last_i) * pitch, row.tap_step = (k - last_k) * s.x.taps;
    last_k = k, last_i = i;
    ++row.taps;
  }
  return row;
}

template <bool part>
PYDLX_INLINE V load_lanes(const float* p, int lanes) {
  if constexpr (part)
    return load_part(p, Lanes(lanes));
  else
    return load(p);
}
template <bool part>
PYDLX_INLINE void store_lanes(float* p, V v, int lanes) {
  if constexpr (part)
    store_part(p, v, Lanes(lanes));
  else
    store<float>(p, v);
}

// Where N elements side by side of a row lie, `pixel` apart, and how many lanes of each to read: none beyond the row's
// ends.
template <int N>
struct Spots {
  std::int64_t offset[N];
  int lanes[N];

  PYDLX_INLINE Spots(std::int64_t first, std::int64_t in, std::int64_t pixel, int all) {
    for (int i = 0; i < N; ++i) {
      const bool inside = first + i >= 0 && first + i < in;
      offset[i] = inside ? i * pixel : 0;
      lanes[i] = inside ? all : 0;
    }
  }
};

// The inputs of P outputs from the q-th on. K taps side by side, S columns between outputs; K = 0: any taps.
template <int K, int S, int P, bool border, bool part>
struct Window {
  static constexpr int kWidth = K > 0 ? (P - 1) * S + K : 1;
  const Columns& c;
  std::int64_t first, in, step, pixel;  // first: column of the first input, or of offset 0
  int lanes;
  Spots<border ? kWidth : 1> spots;

  PYDLX_INLINE Window(const Layer& s, const Columns& columns, std::int64_t q, int all)
      : c(columns),
        first(q * s.x.step + (K > 0 ? columns.offset[0] : 0)),
        in(s.x.in),
        step(s.x.step),
        pixel(s.channels),
        lanes(all),
        spots(first, in, pixel, all) {}

  // use(j, p, x) for tap j of output p, where x is an element of one row of input, or 0 beyond its ends; `from`: the
  // group of channels in pixel `first`. A value is loaded once for all the outputs that see it.
  template <class Use>
  PYDLX_INLINE void each_tap(const float* from, const Use& use) const {
    if constexpr (K > 0) {
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        V v;
        if constexpr (border)
          v = load_part(from + spots.offset[i], Lanes(spots.lanes[i]));
        else
          v = loaded(load_lanes<part>(from + i * pixel, lanes));
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
          if (i >= p * S && i < p * S + K) use(i - p * S, p, v);
      }
    } else {
      for (int j = 0; j < c.taps; ++j)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          const std::int64_t i = p * step + c.offset[j];
          const bool inside = !border || (first + i >= 0 && first + i < in);
          use(j, p, load_part(from + (inside ? i * pixel : 0), Lanes(inside ? lanes : 0)));
        }
    }
  }
};

// ---- sums -----------------------------------------------------------------------------------------------------------

struct DataTask {
  const Layer& s;
  const float *packed, *bias;  // packed: [group][tap][kLane]
  ChannelEnd<float> end;
  Row row[kRows];
  float* y;  // of the first row
  int rows;
  static constexpr bool kRepeats = true;  // outputs may be computed twice

  // Outputs q to q + P of row r, groups of channels from c0 on: whole ones below c1, or the last one of `lanes`.
  template <int K, int S, int P, bool border, bool part>
  PYDLX_INLINE void groups(const Columns& c, std::int64_t q, int r, std::int64_t c0, std::int64_t c1, int lanes) const {
    const Row at = row[r];
    const Window<K, S, P, border, part> window(s, c, q, lanes);
    const std::int64_t pixel = s.channels, taps = s.taps(), to_step = s.x.spread * pixel, w_step = at.tap_step * kLane,
                       spread = K > 1 ? (c.tap[1] - c.tap[0]) * kLane : 0;
    const float *x = at.x + window.first * pixel, *w = packed + (at.tap + (K > 0 ? c.tap[0] : 0)) * kLane,
                *start = bias;
    float* to = y + (r * s.x.out + c.first + q * s.x.spread) * pixel;
    for (std::int64_t channel = c0; channel < c1; channel += kLane) {
      V acc[P];
      const V v0 = start ? load_lanes<part>(start + channel, lanes) : V{};
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) acc[p] = v0;
      const float *from = x + channel, *wi = w + channel * taps;
      for (std::int64_t i = 0; i < at.taps; ++i, from += at.x_step, wi += w_step) {
        V kept[K > 0 ? K : 1];
#pragma GCC unroll 7
        for (int j = 0; j < K; ++j) kept[j] = load(wi + j * spread);
        window.each_tap(from, [&](int j, int p, V v) __attribute__((always_inline)) {
          if constexpr (K > 0)
            acc[p] += kept[j] * v;
          else
            acc[p] += load(wi + c.tap[j] * kLane) * v;
        });
      }
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) store_lanes<part>(to + p * to_step + channel, acc[p], lanes);
    }
    if (end.active()) finish<P, part>(to, to_step, c0, c1, lanes);
  }
  template <int P, bool part>
  __attribute__((noinline)) void finish(float* to, std::int64_t to_step, std::int64_t c0, std::int64_t c1,
                                        int lanes) const {
    for (std::int64_t channel = c0; channel < c1; channel += kLane) {
      const Ending<float> last = end.lanes(channel, lanes);
      for (int p = 0; p < P; ++p) {
        float* const at = to + p * to_step + channel;
        store_lanes<part>(at, last(load_lanes<part>(at, lanes)), lanes);
      }
    }
  }
};

// ---- weight gradients -----------------------------------------------------------------------------------------------

struct WeightTask {
  const Layer& s;
  float* sums;  // [group][tap][kLane]
  Row row[kRows];
  const float* dy;  // of the first row
  int rows;
  static constexpr bool kRepeats = false;

  template <int K, int S, int P, bool border, bool part>
  PYDLX_INLINE void groups(const Columns& c, std::int64_t q, int r, std::int64_t c0, std::int64_t c1, int lanes) const {
    const Row at = row[r];
    const Window<K, S, P, border, part> window(s, c, q, lanes);
    const std::int64_t pixel = s.channels, taps = s.taps(), sum_step = at.tap_step * kLane;
    const float *x = at.x + window.first * pixel, *slope = dy + (r * s.x.out + q) * pixel;
    float* all = sums + at.tap * kLane;
    for (std::int64_t channel = c0; channel < c1; channel += kLane) {
      V g[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) g[p] = load_lanes<part>(slope + p * pixel + channel, lanes);
      const float* from = x + channel;
      float* sum = all + channel * taps;
      for (std::int64_t i = 0; i < at.taps; ++i, from += at.x_step, sum += sum_step) {
        V acc[K > 0 ? K : 1];
#pragma GCC unroll 7
        for (int j = 0; j < K; ++j) acc[j] = load(sum + j * kLane);
        window.each_tap(from, [&](int j, int p, V v) __attribute__((always_inline)) {
          if constexpr (K > 0)
            acc[j] += g[p] * v;
          else
            store<float>(sum + j * kLane, load(sum + j * kLane) + g[p] * v);
        });
#pragma GCC unroll 7
        for (int j = 0; j < K; ++j) store<float>(sum + j * kLane, acc[j]);
      }
    }
  }
};

// ---- rows -----------------------------------------------------------------------------------------------------------

// Outputs q to q + P of the columns, in all rows of the task, channels from c0 to c1.
template <class Task, int K, int S, int P, bool border>
PYDLX_INLINE void tile(const Task& task, const Columns& c, std::int64_t q, std::int64_t c0, std::int64_t c1) {
  const std::int64_t whole = c1 / kLane * kLane;
  for (int r = 0; r < task.rows; ++r) {
    task.template groups<K, S, P, border, false>(c, q, r, c0, whole, kLane);
    if (whole < c1) task.template groups<K, S, P, border, true>(c, q, r, whole, c1, static_cast<int>(c1 - whole));
  }
}
template <class Task, int K, int S>
__attribute__((noinline)) void columns(const Task& task, const Columns& c) {
  // Kernels, or their gradients, that stay in the first-level cache while a row passes.
  const std::int64_t near = larger(4, tuning::kDepthwiseNear / (task.s.taps() * kLane)) * kLane;
  for (std::int64_t c0 = 0; c0 < task.s.channels; c0 += near) {
    const std::int64_t c1 = smaller(task.s.channels, c0 + near);
    const auto some = [&]<int P>(std::int64_t q) __attribute__((always_inline)) {
      if constexpr (P == kPixels)  // fewer are mostly at the border: elsewhere they take its code, too
        if (q >= c.inner && q + P <= c.outer) return tile<Task, K, S, P, false>(task, c, q, c0, c1);
      tile<Task, K, S, P, true>(task, c, q, c0, c1);
    };
    std::int64_t q = 0;
    for (; q + kPixels <= c.count; q += kPixels) some.template operator()<kPixels>(q);
    if (Task::kRepeats && q < c.count && c.count >= kPixels) {
      some.template operator()<kPixels>(c.count - kPixels);
      continue;
    }
    if (c.count - q == 3) some.template operator()<3>(q);
    if (c.count - q == 2) some.template operator()<2>(q);
    if (c.count - q == 1) some.template operator()<1>(q);
  }
}

template <class Task>
using ColumnsFn = void (*)(const Task&, const Columns&);
template <class Task>
ColumnsFn<Task> choose(const Layer& s, const Columns& c) {
  for (int j = 0; j < c.taps; ++j)
    if (c.offset[j] != c.offset[0] + j) return columns<Task, 0, 0>;
  if (s.x.step == 1) {
    if (c.taps == 1) return columns<Task, 1, 1>;
    if (c.taps == 2) return columns<Task, 2, 1>;
    if (c.taps == 3) return columns<Task, 3, 1>;
    if (c.taps == 5) return columns<Task, 5, 1>;
    if (c.taps == 7) return columns<Task, 7, 1>;
  }
  if (s.x.step == 2) {
    if (c.taps == 3) return columns<Task, 3, 2>;
    if (c.taps == 5) return columns<Task, 5, 2>;
  }
  return columns<Task, 0, 0>;
}

float* align(void* memory) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory) + 63) & ~std::uintptr_t{63});
}
std::int64_t kernel_floats(const Layer& s) { return s.groups * s.taps() * kLane; }
// Rows of outputs, kRows at a time.
std::int64_t bands_of(const Layer& s) { return ceil_div(s.y.out, kRows); }
template <class Task>
void set_band(Task& task, const float* x, std::int64_t y0) {
  task.rows = static_cast<int>(smaller(kRows, task.s.y.out - y0));
  for (int r = 0; r < task.rows; ++r) task.row[r] = row_of(task.s, x, y0 + r);
}
// A function of the geometry, so that sums do not depend on the number of threads.
std::int64_t grad_parts(const Layer& s) { return smaller(kGradParts, s.batch * bands_of(s)); }

}  // namespace

bool depthwise_last_fits(const ConvShape& c) {
  if (c.cin != 1 || c.cout != 1 || c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1 || c.pad[0] != 0) return false;
  if (c.kernel[1] * c.kernel[2] > kMostTaps) return false;
  for (int i = 1; i < 3; ++i)
    if (c.dilation[i] > 1024 || c.stride[i] > 64 || c.pad[i] > 1024) return false;
  return true;
}

std::int64_t depthwise_last_scratch(const ConvShape& c, ConvPass pass) {
  const Layer s = layer_of(c, pass);
  return ((pass == ConvPass::weight_grad ? grad_parts(s) : 1) * kernel_floats(s) + 16) *
         static_cast<std::int64_t>(sizeof(float));
}

void depthwise_last_data(const Conv& conv, ConvPass pass) {
  const Layer s = layer_of(conv.shape, pass);
  const bool forward = pass == ConvPass::forward;
  const std::int64_t taps = s.taps(), in_image = s.y.in * s.x.in * s.channels, out_row = s.x.out * s.channels;
  const float *x = static_cast<const float*>(forward ? conv.x : conv.y), *w = static_cast<const float*>(conv.w);
  float* y = static_cast<float*>(forward ? conv.y : conv.x);
  float* packed = align(conv.scratch);
  for (std::int64_t c = 0; c < s.groups * kLane; ++c)
    for (std::int64_t t = 0; t < taps; ++t)
      packed[(c / kLane * taps + t) * kLane + c % kLane] =
          c < s.channels ? w[c * taps + (forward ? t : taps - 1 - t)] : 0.0f;
  const std::int64_t bands = bands_of(s), work = kRows * out_row * (taps + 2);
  std::vector<Columns> columns;
  for (std::int64_t f = 0; f < smaller(s.x.spread, s.x.out); ++f) columns.push_back(columns_of(s.x, f));
  parallel_for(s.batch * bands, 65536 / (work + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    DataTask task{s, packed, start_of<float>(conv), end_of<float>(conv), {}, nullptr, 0};
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t n = u / bands, y0 = u % bands * kRows;
      set_band(task, x + n * in_image, y0);
      task.y = y + (n * s.y.out + y0) * out_row;
      for (const Columns& c : columns) choose<DataTask>(s, c)(task, c);
    }
  });
}

void depthwise_last_weight(const Conv& conv) {
  const Layer s = layer_of(conv.shape, ConvPass::weight_grad);
  const std::int64_t taps = s.taps(), floats = kernel_floats(s), parts = grad_parts(s), bands = bands_of(s),
                     all = s.batch * bands, in_image = s.y.in * s.x.in * s.channels, out_row = s.x.out * s.channels;
  const float *x = static_cast<const float*>(conv.x), *dy = static_cast<const float*>(conv.y);
  float* all_sums = align(conv.scratch);  // [part][group][tap][kLane]
  const Columns c = columns_of(s.x, 0);
  const auto run = choose<WeightTask>(s, c);
  parallel_for(parts, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t part = b; part < e; ++part) {
      WeightTask task{s, all_sums + part * floats, {}, nullptr, 0};
      std::memset(task.sums, 0, static_cast<std::size_t>(floats) * sizeof(float));
      for (std::int64_t u = all * part / parts; u < all * (part + 1) / parts; ++u) {
        const std::int64_t n = u / bands, y0 = u % bands * kRows;
        set_band(task, x + n * in_image, y0);
        task.dy = dy + (n * s.y.out + y0) * out_row;
        run(task, c);
      }
    }
  });
  float* dw = static_cast<float*>(conv.w);
  for (std::int64_t ch = 0; ch < s.channels; ++ch)
    for (std::int64_t t = 0; t < taps; ++t) {
      const float* sums = all_sums + (ch / kLane * taps + t) * kLane + ch % kLane;
      float total = sums[0];
      for (std::int64_t part = 1; part < parts; ++part) total += sums[part * floats];
      dw[ch * taps + t] = total;
    }
}

void register_depthwise_last(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
