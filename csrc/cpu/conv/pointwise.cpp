// 1x1 convolutions as matrix products over the planes as they are: Y = W X, dX = W^T dY, dW = dY X^T, the pixels of an
// image (or, for small planes, of consecutive images) being the columns. Strided ones first gather the pixels they see.
// Channels-last images are matrices of pixels by channels: one product over all of them.
#include "cpu/conv/channel_end.h"
#include "cpu/conv/special.h"
#include "cpu/gemm/gemm.h"
#include "cpu/pointwise/transpose.h"
#include "cpu/row_copy.h"
#include "cpu/tuning/tuning.h"

namespace pydlx::PYDLX_ISA {
namespace {

inline __attribute__((always_inline)) std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline __attribute__((always_inline)) std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
inline __attribute__((always_inline)) std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

constexpr std::int64_t kDepth = tuning::kPointDepth;
// Planes below this many pixels share blocks of columns with the next image.
constexpr std::int64_t kSmallPlane = 512;
constexpr std::int64_t kGradPixels = tuning::kPointGradPixels;
// Below this many pixels an image's share of the weight gradient is too short for a product of its own.
constexpr std::int64_t kJoinedPixels = 32;

bool strided(const ConvShape& c) { return c.stride[0] != 1 || c.stride[1] != 1 || c.stride[2] != 1; }
std::int64_t volume(const std::int64_t* n) { return n[0] * n[1] * n[2]; }
std::int64_t aligned(std::int64_t floats) { return (floats + 15) / 16 * 16; }

// Copies the pixels that a strided convolution sees, or puts them back among zeros.
void gather(const ConvShape& c, const float* x, float* out, bool back) {
  const std::int64_t in = volume(c.in), seen = volume(c.out);
  parallel_for(c.batch * c.groups * c.cin, 65536 / (seen + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      if (back) std::memset(out + u * in, 0, static_cast<std::size_t>(in) * sizeof(float));
      for (std::int64_t d = 0; d < c.out[0]; ++d)
        for (std::int64_t h = 0; h < c.out[1]; ++h) {
          const std::int64_t wide = u * in + (d * c.stride[0] * c.in[1] + h * c.stride[1]) * c.in[2];
          const std::int64_t narrow = u * seen + (d * c.out[1] + h) * c.out[2];
          const std::int64_t step = c.stride[2];
          if (back)
            for (std::int64_t w = 0; w < c.out[2]; ++w) out[wide + w * step] = x[narrow + w];
          else if (step == 2)
            for (std::int64_t w = 0; w < c.out[2]; ++w) out[narrow + w] = x[wide + w * 2];
          else
            for (std::int64_t w = 0; w < c.out[2]; ++w) out[narrow + w] = x[wide + w * step];
        }
    }
  });
}

// y[n][m][p] = end(start[m] + sum_k a[m][k] x[n][k][p]) for one group.
struct Product {
  std::int64_t batch, m, k, pixels;
  const float* a;
  std::int64_t a_row, a_col;
  const float* x;
  std::int64_t x_image;
  float* y;
  std::int64_t y_image;
  const float* start;
  ChannelEnd<float> end;
};

// `rows` runs of n pixels into the columns of a panel. The rows are too far apart for prefetchers to follow.
void copy_rows(const float* from, std::int64_t pixels, std::int64_t rows, std::int64_t n, float* packed) {
  constexpr std::int64_t kLine = 16, kAhead = 16;
  const std::int64_t panel = packed_columns_f32(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float* row = from + r * pixels;
    for (std::int64_t i = 0; i < n + kLine - 1; i += kLine) __builtin_prefetch(row + kAhead * pixels + i);
    copy_run(packed + r * panel, row, n);
  }
}

// Rows that a scale is applied to while they are in the first-level cache; a ReLU alone is part of the product.
constexpr std::int64_t kEndRows = 48;

// Rows of `n` pixels, one channel each, or of one pixel's channels.
void end_rows(const ChannelEnd<float>& end, float* y, std::int64_t y_row, std::int64_t rows, std::int64_t n,
              bool channels_last) {
  constexpr int L = kLanesOf<float>;
  Ending<float> e = end.one(0);
  for (std::int64_t i = 0; i < rows; ++i, y += y_row) {
    if (!channels_last) e = end.one(i);
    for (std::int64_t j = 0; j < n; j += L) {
      const int count = static_cast<int>(smaller(L, n - j));
      if (channels_last) e = end.lanes(j, count);
      if (count == L)
        store<float>(y + j, e(load(y + j)));
      else
        store_part(y + j, e(load_part(y + j, Lanes(count))), Lanes(count));
    }
  }
}

// Floats per thread: one packed panel of columns, one tile of results.
std::int64_t product_floats(std::int64_t m) {
  const std::int64_t panel = packed_columns_f32(1);
  return aligned(kDepth * panel + m * panel);
}

void run_product(const Product& p, float* buffers) {
  const std::int64_t panel = packed_columns_f32(1);
  const bool joined = p.pixels < kSmallPlane && p.pixels % panel != 0;  // columns run over all images
  const std::int64_t columns = joined ? p.batch * p.pixels : p.pixels;
  const std::int64_t panels = ceil_div(columns, panel), images = joined ? 1 : p.batch;
  // Rows are shared out too when there are few panels; every share packs its columns again.
  const std::int64_t shares =
      larger(ceil_div(p.m, 768), smaller(ceil_div(p.m, 48), ceil_div(4 * num_threads(), images * panels)));
  const std::int64_t share = ceil_div(ceil_div(p.m, shares), 6) * 6;
  const double work = 2.0 * static_cast<double>(share) * static_cast<double>(p.k * panel);
  const std::int64_t grain = work > 1e6 ? 1 : static_cast<std::int64_t>(1e6 / work) + 1;
  parallel_for(images * panels * shares, grain, [&](std::int64_t b, std::int64_t e) {
    float* packed = buffers + thread_index() * product_floats(p.m);
    float* tile = packed + kDepth * panel;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t m0 = u % shares * share, m1 = smaller(p.m, m0 + share);
      const std::int64_t image = u / shares / panels, j0 = u / shares % panels * panel,
                         n = smaller(panel, columns - j0);
      if (m0 >= m1) continue;
      const bool through = joined && j0 % p.pixels + n > p.pixels;  // the tile lies in several images
      const std::int64_t first = joined ? j0 / p.pixels : image, at = joined ? j0 % p.pixels : j0;
      float* y = through ? tile : p.y + first * p.y_image + m0 * p.pixels + at;
      const std::int64_t y_row = through ? panel : p.pixels;
      for (std::int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
        const std::int64_t k = smaller(kDepth, p.k - k0);
        for (std::int64_t j = 0, column = at, source = first; j < n;) {
          const std::int64_t run = smaller(n - j, p.pixels - column);
          copy_rows(p.x + source * p.x_image + k0 * p.pixels + column, p.pixels, k, run, packed + j);
          j += run;
          column = 0;
          ++source;
        }
        if (k0 == 0 && p.start)
          for (std::int64_t i = m0; i < m1; ++i)
            for (std::int64_t j = 0; j < n; ++j) y[(i - m0) * y_row + j] = p.start[i];
        Block g;
        g.n = n;
        g.k = k;
        g.a_row = p.a_row;
        g.a_col = p.a_col;
        g.b = packed;
        g.packed = true;
        g.c_row = y_row;
        g.beta = k0 > 0 || p.start ? 1.0f : 0.0f;
        const bool last = k0 + k == p.k, scaled = last && p.end.scale;
        g.relu = last && !scaled && p.end.relu;
        const std::int64_t step = scaled ? kEndRows : m1 - m0;
        for (std::int64_t i = m0; i < m1; i += step) {
          g.m = smaller(step, m1 - i);
          g.a = p.a + i * p.a_row + k0 * p.a_col;
          g.c = y + (i - m0) * y_row;
          block_f32(g);
          if (scaled) end_rows(p.end.from(i), g.c, y_row, g.m, n, false);
        }
      }
      if (!through) continue;
      for (std::int64_t j = 0, column = at, target = first; j < n;) {
        const std::int64_t run = smaller(n - j, p.pixels - column);
        float* to = p.y + target * p.y_image + m0 * p.pixels + column;
        for (std::int64_t r = 0; r < m1 - m0; ++r) copy_run(to + r * p.pixels, tile + r * panel + j, run);
        j += run;
        column = 0;
        ++target;
      }
    }
  });
}

