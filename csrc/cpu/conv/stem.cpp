// Layers with few input channels and many output channels (the first one of a network): the taps of all input channels
// are the depth of the product, broadcast one by one from bordered planes, the output channels its vectors. The forward
// pass is a register tile of pixels over all taps; the weight gradient has taps for rows, and every element is one
// sequential sum over images and pixels.
#include "cpu/conv/pixel_tile.h"
#include "cpu/conv/special.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kRows = tuning::kGradRows;  // taps per register tile, by two vectors of output channels
constexpr int kVectors = 2;
constexpr std::int64_t kBandFloats = tuning::kStemBand;

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

// Rows [first, first + rows) and columns [-pad, pitch - pad) of a plane with `pixel` floats between neighbours, zero
// outside of it.
void copy_rows(const ConvShape& c, const float* x, std::int64_t pixel, std::int64_t first, std::int64_t rows,
               std::int64_t pitch, float* out) {
  const std::int64_t lo = smaller(pitch, c.pad[2]), hi = larger(lo, smaller(pitch, c.pad[2] + c.in[2]));
  for (std::int64_t r = 0; r < rows; ++r) {
    float* to = out + r * pitch;
    const std::int64_t iy = first + r;
    const bool inside = iy >= 0 && iy < c.in[1];
    const std::int64_t a = inside ? lo : pitch, b = inside ? hi : pitch;
    std::memset(to, 0, static_cast<std::size_t>(a) * sizeof(float));
    const float* from = x + (iy * c.in[2] + a - c.pad[2]) * pixel;
    if (inside && pixel == 1)
      std::memcpy(to + a, from, static_cast<std::size_t>(b - a) * sizeof(float));
    else if (inside)
      for (std::int64_t i = 0; i < b - a; ++i) to[a + i] = from[i * pixel];
    std::memset(to + b, 0, static_cast<std::size_t>(pitch - b) * sizeof(float));
  }
}

// ---- forward

constexpr std::int64_t kElements = tuning::kStemPass;

struct DataPlan {
  std::int64_t elements, panels;  // taps of all input channels; panels of output channels
  std::int64_t rows, bands;       // output rows per band
  std::int64_t pitch, input_rows;
  std::int64_t packed, x_floats, thread;
};

