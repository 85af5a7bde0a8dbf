// Forward pass and input gradient of convolutions by Winograd's algorithm. A thread takes a block of tiles: transforms
// it, multiplies it with the transformed kernels one panel of output channels at a time, and transforms each panel back
// while it is in the cache. No element depends on how tiles are grouped or shared out.
// A layer with few tiles multiplies each transformed kernel so few times that writing and reading all of them would
// take longer: its threads take panels of output channels instead (if there is more than one), and transform the
// kernels of one, for some of the input channels at a time, right before they multiply them. With three axes the
// kernel's depth counts as more input channels: those of the planes that an output plane sees.
#pragma once

#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"
#include "cpu/gemm/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

// One group of the convolution with the gradient's transposition already undone: the pass reads `cin` volumes and
// writes `cout` of them.
struct Layer {
  std::int64_t batch, cin, cout, depth;  // of the kernel
  std::int64_t in[3], out[3], pad[3];
  std::int64_t front[3];  // pixels of the first tile that lie before the output
  const float* x;
  ImageLayout x_at;
  float* y;
  ImageLayout y_at;
  const float* w;
  ChannelEnd<float> end;     // its shift is added without a scale, too
  std::int64_t w_in, w_out;  // floats between kernels of neighbouring input and output channels
  bool flip;                 // taps in reverse order

  std::int64_t rows() const { return depth * cin; }  // of the product
};

// Sizes in floats.
struct Memory {
  Tiling tiling;
  std::int64_t shares;     // of the output channels, each a unit of work
  std::int64_t panel;      // columns of a packed panel
  std::int64_t u_step, u;  // between positions of the transformed kernels; all of them
  std::int64_t v_row, v_step, m_step, v, m, pixels, thread;
  bool few;            // tiles: one block, whose transform `v` is shared by the threads
  std::int64_t chunk;  // rows of the product that are transformed and multiplied at once
  std::int64_t chunk_step() const { return chunk * panel + 16; }
  // Beside kernels that were transformed before.
  std::int64_t all_threads() const { return num_threads() * thread + (few ? round_up(v, 16) : 0); }
};

template <class W, int RY, int RX>
Memory plan(const Layer& s) {
  using P = Positions<W, RY, RX>;
  constexpr std::int64_t Q = P::count;
  Memory p;
  p.panel = packed_columns_f32(1);
  const std::int64_t tiles = (s.rows() <= 64 ? tuning::kWinogradTiles : tuning::kWinogradManyTiles) * 36 / Q;
  const std::int64_t panels = ceil_div(s.cout, p.panel), planes = s.batch * s.out[0];
  const std::int64_t out_y = s.out[1] + s.front[1], out_x = s.out[2] + s.front[2];
  const std::int64_t total = planes * ceil_div(out_y, outputs<W>(RY)) * ceil_div(out_x, outputs<W>(RX));
  p.few = total <= larger(tuning::kWinogradFew, s.rows() / 2) && s.rows() >= 64 && (panels > 1 || total <= 8);
  p.chunk = p.few ? tuning::kWinogradChunk : s.rows();
  p.tiling = make_tiling<W, RY, RX>(planes, out_y, out_x, p.few ? total : tiles,
                                    p.few ? 1 : ceil_div(2 * num_threads(), panels));
  if (p.few) {
    p.tiling.per_block = p.tiling.bands;
    p.tiling.blocks = 1;
  }
  if (p.tiling.blocks > num_threads()) p.tiling.even_out(num_threads());
  // Few blocks: panels of output channels are shared out too, and every share transforms the tiles again. That reads
  // the transformed kernels once, where smaller blocks would read all of them once each.
  p.shares = smaller(panels, ceil_div(2 * num_threads(), p.tiling.blocks));
  // Strides are odd multiples of a cache line: the positions of a tile fall into different cache sets.
  p.u_step = s.rows() * round_up(s.cout, p.panel) + 16;
  p.u = P::kernel_count * p.u_step;
  const std::int64_t t = p.tiling.block_tiles();
  p.v_row = round_up(s.rows(), 16) + 16;
  p.v_step = t * p.v_row + (t % 2 ? 0 : 16);
  p.m_step = t * p.panel + 16;
  p.v = Q * p.v_step;
  p.m = Q * p.m_step;
  p.pixels = p.tiling.pixels<W, RY, RX>();
  p.thread = round_up(p.few ? P::kernel_count * p.chunk_step() + p.m + p.pixels : p.v + p.m + p.pixels, 16);
  return p;
}