// The weight gradient packs the pixels of the side with fewer channels, so that each packed panel meets more rows of
// the other; turned sums lie in a tile until the last image.
bool turns_grad(const ConvShape& c) { return c.cout < c.cin; }
std::int64_t grad_rows(const ConvShape& c) { return larger(c.cin, c.cout); }
std::int64_t grad_floats(const ConvShape& c) {
  return aligned((kGradPixels + (turns_grad(c) ? grad_rows(c) : 0)) * packed_columns_f32(1));
}

// There the planes of one channel are put side by side, which costs little beside a product with this many channels.
bool joins(const ConvShape& c) { return c.batch > 1 && volume(c.out) < kJoinedPixels && c.cin >= 64 && c.cout >= 64; }
std::int64_t joined_floats(const ConvShape& c) {
  return joins(c) ? aligned((c.cin + c.cout) * c.batch * volume(c.out)) : 0;
}

// [image][channel][pixel], `image` floats between images, to [channel][image][pixel].
void join_planes(const ConvShape& c, std::int64_t channels, const float* x, std::int64_t image, float* out) {
  const std::int64_t pixels = volume(c.out);
  parallel_for(channels, 32768 / (c.batch * pixels) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t i = b; i < e; ++i)
      for (std::int64_t n = 0; n < c.batch; ++n)
        std::memcpy(out + (i * c.batch + n) * pixels, x + n * image + i * pixels,
                    static_cast<std::size_t>(pixels) * sizeof(float));
  });
}

