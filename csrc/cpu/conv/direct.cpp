// Convolutions by their definition, without a patch matrix: planes are transposed to pixel-major bands, 16 channels
// side by side, and a register tile of output pixels runs over taps and channels with a pointer per pixel. Stride and
// dilation only change the pointers. The input gradient of a strided convolution is one such sum per phase (pixels with
// equal index modulo the stride see the same taps), so no multiplication by an inserted zero ever happens.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kPanelVectors = kVectorBytes == 64 ? 4 : 2;
constexpr std::int64_t kPanel = kPanelVectors * kLane;  // output channels per packed panel of weights
constexpr std::int64_t kBandFloats = 96 << 10;          // input of a band: a third of a 1 MB second-level cache
constexpr std::int64_t kSteps = 4096 / kLane;           // (tap, channel group) pairs per pass: 1/4 of that cache
constexpr int kMaxTaps = 64, kMostTaps = 512;           // along an axis, in all

// Output pixel out_first + out_step l reads the inputs in_step l + offset[t], along both axes, for l < lattice.
struct Phase {
  std::int64_t out_first[2], lattice[2];
  std::int64_t taps[2];
  std::int64_t tap[2][kMaxTaps], offset[2][kMaxTaps];
};

struct Layer {
  std::int64_t batch, cin, cout, in[2], out[2];
  std::int64_t in_step[2], out_step[2], phases[2];
  const ConvShape* shape;
  bool gradient;
  const float* x;
  std::int64_t x_image;
  float* y;
  std::int64_t y_image;
  const float *w, *bias;

  std::int64_t groups() const { return ceil_div(cin, kLane); }
  std::int64_t panels() const { return ceil_div(cout, kPanel); }
  std::int64_t taps() const { return shape->kernel[1] * shape->kernel[2]; }
};

Layer layer_of(const ConvShape& c, bool gradient) {
  Layer s{};
  s.shape = &c;
  s.gradient = gradient;
  s.batch = c.batch;
  s.cin = gradient ? c.cout : c.cin;
  s.cout = gradient ? c.cin : c.cout;
  for (int i = 0; i < 2; ++i) {
    s.in[i] = (gradient ? c.out : c.in)[i + 1];
    s.out[i] = (gradient ? c.in : c.out)[i + 1];
    s.in_step[i] = gradient ? 1 : c.stride[i + 1];
    s.out_step[i] = gradient ? c.stride[i + 1] : 1;
    s.phases[i] = gradient ? smaller(c.stride[i + 1], s.out[i]) : 1;
  }
  return s;
}

// Along one axis.
void make_axis(const Layer& s, int axis, std::int64_t f, Phase& p) {
  const ConvShape& c = *s.shape;
  const std::int64_t pad = c.pad[axis + 1], dilation = c.dilation[axis + 1], stride = c.stride[axis + 1];
  p.out_first[axis] = f;
  p.lattice[axis] = (s.out[axis] - f - 1) / s.out_step[axis] + 1;
  p.taps[axis] = 0;
  for (std::int64_t k = 0; k < c.kernel[axis + 1]; ++k) {
    const std::int64_t at = s.gradient ? f + pad - k * dilation : k * dilation - pad;
    if (s.gradient && at % stride != 0) continue;
    p.tap[axis][p.taps[axis]] = k;
    p.offset[axis][p.taps[axis]++] = s.gradient ? at / stride : at;
  }
}
Phase make_phase(const Layer& s, std::int64_t i) {
  Phase p;
  make_axis(s, 0, i / s.phases[1], p);
  make_axis(s, 1, i % s.phases[1], p);
  return p;
}

