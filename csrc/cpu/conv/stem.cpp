// Layers with few input channels and many output channels (the first one of a network): the taps of all input channels
// are the depth of the product, broadcast one by one from bordered planes, the output channels its vectors. The forward
// pass is a register tile of pixels over all taps; the weight gradient has taps for rows, and every element is one
// sequential sum over images and pixels.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kRows = tuning::kGradRows;  // taps per register tile, by two vectors of output channels
constexpr int kVectors = 2;
constexpr std::int64_t kBandFloats = tuning::kStemBand;
constexpr std::int64_t kMostPixels = 14;  // of a row tile

struct Plan {
  std::int64_t blocks;             // of kVectors vectors of output channels
  std::int64_t rows, bands;        // output rows per band
  std::int64_t pitch, input_rows;  // of the bordered input
  std::int64_t elements;           // taps of all input channels, rounded up to whole tiles
  std::int64_t chunks, chunk;      // of the images, each with sums of its own
  std::int64_t x_floats, y_floats, sums, thread;
};

Plan make_plan(const ConvShape& c) {
  Plan p;
  p.blocks = ceil_div(c.cout, kVectors * kLane);
  // Few blocks: the images are shared out too. That follows from the geometry only.
  const std::int64_t units = c.groups * p.blocks;
  p.chunks = units >= 8 ? 1 : smaller(c.batch, ceil_div(8, units));
  p.chunk = ceil_div(c.batch, p.chunks);
  p.chunks = ceil_div(c.batch, p.chunk);
  p.rows = larger(1, smaller(c.out[1], kBandFloats / (c.out[2] * kVectors * kLane)));
  p.bands = ceil_div(c.out[1], p.rows);
  p.pitch = (c.out[2] - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1;
  p.input_rows = (p.rows - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
  p.elements = round_up(c.cin * c.kernel[1] * c.kernel[2], kRows);
  p.x_floats = c.cin * p.input_rows * p.pitch;
  p.y_floats = kVectors * p.rows * c.out[2] * kLane;
  p.sums = p.elements * kVectors * kLane;
  p.thread = round_up(p.x_floats, 16) + round_up(p.y_floats, 16);
  return p;
}

// sums[i][vector] += over the pixels of a band x[offset[i] + pixel] dy[vector](pixel), for NV of kVectors vectors.
template <int NV>
__attribute__((noinline)) void add_pixels(const float* x, const std::int64_t* offset, std::int64_t x_row,
                                          std::int64_t x_pixel, const float* dy, std::int64_t dy_vector,
                                          std::int64_t rows, std::int64_t columns, float* sums) {
  V acc[kRows][NV];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[i][j] = load(sums + (i * kVectors + j) * kLane);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* px[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) px[i] = x + offset[i] + r * x_row;
    for (std::int64_t k = 0, at = 0; k < columns; ++k, at += x_pixel) {
      V g[NV];
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) g[j] = load(dy + j * dy_vector);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const V v = splat<float>(px[i][at]);
#pragma GCC unroll 2
        for (int j = 0; j < NV; ++j) acc[i][j] += v * g[j];
      }
      dy += kLane;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) store<float>(sums + (i * kVectors + j) * kLane, acc[i][j]);
}

// The bordered input of a band: rows of `pitch` columns. Planes follow each other, or the channels of a pixel do, as in
// the image, so that rows are copied as they are.
struct Border {
  std::int64_t pixel, row, plane;  // floats between neighbours

  Border(const ConvShape& c, std::int64_t rows, std::int64_t pitch)
      : pixel(c.channels_last ? c.cin : 1), row(pitch * pixel), plane(c.channels_last ? 1 : rows * row) {}
  // Of tap t of the channels' taps in the order of the weights.
  std::int64_t offset(const ConvShape& c, std::int64_t element) const {
    const std::int64_t taps = c.kernel[1] * c.kernel[2], t = element % taps;
    return element / taps * plane + t / c.kernel[2] * c.dilation[1] * row + t % c.kernel[2] * c.dilation[2] * pixel;
  }
};

// Rows are short: a call of the library would take longer than the copy.
PYDLX_INLINE void copy_floats(const float* from, std::int64_t n, float* to) {
  std::int64_t i = 0;
  for (; i + kLane <= n; i += kLane) store<float>(to + i, load(from + i));
  if (i < n) store_part(to + i, load_part(from + i, Lanes(static_cast<int>(n - i))), Lanes(static_cast<int>(n - i)));
}
PYDLX_INLINE void zero_floats(float* to, std::int64_t n) {
  std::int64_t i = 0;
  for (; i + kLane <= n; i += kLane) store<float>(to + i, V{});
  if (i < n) store_part(to + i, V{}, Lanes(static_cast<int>(n - i)));
}

