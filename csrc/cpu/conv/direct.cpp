// Convolutions by their definition, without a patch matrix: planes are transposed to pixel-major bands, 16 channels
// side by side, and a register tile of output pixels runs over taps and channels with a pointer per pixel. Stride and
// dilation only change the pointers. The input gradient of a strided convolution is one such sum per phase (pixels with
// equal index modulo the stride see the same taps), so no multiplication by an inserted zero ever happens. With three
// axes a band belongs to one output plane and its input to as many planes as the kernel is deep.
#include "cpu/conv/pixel_tile.h"
#include "cpu/conv/special.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kBandFloats = tuning::kDirectBand, kSteps = tuning::kDirectPass / kLane;
constexpr int kMaxTaps = 64, kMostTaps = 512;  // along an axis, in all

// Output pixel out_first + out_step l reads the inputs in_step l + offset[t], along all axes, for l < lattice.
struct Phase {
  std::int64_t out_first[3], lattice[3];
  std::int64_t taps[3];
  std::int64_t tap[3][kMaxTaps], offset[3][kMaxTaps];
};

struct Layer {
  std::int64_t batch, cin, cout, in[3], out[3];
  std::int64_t in_step[3], out_step[3], phases[3];
  const ConvShape* shape;
  bool gradient;
  const float* x;
  ImageLayout x_at;
  float* y;
  ImageLayout y_at;
  const float *w, *start;
  ChannelEnd<float> end;

  std::int64_t groups() const { return ceil_div(cin, kLane); }
  std::int64_t panels() const { return ceil_div(cout, kPanel); }
  std::int64_t taps() const { return shape->kernel[0] * shape->kernel[1] * shape->kernel[2]; }
  // Channels-last pixels are copied with all their channels, at an odd number of vectors so that neighbours do not meet
  // in the same sets of the first-level cache. Lanes without a channel would hold the next pixel's: then, and for
  // planes, the band has its groups of channels one after the other.
  bool whole_pixels() const { return shape->channels_last && cin % kLane == 0; }
  std::int64_t pixel() const { return whole_pixels() ? (groups() | 1) * kLane : kLane; }
  std::int64_t band_pixel() const { return whole_pixels() ? pixel() : groups() * kLane; }  // floats in all groups
  std::int64_t in_plane() const { return in[1] * in[2]; }
  std::int64_t out_plane() const { return out[1] * out[2]; }
};

Layer layer_of(const ConvShape& c, bool gradient) {
  Layer s{};
  s.shape = &c;
  s.gradient = gradient;
  s.batch = c.batch;
  s.cin = gradient ? c.cout : c.cin;
  s.cout = gradient ? c.cin : c.cout;
  for (int i = 0; i < 3; ++i) {
    s.in[i] = (gradient ? c.out : c.in)[i];
    s.out[i] = (gradient ? c.in : c.out)[i];
    s.in_step[i] = gradient ? 1 : c.stride[i];
    s.out_step[i] = gradient ? c.stride[i] : 1;
    s.phases[i] = gradient ? smaller(c.stride[i], s.out[i]) : 1;
  }
  return s;
}

// Along one axis.
void make_axis(const Layer& s, int axis, std::int64_t f, Phase& p) {
  const ConvShape& c = *s.shape;
  const std::int64_t pad = c.pad[axis], dilation = c.dilation[axis], stride = c.stride[axis];
  p.out_first[axis] = f;
  p.lattice[axis] = (s.out[axis] - f - 1) / s.out_step[axis] + 1;
  p.taps[axis] = 0;
  for (std::int64_t k = 0; k < c.kernel[axis]; ++k) {
    const std::int64_t at = s.gradient ? f + pad - k * dilation : k * dilation - pad;
    if (s.gradient && at % stride != 0) continue;
    p.tap[axis][p.taps[axis]] = k;
    p.offset[axis][p.taps[axis]++] = s.gradient ? at / stride : at;
  }
}
// Phases of a plane are numbered row by row.
void make_phase(const Layer& s, std::int64_t i, Phase& p) {
  make_axis(s, 1, i / s.phases[2], p);
  make_axis(s, 2, i % s.phases[2], p);
}