// The kernels of kLane output channels from `k` and of one row of the product.
template <class W, int RY, int RX>
PYDLX_INLINE void transform_kernel(const Layer& s, std::int64_t k, std::int64_t row, float* to, std::int64_t step) {
  constexpr int KY = kernels<W>(RY), KX = kernels<W>(RX), T = RY * RX;
  const std::int64_t c = row % s.cin, z = row / s.cin, depth_tap = s.flip ? s.depth - 1 - z : z;
  V taps[T], g[T];
  load_kernels<T>(s.w + c * s.w_in + k * s.w_out + depth_tap * T, s.w_out, static_cast<int>(smaller(kLane, s.cout - k)),
                  taps);
#pragma GCC unroll 25
  for (int t = 0; t < T; ++t) g[t] = taps[s.flip ? T - 1 - t : t];
  two_passes<KernelAxis<W>, RY, RX, RY, RX, KY, KX>(
      [&](int y, int x) { return g[y * RX + x]; },
      [&](int y, int x, V v) { store<float>(to + (y * KX + x) * step, v); });
}

// All kernels, as panels for block_f32: [position][panel][depth tap and input channel][column].
template <class W, int RY, int RX>
void transform_kernels(const Layer& s, const Memory& p, float* u) {
  const std::int64_t groups = ceil_div(s.cout, kLane);
  parallel_for(groups * s.rows(), 2048, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i) {
      const std::int64_t k = i / s.rows() * kLane, row = i % s.rows();
      transform_kernel<W, RY, RX>(s, k, row, u + k / p.panel * s.rows() * p.panel + row * p.panel + k % p.panel,
                                  p.u_step);
    }
  });
}

// Rows [r0, r1) of the panel of output channels [k0, k1): [position][row][column].
template <class W, int RY, int RX>
__attribute__((noinline)) void transform_panel(const Layer& s, const Memory& p, std::int64_t k0, std::int64_t k1,
                                               std::int64_t r0, std::int64_t r1, float* u) {
  const auto one = [&](std::int64_t k, std::int64_t row) {
    transform_kernel<W, RY, RX>(s, k, row, u + (row - r0) * p.panel + (k - k0), p.chunk_step());
  };
  // Along the weights as they lie in memory.
  if (s.w_out < s.w_in) {
    for (std::int64_t row = r0; row < r1; ++row)
      for (std::int64_t k = k0; k < k1; k += kLane) one(k, row);
  } else {
    for (std::int64_t k = k0; k < k1; k += kLane)
      for (std::int64_t row = r0; row < r1; ++row) one(k, row);
  }
}

template <class W, int RY, int RX>
__attribute__((noinline)) void input_band(const Layer& s, const Memory& p, const Band& a, std::int64_t c0,
                                          std::int64_t c1, float* pixels, float* v, std::int64_t tile) {
  constexpr int SY = step<W>(RY), SX = step<W>(RX);
  const std::int64_t top = a.row * SY - s.pad[1], left = a.column * SX - s.pad[2];
  const std::int64_t height = a.rows * SY + inputs<W>(RY) - SY, pitch = a.columns * SX + inputs<W>(RX) - SX;
  const std::int64_t image = a.image / s.out[0], first = a.image % s.out[0] - s.pad[0], plane = s.in[1] * s.in[2];
  for (std::int64_t d = 0; d < s.depth; ++d) {
    const std::int64_t z = first + d;
    const bool exists = z >= 0 && z < s.in[0];
    for (std::int64_t c = c0; c < c1; c += kLane) {
      // Without a plane there are no rows to read: all pixels become zero.
      const Planes planes{
          const_cast<float*>(s.x) + image * s.x_at.image + c * s.x_at.channel + (exists ? z : 0) * plane * s.x_at.pixel,
          s.x_at.channel,
          exists ? s.in[1] : 0,
          s.in[2],
          static_cast<int>(smaller(kLane, s.cin - c)),
          s.x_at.pixel};
      gather_pixels(planes, top, top + height, left, left + pitch, pixels);
      float* to = v + d * s.cin + c;  // lanes without a channel are overwritten by the next depth tap
      std::int64_t t = tile;
      for (std::int64_t y = 0; y < a.rows; ++y)
        for (std::int64_t x = 0; x < a.columns; ++x, ++t)
          input_tile<W, RY, RX>(pixels + (y * SY * pitch + x * SX) * kLane, pitch * kLane, to, t, p.v_step, p.v_row);
    }
  }
}

