// Forward pass and input gradient of 3x3 convolutions with unit stride, by Winograd's algorithm. A thread takes a block
// of tiles: transforms it, multiplies it with the transformed kernels one panel of output channels at a time, and
// transforms each panel back while it is in the cache. No element depends on how tiles are grouped or shared out.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"
#include "cpu/gemm/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

// One group of the convolution with the gradient's transposition already undone: the pass reads `cin` planes and writes
// `cout` of them.
struct Layer {
  std::int64_t batch, cin, cout, in_y, in_x, out_y, out_x, pad_y, pad_x;
  const float* x;
  std::int64_t x_image;
  float* y;
  std::int64_t y_image;
  const float *w, *bias;
  std::int64_t w_in, w_out;  // floats between kernels of neighbouring input and output channels
  bool flip;                 // taps in reverse order
};

// Sizes in floats.
struct Memory {
  Tiling tiling;
  std::int64_t shares;     // of the output channels, each a unit of work
  std::int64_t panel;      // columns of a packed panel
  std::int64_t u_step, u;  // between positions of the transformed kernels; all of them
  std::int64_t v_row, v_step, m_step, v, m, pixels, thread;
};

template <int M>
Memory plan(const ConvShape& c, std::int64_t cin, std::int64_t cout, const std::int64_t* out) {
  constexpr std::int64_t Q = Winograd<M>::kIn * Winograd<M>::kIn;
  Memory p;
  p.panel = packed_columns_f32(1);
  // Transformed tiles and one panel of products in half of a second-level cache; with many channels the kernels come
  // from the third level and larger blocks save their traffic.
  const std::int64_t tiles = cin <= 64 ? 48 : 96;
  const std::int64_t panels = ceil_div(cout, p.panel);
  p.tiling = make_tiling(M, c.batch, out[1], out[2], tiles, ceil_div(2 * num_threads(), panels));
  // Few blocks: panels of output channels are shared out too, and every share transforms the tiles again. That reads
  // the transformed kernels once, where smaller blocks would read all of them once each.
  p.shares = smaller(panels, ceil_div(2 * num_threads(), p.tiling.blocks));
  // Strides are odd multiples of a cache line: the positions of a tile fall into different cache sets.
  p.u_step = cin * round_up(cout, p.panel) + 16;
  p.u = Q * p.u_step;
  const std::int64_t t = p.tiling.block_tiles();
  p.v_row = round_up(cin, 16) + 16;
  p.v_step = t * p.v_row + (t % 2 ? 0 : 16);
  p.m_step = t * p.panel + 16;
  p.v = Q * p.v_step;
  p.m = Q * p.m_step;
  p.pixels = larger(p.tiling.pixels(M, 2), p.tiling.pixels(M, 0));
  p.thread = round_up(p.v + p.m + p.pixels, 16);
  return p;
}

// All kernels, as panels for block_f32: [position][panel][input channel][column].
template <int M>
void transform_kernels(const Layer& s, const Memory& p, float* u) {
  constexpr int N = Winograd<M>::kIn;
  const std::int64_t groups = ceil_div(s.cout, kLane);
  parallel_for(groups * s.cin, 2048, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t k = i / s.cin * kLane, c = i % s.cin;
      V taps[9], g[9];
      load_kernels(s.w + c * s.w_in + k * s.w_out, s.w_out, static_cast<int>(smaller(kLane, s.cout - k)), taps);
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) g[t] = taps[s.flip ? 8 - t : t];
      float* to = u + k / p.panel * s.cin * p.panel + c * p.panel + k % p.panel;
      two_passes<3, 3, N>([](const V* a, V* o) { Winograd<M>::kernel(a, o); },
                          [&](int y, int x) { return g[y * 3 + x]; },
                          [&](int y, int x, V v) { store<float>(to + (y * N + x) * p.u_step, v); });
    }
  });
}

template <int M>
__attribute__((noinline)) void input_band(const Layer& s, const Memory& p, const Band& a, float* pixels, float* v) {
  const std::int64_t r0 = a.row * M - s.pad_y, c0 = a.column * M - s.pad_x;
  const std::int64_t pitch = a.columns * M + 2;
  for (std::int64_t c = 0; c < s.cin; c += kLane) {
    const std::int64_t plane = s.in_y * s.in_x;
    const Planes planes{const_cast<float*>(s.x) + a.image * s.x_image + c * plane, plane, s.in_y, s.in_x,
                        static_cast<int>(smaller(kLane, s.cin - c))};
    gather_pixels(planes, r0, r0 + a.rows * M + 2, c0, c0 + pitch, pixels);
    float* to = v + c;
    for (std::int64_t y = 0; y < a.rows; ++y)
      for (std::int64_t x = 0; x < a.columns; ++x, to += p.v_row)
        input_tile<M>(pixels + (y * M * pitch + x * M) * kLane, pitch * kLane, to, p.v_step);
  }
}