// Rows [first, first + rows) and columns [-pad, pitch - pad) of the channels of a group, zero outside of the image.
void copy_rows(const ConvShape& c, const Border& to, const float* x, const ImageLayout& at, std::int64_t first,
               std::int64_t rows, float* out) {
  const std::int64_t pitch = to.row / to.pixel;
  const std::int64_t lo = smaller(pitch, c.pad[2]), hi = larger(lo, smaller(pitch, c.pad[2] + c.in[2]));
  for (std::int64_t plane = 0; plane < (c.channels_last ? 1 : c.cin); ++plane, x += at.channel, out += to.plane)
    for (std::int64_t r = 0; r < rows; ++r) {
      float* row = out + r * to.row;
      const std::int64_t iy = first + r;
      if (iy < 0 || iy >= c.in[1]) {
        zero_floats(row, to.row);
        continue;
      }
      const float* from = x + (iy * c.in[2] + lo - c.pad[2]) * at.pixel;
      if (at.pixel == to.pixel && pitch == c.in[2] && lo == 0 && hi == pitch) {  // whole rows follow each other
        const std::int64_t run = smaller(rows - r, c.in[1] - iy);
        copy_floats(from, run * to.row, row);
        r += run - 1;
        continue;
      }
      zero_floats(row, lo * to.pixel);
      if (at.pixel == to.pixel)
        copy_floats(from, (hi - lo) * to.pixel, row + lo * to.pixel);
      else
        for (std::int64_t i = lo; i < hi; ++i, from += at.pixel) copy_floats(from, c.cin, row + i * c.cin);
      zero_floats(row + hi * to.pixel, (pitch - hi) * to.pixel);
    }
}

// ---- forward

constexpr std::int64_t kPanel = kVectors * kLane;  // output channels per packed panel of weights
constexpr std::int64_t kResults = 8;  // tiles in a row whose results wait in the first-level cache to be transposed

// MR output pixels of a row, `pixel` floats apart in the bordered input, by NV vectors of output channels; the first
// `live` pixels are stored, and `channels` of the last vector. All taps pass at once.
struct Tile {
  const float* x;
  std::int64_t pixel;
  const std::int64_t* offset;
  std::int64_t elements;
  const float *w, *start;
  const Ending<float>* end;  // one per vector, or null
  float* y;
  std::int64_t y_pixel, y_vector;
  int live, channels;
};

template <int MR, int NV>
__attribute__((noinline)) void row_tile(const Tile& t) {
  V acc[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[i][j] = load(t.start + j * kLane);
  const std::int64_t pixel = t.pixel, elements = t.elements;
  const std::int64_t* offset = t.offset;
  const float *x = t.x, *w = t.w;
  for (std::int64_t e = 0; e < elements; ++e, w += kPanel) {
    const float* from = x + offset[e];
    V b[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) b[j] = load(w + j * kLane);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const V v = splat<float>(from[i * pixel]);
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) acc[i][j] += v * b[j];
    }
  }
  if (t.end)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) {
      const Ending<float> end = t.end[j];
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) acc[i][j] = end(acc[i][j]);
    }
  const bool whole = t.channels == kLane;
  const Lanes lanes(t.channels);
  float* y = t.y;
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i, y += t.y_pixel) {
    if (i >= t.live) break;
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j)
      if (j < NV - 1 || whole)
        store<float>(y + j * t.y_vector, acc[i][j]);
      else
        store_part(y + j * t.y_vector, acc[i][j], lanes);
  }
}

using TileFn = void (*)(const Tile&);
struct TileChoice {
  TileFn one, two;  // vectors
  std::int64_t rows;
};
// The tile that spends least on a row of n pixels; the last one of a row may be partly empty. Loading and storing the
// sums of a tile takes about as long as one more pixel.
TileChoice choose_row_tile(std::int64_t n) {
#define PYDLX_ROW_TILE(MR) \
  { row_tile<MR, 1>, row_tile<MR, 2>, MR }
#if defined(PYDLX_ISA_avx512)
  constexpr TileChoice all[] = {PYDLX_ROW_TILE(14), PYDLX_ROW_TILE(12), PYDLX_ROW_TILE(10), PYDLX_ROW_TILE(8),
                                PYDLX_ROW_TILE(4)};
#else
  constexpr TileChoice all[] = {PYDLX_ROW_TILE(6), PYDLX_ROW_TILE(4)};
#endif
#undef PYDLX_ROW_TILE
  TileChoice best = all[0];
  for (const TileChoice& t : all)
    if (ceil_div(n, t.rows) * (t.rows + 1) < ceil_div(n, best.rows) * (best.rows + 1)) best = t;
  return best;
}

