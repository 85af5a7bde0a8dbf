// Weight gradient of convolutions by the transposed Winograd algorithm: dU[q] = V[q]^T Y[q]
// summed over all tiles, where V are transformed input tiles and Y transformed tiles of the output gradient, and one
// inverse transform per kernel at the end. Tiles are taken in rounds whose size follows from the geometry, so the order
// of the sums never depends on the threads.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"
#include "cpu/gemm/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Sizes in floats.
struct Memory {
  Tiling tiling;               // a block is a round
  std::int64_t panel, panels;  // output channels of a packed panel
  std::int64_t chunk, chunks;  // input channels that one unit of work multiplies
  std::int64_t v_step, y_step;
  std::int64_t unit;                // sums of one unit
  std::int64_t v, y, sums, pixels;  // `sums` and `pixels`: all of them
  bool keep;                        // sums live from round to round, else each thread has room for one unit
};

// Input channels of all depth taps.
std::int64_t rows_of(const ConvShape& c) { return c.kernel[0] * c.cin; }

template <class W, int RY, int RX>
Memory plan(const ConvShape& c) {
  using P = Positions<W, RY, RX>;
  constexpr std::int64_t Q = P::count;
  Memory p;
  p.panel = packed_columns_f32(1);
  p.panels = ceil_div(c.cout, p.panel);
  // Sums of a unit in half of a second-level cache, and units enough for the threads. The cut changes no result. A
  // unit's input channels are together in memory, for the prefetchers: out of rows of all channels 64 to 64 on 56 took
  // a tenth longer.
  const std::int64_t vectors = ceil_div(rows_of(c), kLane), most = larger(1, 48 / kLane);
  const std::int64_t wanted = ceil_div(4 * num_threads(), p.panels);
  p.chunks = larger(ceil_div(vectors, most), smaller(vectors, wanted));
  p.chunk = ceil_div(vectors, p.chunks) * kLane;
  p.chunks = ceil_div(rows_of(c), p.chunk);
  const std::int64_t per_tile = Q * (vectors * kLane + p.panels * p.panel) * static_cast<std::int64_t>(sizeof(float));
  p.tiling = make_tiling<W, RY, RX>(c.batch * c.out[0], c.out[1], c.out[2],
                                    larger(Q > 36 ? 96 * 36 / Q : 96, tuning::kWinogradRound / per_tile), 1);
  p.keep = p.tiling.blocks > 1;
  const std::int64_t t = p.tiling.block_tiles();
  p.v_step = p.chunks * t * p.chunk + 16;
  p.y_step = p.panels * t * p.panel + 16;
  p.unit = P::kernel_count * (p.chunk * p.panel + 16);
  p.v = Q * p.v_step;
  p.y = Q * p.y_step;
  p.sums = (p.keep ? p.chunks * p.panels : num_threads()) * p.unit;
  p.pixels = num_threads() * round_up(p.tiling.pixels<W, RY, RX>(), 16);
  return p;
}

struct Operands {
  const ConvShape& c;
  const Memory& p;
  const float *x, *dy;  // of this group
  float* dw;
};