// Bands of output rows (whole multiples of the phases) whose input fits, and the columns of the band's input.
struct Plan {
  std::int64_t rows, bands;     // output rows per band
  std::int64_t first_x, pitch;  // input columns of every band
  std::int64_t low_y, high_y;   // input rows of output row y begin at about y in_step / out_step + low_y
  std::int64_t in_floats, out_floats, thread;
};
Plan make_plan(const Layer& s) {
  Plan p;
  std::int64_t low[2] = {0, 0}, high[2] = {0, 0};  // input range of lattice point 0 and of the last one
  bool any[2] = {false, false};
  for (int axis = 0; axis < 2; ++axis)
    for (std::int64_t f = 0; f < s.phases[axis]; ++f) {
      Phase ph;
      make_axis(s, axis, f, ph);
      for (std::int64_t t = 0; t < ph.taps[axis]; ++t) {
        const std::int64_t o = ph.offset[axis][t];
        const std::int64_t end = axis == 0 ? o : (ph.lattice[axis] - 1) * s.in_step[axis] + o;
        low[axis] = any[axis] ? smaller(low[axis], o) : o;
        high[axis] = any[axis] ? larger(high[axis], end) : end;
        any[axis] = true;
      }
    }
  p.first_x = low[1];
  p.pitch = high[1] - low[1] + 1;
  p.low_y = low[0];
  p.high_y = high[0];
  const std::int64_t per_row = p.pitch * s.groups() * kLane, unit = s.out_step[0];
  const auto input_rows = [&](std::int64_t rows) { return (rows / unit - 1) * s.in_step[0] + p.high_y - p.low_y + 1; };
  p.rows = unit;
  while (p.rows < s.out[0] && input_rows(p.rows + unit) * per_row <= kBandFloats &&
         (p.rows + unit) * s.out[1] * kPanel <= kBandFloats / 2)
    p.rows += unit;
  p.bands = ceil_div(s.out[0], p.rows);
  p.rows = ceil_div(ceil_div(s.out[0], p.bands), unit) * unit;
  p.bands = ceil_div(s.out[0], p.rows);
  p.in_floats = input_rows(p.rows) * per_row;
  p.out_floats = p.rows * s.out[1] * kPanel;
  p.thread = round_up(p.in_floats + p.out_floats, 16);
  return p;
}

// MR output pixels, NV vectors of channels: pixel i reads x[i] + step[t], `kLane` channels per step.
template <int MR, int NV>
__attribute__((noinline)) void tile(const float* const* x, const std::int64_t* step, std::int64_t steps, const float* w,
                                    float* const* y, std::int64_t y_vector, int rows, bool add) {
  V acc[MR][NV];
  const float* px[MR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    px[i] = x[i];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = add ? load(y[i] + j * y_vector) : V{};
  }
  for (std::int64_t t = 0; t < steps; ++t) {
    const std::int64_t at = step[t];
#pragma GCC unroll 4
    for (int c = 0; c < kLane; ++c) {
      V b[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) b[j] = load(w + j * kLane);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V v = splat<float>(px[i][at + c]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] += v * b[j];
      }
      w += kPanel;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    if (i >= rows) break;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store<float>(y[i] + j * y_vector, acc[i][j]);
  }
}

constexpr int kMostRows = 12;
using TileFn = void (*)(const float* const*, const std::int64_t*, std::int64_t, const float*, float* const*,
                        std::int64_t, int, bool);
struct TileChoice {
  TileFn fn;
  int rows;
};
TileChoice choose_tile(int vectors) {
  if constexpr (kPanelVectors == 4) {
    if (vectors == 4) return {tile<6, 4>, 6};
    if (vectors == 3) return {tile<8, 3>, 8};
    if (vectors == 2) return {tile<12, 2>, 12};
    return {tile<12, 1>, 12};
  } else {
    if (vectors == 2) return {tile<4, 2>, 4};
    return {tile<8, 1>, 8};
  }
}

// Weights as [panel][phase][channel group][tap of the phase][channel][panel column], zero where there is no channel.
std::int64_t packed_floats(const Layer& s) { return s.panels() * s.groups() * kLane * kPanel * s.taps(); }