// `m` holds the products of one panel that starts at output channel `k0`.
template <int M>
__attribute__((noinline)) void output_band(const Layer& s, const Memory& p, const Band& a, std::int64_t k0,
                                           std::int64_t k1, const float* m, float* pixels) {
  const std::int64_t pitch = a.columns * M, plane = s.out_y * s.out_x;
  for (std::int64_t k = k0; k < k1; k += kLane) {
    const int channels = static_cast<int>(smaller(kLane, k1 - k));
    const V bias = !s.bias ? V{} : channels == kLane ? load(s.bias + k) : load_part(s.bias + k, Lanes(channels));
    const float* from = m + (k - k0);
    for (std::int64_t y = 0; y < a.rows; ++y)
      for (std::int64_t x = 0; x < a.columns; ++x, from += p.panel)
        output_tile<M>(from, p.m_step, bias, false, pixels + (y * M * pitch + x * M) * kLane, pitch * kLane);
    const Planes planes{s.y + a.image * s.y_image + k * plane, plane, s.out_y, s.out_x, channels};
    scatter_pixels(planes, a.row * M, smaller(s.out_y, (a.row + a.rows) * M), a.column * M,
                   smaller(s.out_x, (a.column + a.columns) * M), pixels, pitch);
  }
}

template <int M>
void run(const Layer& s, const Memory& p, const float* u, float* buffers) {
  constexpr std::int64_t Q = Winograd<M>::kIn * Winograd<M>::kIn;
  const Tiling& t = p.tiling;
  const std::int64_t share = ceil_div(ceil_div(s.cout, p.panel), p.shares) * p.panel;
  parallel_for(t.blocks * p.shares, 1, [&](std::int64_t b, std::int64_t e) {
    float* v = buffers + thread_index() * p.thread;
    float* m = v + p.v;
    float* pixels = m + p.m;
    for (std::int64_t unit = b; unit < e; ++unit) {
      const std::int64_t block = unit / p.shares, first = block * t.per_block, last = t.block_end(block);
      const std::int64_t begin = unit % p.shares * share, end = smaller(s.cout, begin + share);
      if (begin >= end) continue;
      std::int64_t tiles = 0;
      for (std::int64_t i = first; i < last; ++i) {
        const Band band = t.band(i);
        input_band<M>(s, p, band, pixels, v + tiles * p.v_row);
        tiles += band.tiles();
      }
      for (std::int64_t k = begin; k < end; k += p.panel) {
        const std::int64_t columns = smaller(p.panel, end - k);
        for (std::int64_t q = 0; q < Q; ++q) {
          Block g;
          g.m = tiles;
          g.n = columns;
          g.k = s.cin;
          g.a = v + q * p.v_step;
          g.a_row = p.v_row;
          g.b = u + q * p.u_step + k * s.cin;
          g.packed = true;
          g.c = m + q * p.m_step;
          g.c_row = p.panel;
          block_f32(g);
        }
        std::int64_t done = 0;
        for (std::int64_t i = first; i < last; ++i) {
          const Band band = t.band(i);
          output_band<M>(s, p, band, k, k + columns, m + done * p.panel, pixels);
          done += band.tiles();
        }
      }
    }
  });
}

bool is_forward(ConvPass pass) { return pass == ConvPass::forward; }

template <int M>
Memory plan_pass(const ConvShape& c, ConvPass pass) {
  return is_forward(pass) ? plan<M>(c, c.cin, c.cout, c.out) : plan<M>(c, c.cout, c.cin, c.in);
}

template <int M>
void run_pass(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const Memory p = plan_pass<M>(c, pass);
  float* u = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  const bool forward = is_forward(pass);
  const std::int64_t in = c.in[1] * c.in[2], out = c.out[1] * c.out[2];
  for (std::int64_t g = 0; g < c.groups; ++g) {
    Layer s;
    const float* w = static_cast<const float*>(conv.w) + g * c.cout * c.cin * 9;
    float* x = static_cast<float*>(conv.x) + g * c.cin * in;
    float* y = static_cast<float*>(conv.y) + g * c.cout * out;
    const float* bias = static_cast<const float*>(conv.bias);
    if (forward)
      s = {c.batch,
           c.cin,
           c.cout,
           c.in[1],
           c.in[2],
           c.out[1],
           c.out[2],
           c.pad[1],
           c.pad[2],
           x,
           c.groups * c.cin * in,
           y,
           c.groups * c.cout * out,
           w,
           bias ? bias + g * c.cout : nullptr,
           9,
           c.cin * 9,
           false};
    else
      s = {c.batch,
           c.cout,
           c.cin,
           c.out[1],
           c.out[2],
           c.in[1],
           c.in[2],
           2 - c.pad[1],
           2 - c.pad[2],
           y,
           c.groups * c.cout * out,
           x,
           c.groups * c.cin * in,
           w,
           bias ? bias + g * c.cin : nullptr,
           c.cin * 9,
           9,
           true};
    transform_kernels<M>(s, p, u);
    run<M>(s, p, u, u + round_up(p.u, 16));
  }
}

}  // namespace

std::int64_t winograd_data_scratch(const ConvShape& c, ConvPass pass) {
  const Memory p = plan_pass<4>(c, pass);
  return (round_up(p.u, 16) + num_threads() * p.thread + 16) * static_cast<std::int64_t>(sizeof(float));
}

void winograd_data(const Conv& conv, ConvPass pass) { run_pass<4>(conv, pass); }

void register_winograd(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