// Transforms kLane channels of a band: of the input (of each depth tap in turn) for group < input groups, else of the
// output gradient.
template <class W, int RY, int RX>
__attribute__((noinline)) void transform_band(const Operands& o, const Band& a, std::int64_t group, std::int64_t tile,
                                              std::int64_t tiles, float* v, float* y, float* pixels) {
  constexpr int MY = outputs<W>(RY), MX = outputs<W>(RX);
  const ConvShape& c = o.c;
  const Memory& p = o.p;
  const std::int64_t input_groups = ceil_div(c.cin, kLane);
  const std::int64_t image = a.image / c.out[0], z = a.image % c.out[0];
  if (group < input_groups) {
    constexpr int SY = step<W>(RY), SX = step<W>(RX);
    const std::int64_t r0 = a.row * SY - c.pad[1], c0 = a.column * SX - c.pad[2];
    const std::int64_t height = a.rows * SY + inputs<W>(RY) - SY, pitch = a.columns * SX + inputs<W>(RX) - SX;
    const std::int64_t ch = group * kLane, plane = c.in[1] * c.in[2];
    const int channels = static_cast<int>(smaller(kLane, c.cin - ch));
    for (std::int64_t d = 0; d < c.kernel[0]; ++d) {
      const std::int64_t from = z - c.pad[0] + d;
      const bool exists = from >= 0 && from < c.in[0];
      const ImageLayout at = x_layout(c);
      const Planes planes{
          const_cast<float*>(o.x) + image * at.image + ch * at.channel + (exists ? from : 0) * plane * at.pixel,
          at.channel,
          exists ? c.in[1] : 0,
          c.in[2],
          channels,
          at.pixel};
      gather_pixels(planes, r0, r0 + height, c0, c0 + pitch, pixels);
      const std::int64_t row = d * c.cin + ch;
      std::int64_t t = row / p.chunk * tiles + tile;
      for (std::int64_t i = 0; i < a.rows; ++i)
        for (std::int64_t j = 0; j < a.columns; ++j, ++t)
          input_tile<W, RY, RX>(pixels + (i * SY * pitch + j * SX) * kLane, pitch * kLane, v + row % p.chunk, t,
                                p.v_step, p.chunk);
    }
    return;
  }
  const std::int64_t r0 = a.row * MY, c0 = a.column * MX;
  const std::int64_t ch = (group - input_groups) * kLane, plane = c.out[1] * c.out[2], pitch = a.columns * MX;
  const ImageLayout at = y_layout(c);
  const Planes planes{const_cast<float*>(o.dy) + image * at.image + ch * at.channel + z * plane * at.pixel,
                      at.channel,
                      c.out[1],
                      c.out[2],
                      static_cast<int>(smaller(kLane, c.cout - ch)),
                      at.pixel};
  gather_pixels(planes, r0, r0 + a.rows * MY, c0, c0 + pitch, pixels);
  std::int64_t t = ch / p.panel * tiles + tile;
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.columns; ++j, ++t)
      output_grad_tile<W, RY, RX>(pixels + (i * MY * pitch + j * MX) * kLane, pitch * kLane, y + ch % p.panel, t,
                                  p.y_step, p.panel);
}

template <class W, int RY, int RX>
__attribute__((noinline)) void finish_kernels(const Operands& o, std::int64_t r0, std::int64_t r1, std::int64_t k0,
                                              std::int64_t k1, const float* sums) {
  constexpr int KY = kernels<W>(RY), KX = kernels<W>(RX), T = RY * RX;
  const std::int64_t step = o.p.chunk * o.p.panel + 16, taps = o.c.kernel[0] * T;
  for (std::int64_t k = k0; k < k1; k += kLane)
    for (std::int64_t r = r0; r < r1; ++r) {
      const float* from = sums + (r - r0) * o.p.panel + (k - k0);
      V values[T];
      two_passes<KernelGradAxis<W>, RY, RX, KY, KX, RY, RX>(
          [&](int i, int j) { return load(from + (i * KX + j) * step); },
          [&](int i, int j, V x) { values[i * RX + j] = x; });
      store_kernels<T>(o.dw + (k * o.c.cin + r % o.c.cin) * taps + r / o.c.cin * T, o.c.cin * taps,
                       static_cast<int>(smaller(kLane, k1 - k)), values);
    }
}