void pack_weights(const Layer& s, float* out) {
  const ConvShape& c = *s.shape;
  const std::int64_t taps = s.taps(), panel_floats = s.groups() * kLane * kPanel * taps;
  const std::int64_t w_out = s.gradient ? taps : c.cin * taps, w_in = s.gradient ? c.cin * taps : taps;
  // One channel group of one panel per unit of work.
  parallel_for(s.panels() * s.groups(), 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t panel = u / s.groups(), group = u % s.groups(), k0 = panel * kPanel;
      const std::int64_t live = smaller(kPanel, s.cout - k0), channels = smaller(kLane, s.cin - group * kLane);
      float* to[kMostTaps] = {};  // where a tap's first channel goes; null when no pixel sees the tap
      float* block = out + panel * panel_floats;
      for (std::int64_t i = 0; i < s.phases[0] * s.phases[1]; ++i) {
        const Phase p = make_phase(s, i);
        const std::int64_t n = p.taps[0] * p.taps[1];
        float* first = block + group * n * kLane * kPanel;
        if (channels < kLane || live < kPanel)
          std::memset(first, 0, static_cast<std::size_t>(n * kLane * kPanel) * sizeof(float));
        for (std::int64_t t = 0; t < n; ++t)
          to[p.tap[0][t / p.taps[1]] * c.kernel[2] + p.tap[1][t % p.taps[1]]] = first + t * kLane * kPanel;
        block += s.groups() * n * kLane * kPanel;
      }
      // Squares of kLane output channels by elements that are contiguous: the taps of all channels of the group, or,
      // for the gradient, of one channel.
      const std::int64_t runs = s.gradient ? channels : 1, length = s.gradient ? taps : channels * taps;
      for (std::int64_t k = 0; k < live; k += kLane)
        for (std::int64_t run = 0; run < runs; ++run) {
          const float* from = s.w + (k0 + k) * w_out + (group * kLane + run) * w_in;
          std::int64_t ch = run, tap = 0;
          for (std::int64_t i = 0; i < length; i += kLane) {
            const int n = static_cast<int>(smaller(kLane, length - i));
            const Lanes lanes(n);
            V r[kLane];
            for (int l = 0; l < kLane; ++l) r[l] = k + l < live ? load_part(from + l * w_out + i, lanes) : V{};
            transpose_square<float>(r);
            for (int l = 0; l < n; ++l) {
              if (to[tap]) store<float>(to[tap] + ch * kPanel + k, r[l]);
              if (++tap == taps) {
                tap = 0;
                ++ch;
              }
            }
          }
        }
    }
  });
}

void run_unit(const Layer& s, const Plan& p, std::int64_t image, std::int64_t band, std::int64_t panel0,
              std::int64_t panel1, const float* packed, float* memory) {
  float *pixels = memory, *results = memory + p.in_floats;
  const std::int64_t y0 = band * p.rows, y1 = smaller(s.out[0], y0 + p.rows);
  const std::int64_t first = y0 / s.out_step[0] * s.in_step[0] + p.low_y;
  const std::int64_t rows = ((y1 - y0 - 1) / s.out_step[0]) * s.in_step[0] + p.high_y - p.low_y + 1;
  const std::int64_t in_plane = s.in[0] * s.in[1], out_plane = s.out[0] * s.out[1],
                     group_floats = rows * p.pitch * kLane;
  for (std::int64_t g = 0; g < s.groups(); ++g) {
    const Planes planes{const_cast<float*>(s.x) + image * s.x_image + g * kLane * in_plane, in_plane, s.in[0], s.in[1],
                        static_cast<int>(smaller(kLane, s.cin - g * kLane))};
    gather_pixels(planes, first, first + rows, p.first_x, p.first_x + p.pitch, pixels + g * group_floats);
  }
  const std::int64_t panel_floats = s.groups() * kLane * kPanel * s.taps();
  const std::int64_t y_vector = (y1 - y0) * s.out[1] * kLane;  // results: [vector of channels][row][column][kLane]
  for (std::int64_t panel = panel0; panel < panel1; ++panel) {
    const std::int64_t k0 = panel * kPanel, k1 = smaller(s.cout, k0 + kPanel);
    const TileChoice kernel = choose_tile(static_cast<int>(ceil_div(k1 - k0, kLane)));
    const float* w = packed + panel * panel_floats;
    for (std::int64_t i = 0; i < s.phases[0] * s.phases[1]; ++i) {
      const Phase ph = make_phase(s, i);
      const std::int64_t taps = ph.taps[0] * ph.taps[1], steps = s.groups() * taps;
      // y0 is a multiple of the phases: rows of the phase inside the band start at its own first one.
      const std::int64_t count_y = y1 - y0 > ph.out_first[0] ? (y1 - y0 - ph.out_first[0] - 1) / s.out_step[0] + 1 : 0;
      const std::int64_t pixels_in_phase = count_y * ph.lattice[1];
      for (std::int64_t t0 = 0; t0 == 0 || t0 < steps; t0 += kSteps) {
        std::int64_t step[kSteps];
        const std::int64_t n = smaller(kSteps, steps - t0);
        for (std::int64_t t = 0; t < n; ++t) {
          const std::int64_t g = (t0 + t) / taps, k = (t0 + t) % taps;
          step[t] =
              g * group_floats +
              ((ph.offset[0][k / ph.taps[1]] - p.low_y) * p.pitch + ph.offset[1][k % ph.taps[1]] - p.first_x) * kLane;
        }
        std::int64_t ly = 0, lx = 0;
        for (std::int64_t done = 0; done < pixels_in_phase; done += kernel.rows) {
          const float* from[kMostRows];
          float* to[kMostRows];
          const int live = static_cast<int>(smaller(kernel.rows, pixels_in_phase - done));
          for (int r = 0; r < kernel.rows; ++r) {
            if (r >= live) {  // repeat the last one
              from[r] = from[r - 1];
              to[r] = to[r - 1];
              continue;
            }
            from[r] = pixels + (ly * s.in_step[0] * p.pitch + lx * s.in_step[1]) * kLane;
            to[r] = results +
                    ((ph.out_first[0] + ly * s.out_step[0]) * s.out[1] + ph.out_first[1] + lx * s.out_step[1]) * kLane;
            if (++lx == ph.lattice[1]) {
              lx = 0;
              ++ly;
            }
          }
          kernel.fn(from, step, n, w + t0 * kLane * kPanel, to, y_vector, live, t0 > 0);
        }
      }
      w += steps * kLane * kPanel;
    }
    for (std::int64_t k = k0; k < k1; k += kLane) {
      const int channels = static_cast<int>(smaller(kLane, k1 - k));
      float* from = results + (k - k0) / kLane * y_vector;
      if (s.bias) {
        const V bias = channels == kLane ? load(s.bias + k) : load_part(s.bias + k, Lanes(channels));
        for (std::int64_t j = 0; j < y_vector; j += kLane) store<float>(from + j, load(from + j) + bias);
      }
      const Planes planes{s.y + image * s.y_image + k * out_plane, out_plane, s.out[0], s.out[1], channels};
      scatter_pixels(planes, y0, y1, 0, s.out[1], from, s.out[1]);
    }
  }
}

}  // namespace