// `m` holds the products of one panel that starts at output channel `k0`.
template <class W, int RY, int RX>
__attribute__((noinline)) void output_band(const Layer& s, const Memory& p, const Band& a, std::int64_t k0,
                                           std::int64_t k1, const float* m, std::int64_t tile, float* pixels) {
  constexpr int MY = outputs<W>(RY), MX = outputs<W>(RX);
  const std::int64_t pitch = a.columns * MX, plane = s.out[1] * s.out[2];
  const std::int64_t top = a.row * MY - s.front[1], left = a.column * MX - s.front[2];
  const std::int64_t y0 = larger(0, top), x0 = larger(0, left);
  const std::int64_t image = a.image / s.out[0], z = a.image % s.out[0];
  for (std::int64_t k = k0; k < k1; k += kLane) {
    const int channels = static_cast<int>(smaller(kLane, k1 - k));
    const auto tiles = [&](const auto& end) __attribute__((always_inline)) {
      std::int64_t t = tile;
      for (std::int64_t y = 0; y < a.rows; ++y)
        for (std::int64_t x = 0; x < a.columns; ++x, ++t)
          output_tile<W, RY, RX>(m + (k - k0), t, p.m_step, p.panel, end, pixels + (y * MY * pitch + x * MX) * kLane,
                                 pitch * kLane);
    };
    if (s.end.active()) {
      tiles(s.end.lanes(k, channels));
    } else {
      const V bias = s.end.lanes(k, channels).shift;
      tiles([bias](V v) { return v + bias; });
    }
    const Planes planes{s.y + image * s.y_at.image + k * s.y_at.channel + z * plane * s.y_at.pixel,
                        s.y_at.channel,
                        s.out[1],
                        s.out[2],
                        channels,
                        s.y_at.pixel};
    scatter_pixels(planes, y0, smaller(s.out[1], top + a.rows * MY), x0, smaller(s.out[2], left + a.columns * MX),
                   pixels + ((y0 - top) * pitch + x0 - left) * kLane, pitch, AsSummed());
  }
}

// The panel of output channels [k0, k1) of tiles transformed at `v`: products into `m`, then the outputs of the bands
// from `first` to `last`. `u` holds the kernels of all panels, or is null; then `kernels` has room for a chunk's.
template <class W, int RY, int RX>
void run_panel(const Layer& s, const Memory& p, std::int64_t k0, std::int64_t k1, std::int64_t first, std::int64_t last,
               std::int64_t tiles, const float* v, const float* u, float* kernels, float* m, float* pixels) {
  using P = Positions<W, RY, RX>;
  for (std::int64_t r0 = 0; r0 < s.rows(); r0 += p.chunk) {
    const std::int64_t r1 = smaller(s.rows(), r0 + p.chunk);
    if (!u) transform_panel<W, RY, RX>(s, p, k0, k1, r0, r1, kernels);
    for (int q = 0; q < P::kernel_count; ++q) {
      Block g;
      g.m = tiles * P::copies(q);
      g.n = k1 - k0;
      g.k = r1 - r0;
      g.a = v + P::first(q) * p.v_step + r0;
      g.a_row = p.v_row;
      g.b = u ? u + q * p.u_step + k0 * s.rows() + r0 * p.panel : kernels + q * p.chunk_step();
      g.packed = true;
      g.c = m + P::first(q) * p.m_step;
      g.c_row = p.panel;
      g.beta = r0 > 0 ? 1.0f : 0.0f;
      block_f32(g);
    }
  }
  std::int64_t done = 0;
  for (std::int64_t i = first; i < last; ++i) {
    const Band band = p.tiling.band(i);
    output_band<W, RY, RX>(s, p, band, k0, k1, m, done, pixels);
    done += band.tiles();
  }
}