struct DataPlan {
  std::int64_t elements, panels;  // taps of all input channels; panels of output channels
  std::int64_t rows, bands;       // output rows per band
  std::int64_t pitch, input_rows;
  std::int64_t packed, x_floats, thread;
};

DataPlan make_data_plan(const ConvShape& c) {
  DataPlan p;
  p.elements = c.cin * c.kernel[1] * c.kernel[2];
  p.panels = ceil_div(c.cout, kPanel);
  p.pitch = (c.out[2] - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1;
  const std::int64_t extent = (c.kernel[1] - 1) * c.dilation[1] + 1, most = ceil_div(c.out[1] * c.batch, 8);
  const auto floats = [&](std::int64_t rows) { return c.cin * ((rows - 1) * c.stride[1] + extent) * p.pitch; };
  p.rows = 1;
  while (p.rows < c.out[1] && p.rows < most && floats(p.rows + 1) <= tuning::kStemInput) ++p.rows;
  p.bands = ceil_div(c.out[1], p.rows);
  p.rows = ceil_div(c.out[1], p.bands);
  p.bands = ceil_div(c.out[1], p.rows);
  p.input_rows = (p.rows - 1) * c.stride[1] + extent;
  p.packed = round_up(c.groups * p.panels * p.elements * kPanel, 16);
  p.x_floats = round_up(floats(p.rows) + kMostPixels * c.stride[2] * c.cin, 16);  // tiles read beyond the last row
  p.thread = p.x_floats + kResults * kMostPixels * kPanel;
  return p;
}

// Weights of all groups as [group][panel][element][kPanel], zero where there is no output channel; offsets of the
// elements in the bordered planes of a band.
void pack_elements(const Conv& conv, const DataPlan& p, float* packed, std::int64_t* offset) {
  const ConvShape& c = conv.shape;
  const float* w = static_cast<const float*>(conv.w);
  for (std::int64_t g = 0; g < c.groups; ++g)
    for (std::int64_t k = 0; k < c.cout; k += kLane) {  // tiles read no further than the last vector
      const float* rows = w + (g * c.cout + k) * p.elements;
      float* to = packed + (g * p.panels + k / kPanel) * p.elements * kPanel + k % kPanel;
      for (std::int64_t i = 0; i < p.elements; i += kLane) {
        const int n = static_cast<int>(smaller(kLane, p.elements - i));
        const Lanes lanes(n);
        V r[kLane];
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) r[l] = k + l < c.cout ? load_part(rows + l * p.elements + i, lanes) : V{};
        transpose_square<float>(r);
#pragma GCC unroll 16
        for (int l = 0; l < kLane; ++l) {
          if (l >= n) break;
          store<float>(to + (i + l) * kPanel, r[l]);
        }
      }
    }
  const Border border(c, p.input_rows, p.pitch);
  for (std::int64_t i = 0; i < p.elements; ++i) offset[i] = border.offset(c, i);
}