template <class W, int RY, int RX>
void run_group(const Operands& o, float* memory) {
  using P = Positions<W, RY, RX>;
  const ConvShape& c = o.c;
  const Memory& p = o.p;
  const Tiling& t = p.tiling;
  float *v = memory, *y = v + p.v, *sums = y + p.y, *pixels = sums + p.sums;
  const std::int64_t groups = ceil_div(c.cin, kLane) + ceil_div(c.cout, kLane);
  const std::int64_t per_thread = p.pixels / num_threads();
  for (std::int64_t round = 0; round < t.blocks; ++round) {
    const std::int64_t b0 = round * t.per_block, b1 = t.block_end(round);
    const std::int64_t first = t.tile(t.band(b0)), tiles = t.tile(t.band(b1 - 1)) + t.band(b1 - 1).tiles() - first;
    parallel_for((b1 - b0) * groups, 8, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t i = b; i < e; ++i) {
        const Band band = t.band(b0 + i / groups);
        transform_band<W, RY, RX>(o, band, i % groups, t.tile(band) - first, tiles, v, y,
                                  pixels + thread_index() * per_thread);
      }
    });
    parallel_for(p.chunks * p.panels, 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t unit = b; unit < e; ++unit) {
        const std::int64_t panel = unit / p.chunks, r0 = unit % p.chunks * p.chunk,
                           r1 = smaller(rows_of(c), r0 + p.chunk);
        const std::int64_t k0 = panel * p.panel, k1 = smaller(c.cout, k0 + p.panel);
        float* s = sums + (p.keep ? unit : thread_index()) * p.unit;
        for (int q = 0; q < P::kernel_count; ++q) {
          Block g;
          g.m = r1 - r0;
          g.n = k1 - k0;
          g.k = tiles * P::copies(q);
          g.a = v + P::first(q) * p.v_step + r0 * g.k;
          g.a_row = 1;
          g.a_col = p.chunk;
          g.b = y + P::first(q) * p.y_step + panel * g.k * p.panel;
          g.packed = true;
          g.c = s + q * (p.chunk * p.panel + 16);
          g.c_row = p.panel;
          g.beta = round > 0 ? 1.0f : 0.0f;
          block_f32(g);
        }
        if (round + 1 == t.blocks) finish_kernels<W, RY, RX>(o, r0, r1, k0, k1, s);
      }
    });
  }
}

template <class W, int RY, int RX>
struct WeightPass {
  static std::int64_t scratch(const ConvShape& c) {
    const Memory p = plan<W, RY, RX>(c);
    return (p.v + p.y + p.sums + p.pixels + 16) * static_cast<std::int64_t>(sizeof(float));
  }
  static void run(const Conv& conv) {
    const ConvShape& c = conv.shape;
    const Memory p = plan<W, RY, RX>(c);
    float* memory =
        reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
    for (std::int64_t g = 0; g < c.groups; ++g)
      run_group<W, RY, RX>({c, p, static_cast<const float*>(conv.x) + g * x_layout(c).group,
                            static_cast<const float*>(conv.y) + g * y_layout(c).group,
                            static_cast<float*>(conv.w) + g * c.cout * c.cin * c.kernel[0] * RY * RX},
                           memory);
  }
};

// f(the pass of this geometry).
template <class F>
auto with_pass(const ConvShape& c, const F& f) {
  if (c.stride[2] != 1) {
    const std::int64_t outputs = winograd_strided_tiles(c, ConvPass::weight_grad).outputs;
    return outputs == 3   ? f(WeightPass<Strided<FourPoints>, 3, 3>())
           : outputs == 4 ? f(WeightPass<Strided<FivePoints>, 3, 3>())
                          : f(WeightPass<Strided<SixPoints>, 3, 3>());
  }
  switch (c.kernel[1]) {
    case 5:
      return f(WeightPass<UnitStride<SixPoints>, 5, 5>());
    case 1:
      return f(WeightPass<UnitStride<SixPoints>, 1, 3>());
    default:
      return f(WeightPass<UnitStride<SixPoints>, 3, 3>());
  }
}

}  // namespace

std::int64_t winograd_weight_scratch(const ConvShape& c) {
  return with_pass(c, [&](auto p) { return p.scratch(c); });
}

void winograd_weight(const Conv& conv) {
  with_pass(conv.shape, [&](auto p) { p.run(conv); });
}

void register_winograd_weight(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