void run_joined_grad(const ConvShape& c, const float* x, const float* dy, float* dw, float* memory) {
  const std::int64_t pixels = volume(c.out), all = c.batch * pixels;
  float* rows = memory + c.cin * all;
  join_planes(c, c.cin, x, c.groups * c.cin * pixels, memory);
  join_planes(c, c.cout, dy, c.groups * c.cout * pixels, rows);
  Gemm g;
  g.m = c.cout;
  g.n = c.cin;
  g.k = all;
  g.a = rows;
  g.a_row = all;
  g.a_col = 1;
  g.b = memory;
  g.b_row = 1;
  g.b_col = all;
  g.c = dw;
  g.c_row = c.cin;
  gemm_f32(g);
}

// dw[k][c] = sum over images and pixels of dy[k][p] x[c][p], for one group: a share of the rows of one side and one
// panel of channels of the other per unit of work, the pixels in order.
void run_weight_grad(const ConvShape& c, const float* x, const float* dy, float* dw, float* buffers) {
  const bool turned = turns_grad(c);
  const std::int64_t columns = smaller(c.cin, c.cout), all_rows = grad_rows(c);
  const float *a = turned ? x : dy, *packs = turned ? dy : x;
  const std::int64_t panel = packed_columns_f32(1), panels = ceil_div(columns, panel), pixels = volume(c.out);
  const std::int64_t shares = smaller(ceil_div(all_rows, 48), ceil_div(2 * num_threads(), panels));
  const std::int64_t share = ceil_div(ceil_div(all_rows, shares), 6) * 6;
  parallel_for(panels * shares, 1, [&](std::int64_t b, std::int64_t e) {
    float* packed = buffers + thread_index() * grad_floats(c);
    float* tile = packed + kGradPixels * panel;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t j0 = u / shares * panel, n = smaller(panel, columns - j0), r0 = u % shares * share,
                         r1 = smaller(all_rows, r0 + share);
      if (r0 >= r1) continue;
      for (std::int64_t image = 0; image < c.batch; ++image)
        for (std::int64_t p0 = 0; p0 < pixels; p0 += kGradPixels) {
          const std::int64_t run = smaller(kGradPixels, pixels - p0);
          pack_f32(packs + (image * c.groups * columns + j0) * pixels + p0, 1, pixels, run, n, packed);
          Block g;
          g.m = r1 - r0;
          g.n = n;
          g.k = run;
          g.a = a + (image * c.groups * all_rows + r0) * pixels + p0;
          g.a_row = pixels;
          g.a_col = 1;
          g.b = packed;
          g.packed = true;
          g.c = turned ? tile : dw + r0 * c.cin + j0;
          g.c_row = turned ? panel : c.cin;
          g.beta = image > 0 || p0 > 0 ? 1.0f : 0.0f;
          block_f32(g);
        }
      if (turned) transpose_tile(dw + j0 * c.cin + r0, c.cin, tile, panel, n, r1 - r0);
    }
  });
}