void data_band(const Conv& conv, const DataPlan& p, std::int64_t image, std::int64_t g, std::int64_t band,
               const float* packed, const std::int64_t* offset, float* memory) {
  const ConvShape& c = conv.shape;
  float *planes = memory, *results = memory + p.x_floats;
  const ImageLayout x_at = x_layout(c), y_at = y_layout(c);
  const Border border(c, p.input_rows, p.pitch);
  const std::int64_t y0 = band * p.rows, y1 = smaller(c.out[1], y0 + p.rows), wide = c.out[2];
  copy_rows(c, border, static_cast<const float*>(conv.x) + image * x_at.image + g * x_at.group, x_at,
            y0 * c.stride[1] - c.pad[1], p.input_rows - (p.rows - (y1 - y0)) * c.stride[1], planes);
  float* y = static_cast<float*>(conv.y) + image * y_at.image + g * y_at.group;
  const float* first = start_of<float>(conv) ? start_of<float>(conv) + g * c.cout : nullptr;
  const ChannelEnd<float> end = end_of<float>(conv).from(g * c.cout);
  const TileChoice choice = choose_row_tile(wide);
  // Planes are written in pieces: some rows, or a part of one row whose length whole vectors divide.
  const std::int64_t rows = c.channels_last ? 1 : larger(1, kResults * kMostPixels / wide),
                     columns = c.channels_last || rows > 1 ? wide : smaller(wide, kResults * choice.rows);
  for (std::int64_t k0 = 0; k0 < c.cout; k0 += kPanel) {
    const std::int64_t k1 = smaller(c.cout, k0 + kPanel);
    const int vectors = static_cast<int>(ceil_div(k1 - k0, kLane)),
              last = static_cast<int>(k1 - k0) - (vectors - 1) * kLane;
    alignas(64) float start[kPanel];
    for (std::int64_t j = 0; j < kPanel; ++j) start[j] = first && k0 + j < k1 ? first[k0 + j] : 0.0f;
    Ending<float> ends[kVectors];
    if (end.active())
      for (int j = 0; j < vectors; ++j) ends[j] = end.lanes(k0 + j * kLane, j + 1 < vectors ? kLane : last);
    Tile t;
    t.pixel = c.stride[2] * border.pixel;
    t.offset = offset;
    t.elements = p.elements;
    t.w = packed + (g * p.panels + k0 / kPanel) * p.elements * kPanel;
    t.start = start;
    t.end = end.active() ? ends : nullptr;
    t.channels = c.channels_last ? last : kLane;
    for (std::int64_t r0 = y0; r0 < y1; r0 += rows)
      for (std::int64_t c0 = 0; c0 < wide; c0 += columns) {
        const std::int64_t r1 = smaller(y1, r0 + rows), c1 = smaller(wide, c0 + columns);
        const std::int64_t piece = (r1 - r0) * (c1 - c0) * kLane;
        t.y_pixel = c.channels_last ? y_at.pixel : kLane;
        t.y_vector = c.channels_last ? kLane : piece;
        const std::int64_t tiles = (r1 - r0) * ceil_div(c1 - c0, choice.rows);
        std::int64_t done = 0;
        for (std::int64_t r = r0; r < r1; ++r) {
          float* row = c.channels_last ? y + r * wide * y_at.pixel + k0 : results + (r - r0) * (c1 - c0) * kLane;
          for (std::int64_t i = c0; i < c1; i += choice.rows, ++done) {
            // Results go to as many short runs as there are channels: ask for a share of them while the sums run.
            if (!c.channels_last)
              for (std::int64_t k = k0 + done * (k1 - k0) / tiles; k < k0 + (done + 1) * (k1 - k0) / tiles; ++k)
                for (std::int64_t q = 0; q < (r1 - r0) * (c1 - c0) + 15; q += 16)
                  __builtin_prefetch(y + k * y_at.channel + r0 * wide + c0 + q, 1);
            t.x = planes + (r - y0) * c.stride[1] * border.row + i * t.pixel;
            t.y = row + (i - c0) * t.y_pixel;
            t.live = static_cast<int>(smaller(choice.rows, c1 - i));
            (vectors == 2 ? choice.two : choice.one)(t);
          }
        }
        if (c.channels_last) continue;
        for (int j = 0; j < vectors; ++j) {
          const Planes to{y + (k0 + j * kLane) * y_at.channel, y_at.channel, c.out[1], wide,
                          j + 1 < vectors ? kLane : last,      y_at.pixel};
          scatter_pixels(to, r0, r1, c0, c1, results + j * piece, c1 - c0, AsSummed());
        }
      }
  }
}

}  // namespace

bool stem_fits(const ConvShape& c) {
  for (int i = 1; i < 3; ++i)
    if (c.kernel[i] > 64 || c.dilation[i] > 4096 || c.pad[i] > 4096 || c.stride[i] > 64) return false;
  if (c.cin * c.kernel[1] * c.kernel[2] > 1024) return false;
  return make_data_plan(c).thread <= 512 << 10;  // of 4 bytes
}

std::int64_t stem_data_scratch(const ConvShape& c) {
  const DataPlan p = make_data_plan(c);
  return (p.packed + num_threads() * p.thread + 16) * static_cast<std::int64_t>(sizeof(float)) + p.elements * 8;
}