// Bands of output rows (whole multiples of the phases) whose input fits, and the columns of the band's input.
struct Plan {
  std::int64_t rows, bands;     // output rows per band
  std::int64_t depth;           // input planes of an output plane, at most
  std::int64_t plane_taps;      // of all phases of a plane
  std::int64_t first_x, pitch;  // input columns of every band
  std::int64_t low_y, high_y;   // input rows of output row y begin at about y in_step / out_step + low_y
  std::int64_t in_floats, out_floats, thread;
};
Plan make_plan(const Layer& s) {
  Plan p;
  std::int64_t low[3] = {}, high[3] = {}, seen[3] = {};  // input range of lattice point 0 and of the last one; taps
  p.depth = 1;
  for (int axis = 0; axis < 3; ++axis)
    for (std::int64_t f = 0; f < s.phases[axis]; ++f) {
      Phase ph;
      make_axis(s, axis, f, ph);
      if (axis == 0) p.depth = larger(p.depth, ph.taps[0]);
      for (std::int64_t t = 0; t < ph.taps[axis]; ++t) {
        const std::int64_t o = ph.offset[axis][t];
        const std::int64_t end = axis == 1 ? o : (ph.lattice[axis] - 1) * s.in_step[axis] + o;
        low[axis] = seen[axis] > 0 ? smaller(low[axis], o) : o;
        high[axis] = seen[axis] > 0 ? larger(high[axis], end) : end;
        ++seen[axis];
      }
    }
  p.plane_taps = seen[1] * seen[2];
  p.first_x = low[2];
  p.pitch = high[2] - low[2] + 1;
  p.low_y = low[1];
  p.high_y = high[1];
  const std::int64_t per_row = p.pitch * s.band_pixel() * p.depth, unit = s.out_step[1];
  const auto input_rows = [&](std::int64_t rows) { return (rows / unit - 1) * s.in_step[1] + p.high_y - p.low_y + 1; };
  p.rows = unit;
  while (p.rows < s.out[1] && input_rows(p.rows + unit) * per_row <= kBandFloats &&
         (p.rows + unit) * s.out[2] * kPanel <= kBandFloats / 2)
    p.rows += unit;
  p.bands = ceil_div(s.out[1], p.rows);
  p.rows = ceil_div(ceil_div(s.out[1], p.bands), unit) * unit;
  p.bands = ceil_div(s.out[1], p.rows);
  p.in_floats = input_rows(p.rows) * per_row;
  p.out_floats = p.rows * s.out[2] * kPanel;
  p.thread = round_up(p.in_floats + p.out_floats, 16);
  return p;
}