float* align(void* p) {
  return reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

std::int64_t seen_floats(const ConvShape& c) {
  return strided(c) ? aligned(c.batch * c.groups * c.cin * volume(c.out)) : 0;
}

// The same copies for pixels of `channels` floats.
void gather_last(const ConvShape& c, const float* x, float* out, bool back) {
  const std::int64_t channels = c.groups * c.cin, in = volume(c.in) * channels, seen = volume(c.out) * channels;
  const std::size_t pixel = static_cast<std::size_t>(channels) * sizeof(float);
  parallel_for(c.batch, 65536 / (seen + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t n = b; n < e; ++n) {
      if (back) std::memset(out + n * in, 0, static_cast<std::size_t>(in) * sizeof(float));
      std::int64_t narrow = n * seen;
      for (std::int64_t d = 0; d < c.out[0]; ++d)
        for (std::int64_t h = 0; h < c.out[1]; ++h)
          for (std::int64_t w = 0; w < c.out[2]; ++w, narrow += channels) {
            const std::int64_t wide =
                n * in + ((d * c.stride[0] * c.in[1] + h * c.stride[1]) * c.in[2] + w * c.stride[2]) * channels;
            if (back)
              std::memcpy(out + wide, x + narrow, pixel);
            else
              std::memcpy(out + narrow, x + wide, pixel);
          }
    }
  });
}

// y[p][j] = end(start[j] + sum_i x[p][i] w[i][j]) for one group, w in panels ([depth block][panel][row][column]).
struct Rows {
  std::int64_t pixels, m, k;
  const float* x;
  std::int64_t x_pixel;
  float* y;
  std::int64_t y_pixel;
  const float *w, *start;
  ChannelEnd<float> end;
};

std::int64_t packed_weights(std::int64_t m, std::int64_t k) { return k * packed_columns_f32(m); }

void pack_weights(const float* w, std::int64_t row, std::int64_t column, std::int64_t m, std::int64_t k, float* out) {
  const std::int64_t panel = packed_columns_f32(1), panels = ceil_div(m, panel), blocks = ceil_div(k, kDepth);
  parallel_for(blocks * panels, 65536 / (smaller(k, kDepth) * panel) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t k0 = u / panels * kDepth, depth = smaller(kDepth, k - k0), j = u % panels * panel;
      pack_f32(w + k0 * row + j * column, row, column, depth, smaller(panel, m - j),
               out + k0 * panels * panel + j * depth);
    }
  });
}

constexpr std::int64_t kRowBlock = tuning::kPointRows, kNearWeights = tuning::kPointNear;