bool direct_fits(const ConvShape& c, ConvPass pass) {
  for (int i = 1; i < 3; ++i)
    if (c.kernel[i] > kMaxTaps || c.dilation[i] > 4096 || c.pad[i] > 4096 || c.stride[i] > 64) return false;
  if (c.kernel[1] * c.kernel[2] > kMostTaps) return false;
  const Plan p = make_plan(layer_of(c, pass == ConvPass::input_grad));
  return p.thread <= 4 * kBandFloats;
}

std::int64_t direct_data_scratch(const ConvShape& c, ConvPass pass) {
  const Layer s = layer_of(c, pass == ConvPass::input_grad);
  return (packed_floats(s) + num_threads() * make_plan(s).thread + 16) * static_cast<std::int64_t>(sizeof(float));
}

void direct_data(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const bool gradient = pass == ConvPass::input_grad;
  Layer s = layer_of(c, gradient);
  const Plan p = make_plan(s);
  float* packed = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  float* buffers = packed + packed_floats(s);
  // Few bands: panels are shared out too, and every share transposes the input again.
  const std::int64_t units = s.batch * p.bands, panels = s.panels();
  const std::int64_t shares = units >= 8 ? 1 : smaller(panels, ceil_div(8, units)), share = ceil_div(panels, shares);
  for (std::int64_t g = 0; g < c.groups; ++g) {
    s.x = static_cast<const float*>(gradient ? conv.y : conv.x) + g * s.cin * s.in[0] * s.in[1];
    s.y = static_cast<float*>(gradient ? conv.x : conv.y) + g * s.cout * s.out[0] * s.out[1];
    s.x_image = c.groups * s.cin * s.in[0] * s.in[1];
    s.y_image = c.groups * s.cout * s.out[0] * s.out[1];
    s.w = static_cast<const float*>(conv.w) + g * c.cout * c.cin * s.taps();
    s.bias = conv.bias ? static_cast<const float*>(conv.bias) + g * s.cout : nullptr;
    pack_weights(s, packed);
    parallel_for(units * shares, 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t u = b; u < e; ++u) {
        const std::int64_t i = u / shares, q = u % shares;
        if (q * share < panels)
          run_unit(s, p, i / p.bands, i % p.bands, q * share, smaller(panels, (q + 1) * share), packed,
                   buffers + thread_index() * p.thread);
      }
    });
  }
}

void register_direct(KernelTable&) {}  // reached through conv_data.cpp

}  // namespace pydlx::PYDLX_ISA