// Weights as [panel][depth phase][phase of the plane][depth tap][channel group][tap][channel][panel column], zero where
// there is no channel.
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
      for (std::int64_t i = 0; i < s.phases[0] * s.phases[1] * s.phases[2]; ++i) {
        Phase p;
        make_axis(s, 0, i / (s.phases[1] * s.phases[2]), p);
        make_phase(s, i % (s.phases[1] * s.phases[2]), p);
        const std::int64_t n = p.taps[1] * p.taps[2];
        for (std::int64_t d = 0; d < p.taps[0]; ++d) {
          float* first = block + (d * s.groups() + group) * n * kLane * kPanel;
          if (channels < kLane || live < kPanel)
            std::memset(first, 0, static_cast<std::size_t>(n * kLane * kPanel) * sizeof(float));
          for (std::int64_t t = 0; t < n; ++t)
            to[(p.tap[0][d] * c.kernel[1] + p.tap[1][t / p.taps[2]]) * c.kernel[2] + p.tap[2][t % p.taps[2]]] =
                first + t * kLane * kPanel;
        }
        block += p.taps[0] * s.groups() * n * kLane * kPanel;
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

// Rows and columns of an input plane with all channels of a pixel together, zero outside of it.
void copy_pixels(const Layer& s, const float* x, std::int64_t r0, std::int64_t rows, std::int64_t c0,
                 std::int64_t columns, float* out) {
  const std::int64_t pixel = s.pixel(), n = s.cin;
  for (std::int64_t r = r0; r < r0 + rows; ++r)
    for (std::int64_t c = c0; c < c0 + columns; ++c, out += pixel) {
      const bool inside = r >= 0 && r < s.in[1] && c >= 0 && c < s.in[2];
      const float* from = x + (inside ? (r * s.in[2] + c) * s.x_at.pixel : 0);
      if (inside)
        for (std::int64_t i = 0; i < n; i += kLane) store<float>(out + i, load(from + i));
      else
        for (std::int64_t i = 0; i < n; i += kLane) store<float>(out + i, V{});
    }
}

// Panels [panel0, panel1) of a band of one output plane.
void run_unit(const Layer& s, const Plan& p, std::int64_t image, std::int64_t plane, std::int64_t band,
              std::int64_t panel0, std::int64_t panel1, const float* packed, float* memory) {
  float *pixels = memory, *results = memory + p.in_floats;
  const std::int64_t y0 = band * p.rows, y1 = smaller(s.out[1], y0 + p.rows);
  const std::int64_t first = y0 / s.out_step[1] * s.in_step[1] + p.low_y;
  const std::int64_t rows = ((y1 - y0 - 1) / s.out_step[1]) * s.in_step[1] + p.high_y - p.low_y + 1;
  const std::int64_t pixel = s.pixel(), plane_floats = rows * p.pitch * s.band_pixel(),
                     group_floats = s.whole_pixels() ? kLane : rows * p.pitch * kLane, step_floats = kLane * kPanel;
  Phase ph;
  make_axis(s, 0, plane % s.out_step[0], ph);
  // The depth taps whose input plane exists.
  std::int64_t depth[kMaxTaps], depths = 0;
  for (std::int64_t d = 0; d < ph.taps[0]; ++d) {
    const std::int64_t z = plane / s.out_step[0] * s.in_step[0] + ph.offset[0][d];
    if (z < 0 || z >= s.in[0]) continue;
    const float* x = s.x + image * s.x_at.image + z * s.in_plane() * s.x_at.pixel;
    float* to = pixels + depths * plane_floats;
    if (s.whole_pixels()) copy_pixels(s, x, first, rows, p.first_x, p.pitch, to);
    for (std::int64_t g = 0; g < s.groups() && !s.whole_pixels(); ++g) {
      const Planes planes{const_cast<float*>(x) + g * kLane * s.x_at.channel,  s.x_at.channel, s.in[1], s.in[2],
                          static_cast<int>(smaller(kLane, s.cin - g * kLane)), s.x_at.pixel};
      gather_pixels(planes, first, first + rows, p.first_x, p.first_x + p.pitch, to + g * group_floats);
    }
    depth[depths++] = d;
  }
  std::int64_t before = 0;  // depth taps of the phases in front of this one
  for (std::int64_t f = 0; f < plane % s.out_step[0]; ++f) {
    Phase other;
    make_axis(s, 0, f, other);
    before += other.taps[0];
  }
  const std::int64_t panel_floats = s.groups() * step_floats * s.taps();
  for (std::int64_t panel = panel0; panel < panel1; ++panel) {
    const std::int64_t k0 = panel * kPanel, k1 = smaller(s.cout, k0 + kPanel);
    float* y = s.y + image * s.y_at.image + k0 * s.y_at.channel + plane * s.out_plane() * s.y_at.pixel;
    // Whole vectors of channels-last pixels, final as summed, go where they belong; else to
    // [vector of channels][row][column][kLane].
    const bool in_place = s.shape->channels_last && (k1 - k0) % kLane == 0 && !s.end.active();
    float* sums = in_place ? y + y0 * s.out[2] * s.y_at.pixel : results;
    const std::int64_t y_pixel = in_place ? s.y_at.pixel : kLane,
                       y_vector = in_place ? kLane : (y1 - y0) * s.out[2] * kLane;
    const PixelTile tile = choose_tile(static_cast<int>(ceil_div(k1 - k0, kLane)));
    alignas(64) float start[kPanel];
    start_values(s.start, k0, s.cout, start);
    const float* w = packed + panel * panel_floats + before * p.plane_taps * s.groups() * step_floats;
    for (std::int64_t i = 0; i < s.phases[1] * s.phases[2]; ++i) {
      make_phase(s, i, ph);
      const std::int64_t taps = ph.taps[1] * ph.taps[2], steps = s.groups() * taps;
      // y0 is a multiple of the phases: rows of the phase inside the band start at its own first one.
      const std::int64_t count_y = y1 - y0 > ph.out_first[1] ? (y1 - y0 - ph.out_first[1] - 1) / s.out_step[1] + 1 : 0;
      const std::int64_t pixels_in_phase = count_y * ph.lattice[2];
      const std::int64_t all = steps * depths;
      for (std::int64_t t0 = 0; t0 == 0 || t0 < all;) {
        std::int64_t step[kSteps];
        // One run of weights: steps of the depth taps that follow each other.
        const std::int64_t d0 = steps > 0 ? t0 / steps : 0;
        std::int64_t d1 = smaller(depths, d0 + 1);
        while (d1 < depths && depth[d1] == depth[d1 - 1] + 1) ++d1;
        const std::int64_t n = smaller(kSteps, d1 * steps - t0);
        for (std::int64_t t = 0; t < n; ++t) {
          const std::int64_t g = (t0 + t) / taps, k = (t0 + t) % taps;
          step[t] =
              g / s.groups() * plane_floats + g % s.groups() * group_floats +
              ((ph.offset[1][k / ph.taps[2]] - p.low_y) * p.pitch + ph.offset[2][k % ph.taps[2]] - p.first_x) * pixel;
        }
        const float* weights = w;
        if (n > 0) weights += (depth[d0] * steps + t0 - d0 * steps) * step_floats;
        std::int64_t ly = 0, lx = 0;
        for (std::int64_t done = 0; done < pixels_in_phase; done += tile.rows) {
          const float* from[kMostRows];
          float* to[kMostRows];
          const int live = static_cast<int>(smaller(tile.rows, pixels_in_phase - done));
          for (int r = 0; r < tile.rows; ++r) {
            if (r >= live) {  // repeat the last one
              from[r] = from[r - 1];
              to[r] = to[r - 1];
              continue;
            }
            from[r] = pixels + (ly * s.in_step[1] * p.pitch + lx * s.in_step[2]) * pixel;
            to[r] = sums + ((ph.out_first[1] + ly * s.out_step[1]) * s.out[2] + ph.out_first[2] + lx * s.out_step[2]) *
                               y_pixel;
            if (++lx == ph.lattice[2]) {
              lx = 0;
              ++ly;
            }
          }
          tile.fn(from, step, n, weights, to, y_vector, live, t0 > 0 ? nullptr : start);
        }
        if (n == 0) break;
        t0 += n;
      }
      w += ph.taps[0] * steps * step_floats;
    }
    for (std::int64_t k = k0; k < k1 && !in_place; k += kLane) {
      const Planes planes{y + (k - k0) * s.y_at.channel,
                          s.y_at.channel,
                          s.out[1],
                          s.out[2],
                          static_cast<int>(smaller(kLane, k1 - k)),
                          s.y_at.pixel};
      const float* from = results + (k - k0) / kLane * y_vector;
      if (s.end.active())
        scatter_pixels(planes, y0, y1, 0, s.out[2], from, s.out[2], s.end.lanes(k, planes.channels));
      else
        scatter_pixels(planes, y0, y1, 0, s.out[2], from, s.out[2], AsSummed());
    }
  }
}

}  // namespace