void run_rows(const Rows& r) {
  const std::int64_t panel = packed_columns_f32(1), panels = ceil_div(r.m, panel);
  const std::int64_t blocks = ceil_div(r.pixels, kRowBlock);
  // Columns are shared out too when there are few blocks of pixels.
  const std::int64_t shares = blocks >= 16 ? 1 : smaller(panels, ceil_div(16, blocks));
  const std::int64_t share = ceil_div(panels, shares);
  const bool near = smaller(r.k, kDepth) * share * panel <= kNearWeights;
  const double work = 2.0 * static_cast<double>(kRowBlock) * static_cast<double>(r.k * share * panel);
  const std::int64_t grain = work > 1e6 ? 1 : static_cast<std::int64_t>(1e6 / work) + 1;
  parallel_for(blocks * shares, grain, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t p0 = u / shares * kRowBlock, rows = smaller(kRowBlock, r.pixels - p0);
      const std::int64_t j0 = u % shares * share * panel, j1 = smaller(r.m, j0 + share * panel);
      if (j0 >= j1) continue;
      for (std::int64_t k0 = 0; k0 < r.k; k0 += kDepth) {
        const std::int64_t depth = smaller(kDepth, r.k - k0);
        // Near weights: a few pixels at a time with all of them, so that the pixels are read once. The next ones are
        // asked for meanwhile: six rows are too short a run for the hardware to see coming.
        const std::int64_t step = near ? 6 : rows, width = near ? j1 - j0 : panel;
        for (std::int64_t j = j0; j < j1; j += width)
          for (std::int64_t i = 0; i < rows; i += step) {
            Block g;
            g.m = smaller(step, rows - i);
            g.n = smaller(width, j1 - j);
            g.k = depth;
            g.a = r.x + (p0 + i) * r.x_pixel + k0;
            g.a_row = r.x_pixel;
            g.b = r.w + k0 * panels * panel + j * depth;
            g.packed = true;
            g.c = r.y + (p0 + i) * r.y_pixel + j;
            g.c_row = r.y_pixel;
            g.beta = k0 > 0 ? 1.0f : 0.0f;
            g.bias = k0 == 0 && r.start ? r.start + j : nullptr;
            const bool last = k0 + depth == r.k, scaled = last && r.end.scale;
            g.relu = last && !scaled && r.end.relu;
            if (near)
              for (std::int64_t q = p0 + i + step; q < smaller(r.pixels, p0 + i + 2 * step); ++q)
                for (std::int64_t c = 0; c < depth; c += 16) __builtin_prefetch(r.x + q * r.x_pixel + k0 + c);
            block_f32(g);
            if (scaled) end_rows(r.end.from(j), g.c, r.y_pixel, g.m, g.n, true);
          }
      }
    }
  });
}

void run_last(const Conv& conv, ConvPass pass, float* memory) {
  const ConvShape& c = conv.shape;
  const std::int64_t pixels = c.batch * volume(c.out), x_pixel = c.groups * c.cin, y_pixel = c.groups * c.cout;
  float *seen = memory, *packed = seen + seen_floats(c);
  float *x = static_cast<float*>(conv.x), *y = static_cast<float*>(conv.y), *w = static_cast<float*>(conv.w);
  const float* bias = static_cast<const float*>(conv.bias);
  if (strided(c) && pass != ConvPass::input_grad) gather_last(c, x, seen, false);
  if (strided(c)) x = seen;
  for (std::int64_t group = 0; group < c.groups; ++group, x += c.cin, y += c.cout, w += c.cout * c.cin) {
    if (pass == ConvPass::forward) {
      pack_weights(w, 1, c.cin, c.cout, c.cin, packed);
      const float* start = start_of<float>(conv);
      run_rows({pixels, c.cout, c.cin, x, x_pixel, y, y_pixel, packed, start ? start + group * c.cout : nullptr,
                end_of<float>(conv).from(group * c.cout)});
    } else if (pass == ConvPass::input_grad) {
      pack_weights(w, c.cin, 1, c.cin, c.cout, packed);
      // A strided gradient gets its bias with the pixels that no output sees.
      run_rows({pixels,
                c.cin,
                c.cout,
                y,
                y_pixel,
                x,
                x_pixel,
                packed,
                bias && !strided(c) ? bias + group * c.cin : nullptr,
                {}});
    } else {
      Gemm g;
      g.m = c.cout;
      g.n = c.cin;
      g.k = pixels;
      g.a = y;
      g.a_row = 1;
      g.a_col = y_pixel;
      g.b = x;
      g.b_row = x_pixel;
      g.b_col = 1;
      g.c = w;
      g.c_row = c.cin;
      gemm_f32(g);
    }
  }
  if (strided(c) && pass == ConvPass::input_grad) {
    gather_last(c, seen, static_cast<float*>(conv.x), true);
    if (bias)
      parallel_for(c.batch * volume(c.in), 65536 / x_pixel + 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t u = b; u < e; ++u)
          for (std::int64_t i = 0; i < x_pixel; ++i) static_cast<float*>(conv.x)[u * x_pixel + i] += bias[i];
      });
  }
}

}  // namespace