void stem_data(const Conv& conv) {
  const ConvShape& c = conv.shape;
  const DataPlan p = make_data_plan(c);
  float* packed = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  float* buffers = packed + p.packed;
  std::int64_t* offset = reinterpret_cast<std::int64_t*>(buffers + num_threads() * p.thread);
  pack_elements(conv, p, packed, offset);
  parallel_for(c.batch * c.groups * p.bands, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u)
      data_band(conv, p, u / p.bands / c.groups, u / p.bands % c.groups, u % p.bands, packed, offset,
                buffers + thread_index() * p.thread);
  });
}

std::int64_t stem_weight_scratch(const ConvShape& c) {
  const Plan p = make_plan(c);
  const std::int64_t sums = c.groups * p.blocks * p.chunks * p.sums;
  return (num_threads() * p.thread + sums + 16) * static_cast<std::int64_t>(sizeof(float));
}

void stem_weight(const Conv& conv) {
  const ConvShape& c = conv.shape;
  const Plan p = make_plan(c);
  float* all_sums =
      reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  float* buffers = all_sums + c.groups * p.blocks * p.chunks * p.sums;
  const std::int64_t live = c.cin * c.kernel[1] * c.kernel[2];
  const ImageLayout x_at = x_layout(c), y_at = y_layout(c);
  const Border border(c, p.input_rows, p.pitch);
  parallel_for(c.groups * p.blocks * p.chunks, 1, [&](std::int64_t b, std::int64_t e) {
    float* grads = buffers + thread_index() * p.thread;
    float* planes = grads + round_up(p.y_floats, 16);
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t g = u / p.chunks / p.blocks, k0 = u / p.chunks % p.blocks * kVectors * kLane,
                         k1 = smaller(c.cout, k0 + kVectors * kLane), n0 = u % p.chunks * p.chunk;
      const int vectors = static_cast<int>(ceil_div(k1 - k0, kLane));
      float* sums = all_sums + u * p.sums;
      std::memset(sums, 0, static_cast<std::size_t>(p.sums) * sizeof(float));
      for (std::int64_t n = n0; n < smaller(c.batch, n0 + p.chunk); ++n)
        for (std::int64_t band = 0; band < p.bands; ++band) {
          const std::int64_t y0 = band * p.rows, y1 = smaller(c.out[1], y0 + p.rows);
          const std::int64_t rows = (y1 - y0 - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
          const std::int64_t dy_vector = (y1 - y0) * c.out[2] * kLane;
          copy_rows(c, border, static_cast<const float*>(conv.x) + n * x_at.image + g * x_at.group, x_at,
                    y0 * c.stride[1] - c.pad[1], rows, planes);
          for (int j = 0; j < vectors; ++j) {
            const std::int64_t k = k0 + j * kLane;
            const Planes from{const_cast<float*>(static_cast<const float*>(conv.y)) + n * y_at.image + g * y_at.group +
                                  k * y_at.channel,
                              y_at.channel,
                              c.out[1],
                              c.out[2],
                              static_cast<int>(smaller(kLane, k1 - k)),
                              y_at.pixel};
            gather_pixels(from, y0, y1, 0, c.out[2], grads + j * dy_vector);
          }
          for (std::int64_t i = 0; i < p.elements; i += kRows) {
            std::int64_t offset[kRows];
            for (int r = 0; r < kRows; ++r)
              offset[r] = border.offset(c, smaller(live - 1, i + r));  // the last one is repeated
            (vectors == 2 ? add_pixels<2> : add_pixels<1>)(planes, offset, c.stride[1] * border.row,
                                                           c.stride[2] * border.pixel, grads, dy_vector, y1 - y0,
                                                           c.out[2], sums + i * kVectors * kLane);
          }
        }
    }
  });
  // The chunks' sums in order.
  parallel_for(c.groups * p.blocks, 1 + 16384 / (p.chunks * p.sums), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      float* sums = all_sums + u * p.chunks * p.sums;
      for (std::int64_t q = 1; q < p.chunks; ++q)
        for (std::int64_t i = 0; i < p.sums; ++i) sums[i] += sums[q * p.sums + i];
      const std::int64_t g = u / p.blocks, k0 = u % p.blocks * kVectors * kLane;
      float* dw = static_cast<float*>(conv.w) + (g * c.cout + k0) * live;
      for (std::int64_t k = 0; k < smaller(c.cout - k0, kVectors * kLane); ++k)
        for (std::int64_t i = 0; i < live; ++i) dw[k * live + i] = sums[i * kVectors * kLane + k];
    }
  });
}

void register_stem(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