template <class W, int RY, int RX>
void run_blocks(const Layer& s, const Memory& p, const float* u, float* buffers) {
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
        input_band<W, RY, RX>(s, p, band, 0, s.cin, pixels, v, tiles);
        tiles += band.tiles();
      }
      for (std::int64_t k = begin; k < end; k += p.panel)
        run_panel<W, RY, RX>(s, p, k, smaller(end, k + p.panel), first, last, tiles, v, u, nullptr, m, pixels);
    }
  });
}

template <class W, int RY, int RX>
void run_few(const Layer& s, const Memory& p, const float* u, float* buffers) {
  const Tiling& t = p.tiling;
  float* v = buffers;
  float* threads = buffers + round_up(p.v, 16);
  // A thread's pixels lie behind its products, behind its kernels.
  const auto mine = [&] { return threads + thread_index() * p.thread; };
  const std::int64_t kernels = Positions<W, RY, RX>::kernel_count * p.chunk_step();
  // Where depth taps share vectors, the later tap is written over the earlier one's empty lanes: one thread does both.
  const std::int64_t channels = s.depth > 1 && s.cin % kLane != 0 ? s.cin : kLane, groups = ceil_div(s.cin, channels);
  parallel_for(t.bands * groups, 8, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i) {
      const Band band = t.band(i / groups);
      const std::int64_t c = i % groups * channels;
      input_band<W, RY, RX>(s, p, band, c, smaller(s.cin, c + channels), mine() + kernels + p.m, v, t.tile(band));
    }
  });
  const std::int64_t tiles = t.tile(t.band(t.bands - 1)) + t.band(t.bands - 1).tiles();
  parallel_for(ceil_div(s.cout, p.panel), 1, [&](std::int64_t b, std::int64_t e) {
    float* own = mine();
    for (std::int64_t k = b * p.panel; k < smaller(s.cout, e * p.panel); k += p.panel)
      run_panel<W, RY, RX>(s, p, k, smaller(s.cout, k + p.panel), 0, t.bands, tiles, v, u, own, own + kernels,
                           own + kernels + p.m);
  });
}

// The layer of the first group.
Layer layer_of(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const bool forward = pass == ConvPass::forward;
  const std::int64_t taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
  Layer s{};
  s.batch = c.batch;
  s.cin = forward ? c.cin : c.cout;
  s.cout = forward ? c.cout : c.cin;
  s.depth = c.kernel[0];
  for (int i = 0; i < 3; ++i) {
    s.in[i] = forward ? c.in[i] : c.out[i];
    s.out[i] = forward ? c.out[i] : c.in[i];
    // Going back with stride two a tile begins with a pixel of the middle tap.
    s.front[i] = forward || c.stride[i] == 1 || c.pad[i] % 2 == 1 ? 0 : 1;
    s.pad[i] = forward ? c.pad[i] : c.stride[i] == 1 ? c.kernel[i] - 1 - c.pad[i] : (1 + s.front[i] - c.pad[i]) / 2;
  }
  s.x = static_cast<const float*>(forward ? conv.x : conv.y);
  s.x_at = image_layout(c, s.cin, s.in);
  s.y = static_cast<float*>(forward ? conv.y : conv.x);
  s.y_at = image_layout(c, s.cout, s.out);
  s.w = static_cast<const float*>(conv.w);
  s.end = {static_cast<const float*>(conv.scale), static_cast<const float*>(conv.bias),
           conv.activation == Activation::relu};
  s.w_in = forward ? taps : c.cin * taps;
  s.w_out = forward ? c.cin * taps : taps;
  s.flip = !forward;
  return s;
}

