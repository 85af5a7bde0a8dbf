// Weight gradient of 3x3 convolutions with unit stride, by the transposed Winograd algorithm: dU[q] = V[q]^T Y[q]
// summed over all tiles, where V are transformed input tiles and Y transformed tiles of the output gradient, and one
// inverse transform per kernel at the end. Tiles are taken in rounds whose size follows from the geometry, so the order
// of the sums never depends on the threads.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"
#include "cpu/gemm/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int M = 4, N = Winograd<M>::kIn, Q = N * N;

// Sizes in floats.
struct Memory {
  Tiling tiling;               // a block is a round
  std::int64_t panel, panels;  // output channels of a packed panel
  std::int64_t chunk, chunks;  // input channels that one unit of work multiplies
  std::int64_t v_row, v_step, y_step;
  std::int64_t unit;                // sums of one unit
  std::int64_t v, y, sums, pixels;  // `sums` and `pixels`: all of them
  bool keep;                        // sums live from round to round, else each thread has room for one unit
};

Memory plan(const ConvShape& c) {
  // Transformed tiles of a round: in the third-level cache beside the sums.
  constexpr std::int64_t kRoundBytes = 6 << 20;
  Memory p;
  p.panel = packed_columns_f32(1);
  p.panels = ceil_div(c.cout, p.panel);
  p.v_row = round_up(c.cin, 16) + 16;
  const std::int64_t per_tile = Q * (p.v_row + p.panels * p.panel) * static_cast<std::int64_t>(sizeof(float));
  p.tiling = make_tiling(M, c.batch, c.out[1], c.out[2], larger(96, kRoundBytes / per_tile), 1);
  p.keep = p.tiling.blocks > 1;
  const std::int64_t t = p.tiling.block_tiles();
  p.v_step = t * p.v_row + (t % 2 ? 0 : 16);
  p.y_step = p.panels * t * p.panel + 16;
  // Sums of a unit in half of a second-level cache, and units enough for the threads. The cut changes no result.
  const std::int64_t wanted = ceil_div(4 * num_threads(), p.panels);
  p.chunks = larger(ceil_div(c.cin, 48), smaller(ceil_div(c.cin, 12), wanted));
  p.chunk = round_up(ceil_div(c.cin, p.chunks), 2);
  p.chunks = ceil_div(c.cin, p.chunk);
  p.unit = Q * (p.chunk * p.panel + 16);
  p.v = Q * p.v_step;
  p.y = Q * p.y_step;
  p.sums = (p.keep ? p.chunks * p.panels : num_threads()) * p.unit;
  p.pixels = num_threads() * round_up(larger(p.tiling.pixels(M, 2), p.tiling.pixels(M, 0)), 16);
  return p;
}

struct Operands {
  const ConvShape& c;
  const Memory& p;
  const float *x, *dy;  // of this group
  float* dw;
};

// Transforms kLane channels of a band: of the input for group < input groups, else of the output gradient.
__attribute__((noinline)) void transform_band(const Operands& o, const Band& a, std::int64_t group, std::int64_t tile,
                                              std::int64_t tiles, float* v, float* y, float* pixels) {
  const ConvShape& c = o.c;
  const Memory& p = o.p;
  const std::int64_t input_groups = ceil_div(c.cin, kLane);
  const std::int64_t r0 = a.row * M, c0 = a.column * M;
  if (group < input_groups) {
    const std::int64_t ch = group * kLane, plane = c.in[1] * c.in[2], pitch = a.columns * M + 2;
    const Planes planes{const_cast<float*>(o.x) + (a.image * c.groups * c.cin + ch) * plane, plane, c.in[1], c.in[2],
                        static_cast<int>(smaller(kLane, c.cin - ch))};
    gather_pixels(planes, r0 - c.pad[1], r0 - c.pad[1] + a.rows * M + 2, c0 - c.pad[2], c0 - c.pad[2] + pitch, pixels);
    float* to = v + tile * p.v_row + ch;
    for (std::int64_t i = 0; i < a.rows; ++i)
      for (std::int64_t j = 0; j < a.columns; ++j, to += p.v_row)
        input_tile<M>(pixels + (i * M * pitch + j * M) * kLane, pitch * kLane, to, p.v_step);
    return;
  }
  const std::int64_t ch = (group - input_groups) * kLane, plane = c.out[1] * c.out[2], pitch = a.columns * M;
  const Planes planes{const_cast<float*>(o.dy) + (a.image * c.groups * c.cout + ch) * plane, plane, c.out[1], c.out[2],
                      static_cast<int>(smaller(kLane, c.cout - ch))};
  gather_pixels(planes, r0, r0 + a.rows * M, c0, c0 + pitch, pixels);
  float* to = y + (ch / p.panel * tiles + tile) * p.panel + ch % p.panel;
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.columns; ++j, to += p.panel)
      output_grad_tile<M>(pixels + (i * M * pitch + j * M) * kLane, pitch * kLane, to, p.y_step);
}