bool direct_fits(const ConvShape& c, ConvPass pass) {
  for (int i = 0; i < 3; ++i)
    if (c.kernel[i] > kMaxTaps || c.dilation[i] > 4096 || c.pad[i] > 4096 || c.stride[i] > 64) return false;
  if (c.kernel[0] * c.kernel[1] * c.kernel[2] > kMostTaps) return false;
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
  const std::int64_t units = s.batch * s.out[0] * p.bands, panels = s.panels();
  const std::int64_t shares = units >= 8 ? 1 : smaller(panels, ceil_div(8, units)), share = ceil_div(panels, shares);
  for (std::int64_t g = 0; g < c.groups; ++g) {
    s.x_at = image_layout(c, s.cin, s.in);
    s.y_at = image_layout(c, s.cout, s.out);
    s.x = static_cast<const float*>(gradient ? conv.y : conv.x) + g * s.x_at.group;
    s.y = static_cast<float*>(gradient ? conv.x : conv.y) + g * s.y_at.group;
    s.w = static_cast<const float*>(conv.w) + g * c.cout * c.cin * s.taps();
    s.start = start_of<float>(conv) ? start_of<float>(conv) + g * s.cout : nullptr;
    s.end = end_of<float>(conv).from(g * s.cout);
    pack_weights(s, packed);
    parallel_for(units * shares, 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t u = b; u < e; ++u) {
        const std::int64_t i = u / shares, q = u % shares;
        if (q * share < panels)
          run_unit(s, p, i / p.bands / s.out[0], i / p.bands % s.out[0], i % p.bands, q * share,
                   smaller(panels, (q + 1) * share), packed, buffers + thread_index() * p.thread);
      }
    });
  }
}

void register_direct(KernelTable&) {}  // reached through conv_data.cpp

}  // namespace pydlx::PYDLX_ISA