std::int64_t pointwise_scratch(const ConvShape& c, ConvPass pass) {
  std::int64_t n = 16 + seen_floats(c);
  if (c.channels_last)
    n += pass == ConvPass::forward      ? packed_weights(c.cout, c.cin)
         : pass == ConvPass::input_grad ? packed_weights(c.cin, c.cout)
                                        : 0;
  else if (pass == ConvPass::weight_grad)
    n += joins(c) ? joined_floats(c) : num_threads() * grad_floats(c);
  else if (pass == ConvPass::forward)
    n += num_threads() * product_floats(c.cout);
  else
    n += num_threads() * product_floats(c.cin) + aligned(c.cin * c.cout);
  return n * static_cast<std::int64_t>(sizeof(float));
}

void pointwise_run(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const std::int64_t pixels = volume(c.out);
  float* seen = align(conv.scratch);
  float* buffers = seen + seen_floats(c);
  if (c.channels_last) return run_last(conv, pass, seen);
  float* x = static_cast<float*>(conv.x);
  float* y = static_cast<float*>(conv.y);
  float* w = static_cast<float*>(conv.w);
  if (strided(c) && pass != ConvPass::input_grad) gather(c, x, seen, false);
  if (strided(c)) x = seen;
  for (std::int64_t group = 0; group < c.groups; ++group) {
    const std::int64_t x_at = group * c.cin * pixels, y_at = group * c.cout * pixels, w_at = group * c.cout * c.cin;
    const float* bias = static_cast<const float*>(conv.bias);
    if (pass == ConvPass::forward) {
      const float* start = start_of<float>(conv);
      run_product({c.batch, c.cout, c.cin, pixels, w + w_at, c.cin, 1, x + x_at, c.groups * c.cin * pixels, y + y_at,
                   c.groups * c.cout * pixels, start ? start + group * c.cout : nullptr,
                   end_of<float>(conv).from(group * c.cout)},
                  buffers);
    } else if (pass == ConvPass::weight_grad) {
      if (joins(c))
        run_joined_grad(c, x + x_at, y + y_at, w + w_at, buffers);
      else
        run_weight_grad(c, x + x_at, y + y_at, w + w_at, buffers);
    } else {
      // W^T with contiguous rows: the tiles of the product read six of them side by side.
      float* turned = buffers + num_threads() * product_floats(c.cin);
      turn_matrices(1, c.cout, c.cin, w + w_at, turned);
      run_product({c.batch,
                   c.cin,
                   c.cout,
                   pixels,
                   turned,
                   c.cout,
                   1,
                   y + y_at,
                   c.groups * c.cout * pixels,
                   x + x_at,
                   c.groups * c.cin * pixels,
                   strided(c) || !bias ? nullptr : bias + group * c.cin,
                   {}},
                  buffers);
    }
  }
  if (strided(c) && pass == ConvPass::input_grad) {
    gather(c, seen, static_cast<float*>(conv.x), true);
    if (conv.bias) {
      const float* bias = static_cast<const float*>(conv.bias);
      const std::int64_t plane = volume(c.in), channels = c.groups * c.cin;
      parallel_for(c.batch * channels, 65536 / (plane + 1) + 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t u = b; u < e; ++u)
          for (std::int64_t i = 0; i < plane; ++i) static_cast<float*>(conv.x)[u * plane + i] += bias[u % channels];
      });
    }
  }
}

void register_pointwise(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