float* align(void* memory) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(memory) + 63) & ~std::uintptr_t{63});
}

// Bit for bit, so that a NaN equals itself.
bool same_floats(const float* a, const float* b, std::int64_t n) {
  int differ = 0;
  parallel_for(n, 1 << 16, [&](std::int64_t begin, std::int64_t end) {
    if (std::memcmp(a + begin, b + begin, static_cast<std::size_t>(end - begin) * sizeof(float)) != 0)
      __atomic_store_n(&differ, 1, __ATOMIC_RELAXED);
  });
  return differ == 0;
}

template <class W, int RY, int RX>
struct DataPass {
  static std::int64_t scratch(const ConvShape& c, ConvPass pass) {
    Conv conv;
    conv.shape = c;
    const Memory p = plan<W, RY, RX>(layer_of(conv, pass));
    return ((p.few ? 0 : round_up(p.u, 16)) + p.all_threads() + 16) * static_cast<std::int64_t>(sizeof(float));
  }
  // Transformed kernels of all groups, and the kernels they were made from; 0: not worth keeping.
  static std::int64_t prepared(const ConvShape& c) {
    Conv conv;
    conv.shape = c;
    const Memory p = plan<W, RY, RX>(layer_of(conv, ConvPass::forward));
    const std::int64_t kernels = c.groups * round_up(p.u, 16), size = sizeof(float);
    return p.few && kernels * size > tuning::kWinogradKept ? 0 : (kernels + weights_of(c) + 16) * size;
  }
  static std::int64_t weights_of(const ConvShape& c) { return c.groups * c.cout * c.cin * c.kernel[0] * RY * RX; }

  static bool current(const Conv& conv) {
    const ConvShape& c = conv.shape;
    const Memory p = plan<W, RY, RX>(layer_of(conv, ConvPass::forward));
    return same_floats(align(conv.prepared) + c.groups * round_up(p.u, 16), static_cast<const float*>(conv.w),
                       weights_of(c));
  }

  // The kept kernels, transformed now unless they are up to date.
  static const float* prepare(const Conv& conv, Layer s, const Memory& p) {
    const ConvShape& c = conv.shape;
    float* u = align(conv.prepared);
    float* copy = u + c.groups * round_up(p.u, 16);
    const std::int64_t n = weights_of(c);
    const float* given = conv.w_given ? static_cast<const float*>(conv.w_given) : s.w;
    if (conv.prepared_filled && (conv.prepared_current || same_floats(copy, given, n))) return u;
    for (std::int64_t g = 0; g < c.groups; ++g, s.w += n / c.groups)
      transform_kernels<W, RY, RX>(s, p, u + g * round_up(p.u, 16));
    std::memcpy(copy, given, static_cast<std::size_t>(n) * sizeof(float));
    return u;
  }

  static void run(const Conv& conv, ConvPass pass) {
    const ConvShape& c = conv.shape;
    Layer s = layer_of(conv, pass);
    const Memory p = plan<W, RY, RX>(s);
    const std::int64_t u_floats = round_up(p.u, 16);
    float* u = align(conv.scratch);
    const float* kept = conv.prepared ? prepare(conv, s, p) : nullptr;
    const std::int64_t w_group = weights_of(c) / c.groups;
    for (std::int64_t g = 0; g < c.groups; ++g) {
      const float* of_group = kept ? kept + g * u_floats : nullptr;
      if (p.few) {
        run_few<W, RY, RX>(s, p, of_group, u);
      } else {
        if (!kept) transform_kernels<W, RY, RX>(s, p, u);
        run_blocks<W, RY, RX>(s, p, kept ? of_group : u, u + u_floats);
      }
      s.x += s.x_at.group;
      s.y += s.y_at.group;
      s.w += w_group;
      s.end = s.end.from(s.cout);
    }
  }
};

}  // namespace
}  // namespace pydlx::PYDLX_ISA