DataPlan make_data_plan(const ConvShape& c) {
  constexpr std::int64_t kInput = tuning::kStemInput, kOutput = tuning::kStemOutput;
  DataPlan p;
  p.elements = c.cin * c.kernel[1] * c.kernel[2];
  p.panels = ceil_div(c.cout, kPanel);
  p.pitch = (c.out[2] - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1;
  const std::int64_t extent = (c.kernel[1] - 1) * c.dilation[1] + 1, most = ceil_div(c.out[1] * c.batch, 8);
  const auto floats = [&](std::int64_t rows) { return c.cin * ((rows - 1) * c.stride[1] + extent) * p.pitch; };
  p.rows = 1;
  while (p.rows < c.out[1] && p.rows < most && floats(p.rows + 1) <= kInput &&
         (p.rows + 1) * c.out[2] * kPanel <= kOutput)
    ++p.rows;
  p.bands = ceil_div(c.out[1], p.rows);
  p.rows = ceil_div(c.out[1], p.bands);
  p.bands = ceil_div(c.out[1], p.rows);
  p.input_rows = (p.rows - 1) * c.stride[1] + extent;
  p.packed = round_up(c.groups * p.panels * p.elements * kPanel, 16);
  p.x_floats = round_up(floats(p.rows), 16);
  p.thread = p.x_floats + round_up(p.rows * c.out[2] * kPanel, 16);
  return p;
}

// Weights of all groups as [group][panel][element][kPanel], zero where there is no output channel; offsets of the
// elements in the bordered planes of a band.
void pack_elements(const Conv& conv, const DataPlan& p, float* packed, std::int64_t* offset) {
  const ConvShape& c = conv.shape;
  const float* w = static_cast<const float*>(conv.w);
  for (std::int64_t g = 0; g < c.groups; ++g)
    for (std::int64_t k = 0; k < round_up(c.cout, kLane); ++k) {  // tiles read no further
      const float* row = w + (g * c.cout + k) * p.elements;
      float* to = packed + (g * p.panels + k / kPanel) * p.elements * kPanel + k % kPanel;
      for (std::int64_t i = 0; i < p.elements; ++i) to[i * kPanel] = k < c.cout ? row[i] : 0.0f;
    }
  const std::int64_t taps = c.kernel[1] * c.kernel[2];
  for (std::int64_t i = 0; i < p.elements; ++i) {
    const std::int64_t t = i % taps;
    offset[i] = (i / taps * p.input_rows + t / c.kernel[2] * c.dilation[1]) * p.pitch + t % c.kernel[2] * c.dilation[2];
  }
}

void data_band(const Conv& conv, const DataPlan& p, std::int64_t image, std::int64_t g, std::int64_t band,
               const float* packed, const std::int64_t* offset, float* memory) {
  const ConvShape& c = conv.shape;
  float *planes = memory, *results = memory + p.x_floats;
  const ImageLayout x_at = x_layout(c), y_at = y_layout(c);
  const std::int64_t y0 = band * p.rows, y1 = smaller(c.out[1], y0 + p.rows), pixels = (y1 - y0) * c.out[2];
  const std::int64_t rows = p.input_rows - (p.rows - (y1 - y0)) * c.stride[1];
  for (std::int64_t i = 0; i < c.cin; ++i)
    copy_rows(c, static_cast<const float*>(conv.x) + image * x_at.image + g * x_at.group + i * x_at.channel, x_at.pixel,
              y0 * c.stride[1] - c.pad[1], rows, p.pitch, planes + i * p.input_rows * p.pitch);
  const std::int64_t y_vector = pixels * kLane;
  const float* first = start_of<float>(conv) ? start_of<float>(conv) + g * c.cout : nullptr;
  const ChannelEnd<float> end = end_of<float>(conv).from(g * c.cout);
  for (std::int64_t panel = 0; panel < p.panels; ++panel) {
    const std::int64_t k0 = panel * kPanel, k1 = smaller(c.cout, k0 + kPanel);
    const PixelTile tile = choose_tile<1>(static_cast<int>(ceil_div(k1 - k0, kLane)));
    const float* w = packed + (g * p.panels + panel) * p.elements * kPanel;
    alignas(64) float start[kPanel];
    start_values(first, k0, c.cout, start);
    for (std::int64_t e = 0; e < p.elements; e += kElements) {
      std::int64_t ly = 0, lx = 0;
      for (std::int64_t done = 0; done < pixels; done += tile.rows) {
        const float* from[kMostRows];
        float* to[kMostRows];
        const int live = static_cast<int>(smaller(tile.rows, pixels - done));
        for (int r = 0; r < tile.rows; ++r) {
          if (r >= live) {  // repeat the last one
            from[r] = from[r - 1];
            to[r] = to[r - 1];
            continue;
          }
          from[r] = planes + ly * c.stride[1] * p.pitch + lx * c.stride[2];
          to[r] = results + (done + r) * kLane;
          if (++lx == c.out[2]) {
            lx = 0;
            ++ly;
          }
        }
        tile.fn(from, offset + e, smaller(kElements, p.elements - e), w + e * kPanel, to, y_vector, live,
                e > 0 ? nullptr : start);
      }
    }
    for (std::int64_t k = k0; k < k1; k += kLane) {
      const Planes to{static_cast<float*>(conv.y) + image * y_at.image + g * y_at.group + k * y_at.channel,
                      y_at.channel,
                      c.out[1],
                      c.out[2],
                      static_cast<int>(smaller(kLane, k1 - k)),
                      y_at.pixel};
      const float* from = results + (k - k0) / kLane * y_vector;
      if (end.active())
        scatter_pixels(to, y0, y1, 0, c.out[2], from, c.out[2], end.lanes(k, to.channels));
      else
        scatter_pixels(to, y0, y1, 0, c.out[2], from, c.out[2], AsSummed());
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
  const std::int64_t taps = c.kernel[1] * c.kernel[2], live = c.cin * taps;
  const ImageLayout x_at = x_layout(c), y_at = y_layout(c);
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
          for (std::int64_t i = 0; i < c.cin; ++i)
            copy_rows(c, static_cast<const float*>(conv.x) + n * x_at.image + g * x_at.group + i * x_at.channel,
                      x_at.pixel, y0 * c.stride[1] - c.pad[1], rows, p.pitch, planes + i * p.input_rows * p.pitch);
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
            for (int r = 0; r < kRows; ++r) {
              const std::int64_t element = smaller(live - 1, i + r), t = element % taps;  // the last one is repeated
              offset[r] = (element / taps * p.input_rows + t / c.kernel[2] * c.dilation[1]) * p.pitch +
                          t % c.kernel[2] * c.dilation[2];
            }
            (vectors == 2 ? add_pixels<2> : add_pixels<1>)(planes, offset, c.stride[1] * p.pitch, c.stride[2], grads,
                                                           dy_vector, y1 - y0, c.out[2], sums + i * kVectors * kLane);
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