__attribute__((noinline)) void finish_kernels(const Operands& o, std::int64_t c0, std::int64_t c1, std::int64_t k0,
                                              std::int64_t k1, const float* sums) {
  const std::int64_t step = o.p.chunk * o.p.panel + 16;
  for (std::int64_t k = k0; k < k1; k += kLane)
    for (std::int64_t ch = c0; ch < c1; ++ch) {
      const float* from = sums + (ch - c0) * o.p.panel + (k - k0);
      V taps[9];
      two_passes<N, N, 3>([](const V* a, V* b) { Winograd<M>::kernel_grad(a, b); },
                          [&](int i, int j) { return load(from + (i * N + j) * step); },
                          [&](int i, int j, V x) { taps[i * 3 + j] = x; });
      store_kernels(o.dw + (k * o.c.cin + ch) * 9, o.c.cin * 9, static_cast<int>(smaller(kLane, k1 - k)), taps);
    }
}

void run_group(const Operands& o, float* memory) {
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
        transform_band(o, band, i % groups, t.tile(band) - first, tiles, v, y, pixels + thread_index() * per_thread);
      }
    });
    parallel_for(p.chunks * p.panels, 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t unit = b; unit < e; ++unit) {
        const std::int64_t panel = unit / p.chunks, c0 = unit % p.chunks * p.chunk, c1 = smaller(c.cin, c0 + p.chunk);
        const std::int64_t k0 = panel * p.panel, k1 = smaller(c.cout, k0 + p.panel);
        float* s = sums + (p.keep ? unit : thread_index()) * p.unit;
        for (std::int64_t q = 0; q < Q; ++q) {
          Block g;
          g.m = c1 - c0;
          g.n = k1 - k0;
          g.k = tiles;
          g.a = v + q * p.v_step + c0;
          g.a_row = 1;
          g.a_col = p.v_row;
          g.b = y + q * p.y_step + panel * tiles * p.panel;
          g.packed = true;
          g.c = s + q * (p.chunk * p.panel + 16);
          g.c_row = p.panel;
          g.beta = round > 0 ? 1.0f : 0.0f;
          block_f32(g);
        }
        if (round + 1 == t.blocks) finish_kernels(o, c0, c1, k0, k1, s);
      }
    });
  }
}

}  // namespace

std::int64_t winograd_weight_scratch(const ConvShape& c) {
  const Memory p = plan(c);
  return (p.v + p.y + p.sums + p.pixels + 16) * static_cast<std::int64_t>(sizeof(float));
}

void winograd_weight(const Conv& conv) {
  const ConvShape& c = conv.shape;
  const Memory p = plan(c);
  float* memory = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  for (std::int64_t g = 0; g < c.groups; ++g)
    run_group({c, p, static_cast<const float*>(conv.x) + g * c.cin * c.in[1] * c.in[2],
               static_cast<const float*>(conv.y) + g * c.cout * c.out[1] * c.out[2],
               static_cast<float*>(conv.w) + g * c.cout * c.cin * 9},
              memory);
}

void register_winograd_weight(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
