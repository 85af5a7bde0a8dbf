// Convolutions of bfloat16 on channels-last images as products of pairs of channels (see cpu/gemm/pairs.h). Forward and
// input gradient: rows are pixels, whose channels under every tap are copied side by side, or read in place for 1x1
// kernels; weights are packed once per call. Weight gradient: K runs over pairs of pixels. Where sums of all weights
// stay in the caches the pixels are shared out, in chunks with sums of their own; else the taps are, of which x is
// joined per tap and dy transposed once. Layers with few channels are in conv_first_avx512_bf16.cpp.
#include "cpu/conv/pairs_last.h"
#include "cpu/conv/pairs_pixels.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kPixels = 96, kBlockWords = 640;               // of a block: 252 KB of lines
constexpr std::int64_t kLineElements = 2 * kBlockWords + 2 * kWords;  // off the cache-set period

// y[pixel][k] = sum over taps and channels of x[seen pixel][channel] w(tap, channel, k), for the pixels of a grid.
struct LastProduct {
  Pixels pixels;       // planes without channels: offsets count pixels
  int tap[kMostTaps];  // of the kernel, for every tap of `pixels`
  std::int64_t batch = 0, groups = 1, channels = 0, outputs = 0;
  std::int64_t x_pixel = 0;  // elements between pixels
  const T* x = nullptr;
  const T* w = nullptr;
  std::int64_t w_group = 0, w_tap = 0, w_channel = 0, w_output = 0;
  const T *bias = nullptr, *scale = nullptr;
  bool relu = false;
  T* y = nullptr;
  std::int64_t y_image = 0, y_row = 0, y_pixel = 0;  // elements, between pixels of the grid

  std::int64_t half() const { return ceil_div(channels, 2); }
  std::int64_t words() const { return pixels.all_taps() * half(); }
  std::int64_t panels() const { return ceil_div(outputs, kColumns); }
  std::int64_t total() const { return batch * pixels.plane(); }
  // Rows of the product are one run of x.
  bool in_place() const {
    return pixels.all_taps() == 1 && pixels.at[0] == 0 && x_pixel == groups * channels && channels % 2 == 0 &&
           pixels.dense() && pixels.plane() == pixels.rows * pixels.columns;
  }
};

void set_grid(LastProduct& p, const std::int64_t (&size)[3]) {
  p.pixels.rows = size[1];
  p.pixels.columns = size[2];
  p.pixels.image = plane_of(size);
}

LastProduct forward_product(const ConvShape& c) {
  LastProduct p;
  forward_pixels(c, nullptr, p.pixels);
  set_grid(p, c.in);
  for (int t = 0; t < p.pixels.all_taps(); ++t) p.tap[t] = t;
  p.batch = c.batch;
  p.groups = c.groups;
  p.channels = c.cin;
  p.x_pixel = c.groups * c.cin;
  p.outputs = c.cout;
  const std::int64_t taps = plane_of(c.kernel);
  p.w_group = c.cout * c.cin * taps;
  p.w_output = c.cin * taps;
  p.w_tap = c.weights_last ? c.cin : 1;
  p.w_channel = c.weights_last ? 1 : taps;
  p.y_pixel = c.groups * c.cout;
  p.y_row = c.out[2] * p.y_pixel;
  p.y_image = c.out[1] * p.y_row;
  return p;
}

// The pixels of a phase of the stride.
LastProduct gradient_product(const ConvShape& c, std::int64_t fh, std::int64_t fw) {
  LastProduct p;
  Pixels& s = p.pixels;
  const std::int64_t phase[2] = {fh, fw};
  int tap[2][kMostTaps];
  for (int i = 0; i < 2; ++i)
    for (std::int64_t k = 0; k < c.kernel[1 + i]; ++k) {
      const std::int64_t from = phase[i] + c.pad[1 + i] - k * c.dilation[1 + i];
      if (from % c.stride[1 + i] != 0) continue;
      tap[i][s.taps[i]] = static_cast<int>(k);
      s.shift[i][s.taps[i]++] = static_cast<int>(from / c.stride[1 + i]);
    }
  s.height = (c.in[1] - fh - 1) / c.stride[1] + 1;
  s.width = (c.in[2] - fw - 1) / c.stride[2] + 1;
  set_grid(p, c.out);
  s.place_taps();
  for (int t = 0; t < s.all_taps(); ++t)
    p.tap[t] = tap[0][t / s.taps[1]] * static_cast<int>(c.kernel[2]) + tap[1][t % s.taps[1]];
  p.batch = c.batch;
  p.groups = c.groups;
  p.channels = c.cout;
  p.x_pixel = c.groups * c.cout;
  p.outputs = c.cin;
  const std::int64_t taps = plane_of(c.kernel);
  p.w_group = c.cout * c.cin * taps;
  p.w_channel = c.cin * taps;
  p.w_tap = c.weights_last ? c.cin : 1;
  p.w_output = c.weights_last ? 1 : taps;
  p.y_pixel = c.stride[2] * c.groups * c.cin;
  p.y_row = c.stride[1] * c.in[2] * c.groups * c.cin;
  p.y_image = plane_of(c.in) * c.groups * c.cin;
  return p;
}

std::int64_t packed_floats(const LastProduct& p) { return p.groups * p.panels() * p.words() * kColumns; }

// -> [group][panel][tap, pair of channels][64 outputs]
void pack_weights(const LastProduct& p, float* out) {
  const std::int64_t taps = p.pixels.all_taps(), panels = p.panels(), half = p.half();
  parallel_for(p.groups * panels * taps, 16384 / (half * kColumns) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t t = u % taps, panel = u / taps % panels, group = u / taps / panels;
      pack_words_b<Pairs>(p.w + group * p.w_group + p.tap[t] * p.w_tap + panel * kColumns * p.w_output, p.w_channel,
                          p.w_output, p.channels, min_of(kColumns, p.outputs - panel * kColumns),
                          out + u * half * kColumns);
    }
  });
}

constexpr std::int64_t kPixelsAhead = 8;  // rows of images are far apart, and their lines come from the third level

// n elements (zeros where `from` is null) and zeros up to a whole vector, which the next ones overwrite.
PYDLX_INLINE void copy_channels(const T* from, std::int64_t n, T* to) {
  std::int64_t l = 0;
  for (; l + 2 * kWords <= n; l += 2 * kWords)
    _mm512_storeu_si512(to + l, from ? _mm512_loadu_si512(from + l) : _mm512_setzero_si512());
  if (l < n)
    _mm512_storeu_si512(to + l,
                        from ? _mm512_maskz_loadu_epi16((1u << (n - l)) - 1, from + l) : _mm512_setzero_si512());
}

// Words [s0, s1) of pixels; `place` has, for every pixel and tap, the pixel that it sees or -1.
void gather_lines(const LastProduct& p, std::int64_t group, const std::int32_t* place, std::int64_t count,
                  std::int64_t s0, std::int64_t s1, T* lines) {
  const std::int64_t taps = p.pixels.all_taps(), half = max_of(1, p.half()), pixel = p.x_pixel, t0 = s0 / half;
  const T* x = p.x + group * p.channels;
  for (std::int64_t i = 0; i < count; ++i) {
    T* to = lines + i * kLineElements;
    const std::int32_t *seen = place + i * taps, *later = place + min_of(i + kPixelsAhead, count - 1) * taps;
    std::int64_t skip = s0 - t0 * half;
    for (std::int64_t s = s0, t = t0; s < s1; ++t, skip = 0) {
      const std::int64_t first = skip * 2, words = min_of(s1 - s, half - skip),
                         n = min_of(2 * words, p.channels - first);
      for (std::int64_t l = 0; l < n; l += 2 * kWords) __builtin_prefetch(x + later[t] * pixel + first + l);
      copy_channels(seen[t] < 0 ? nullptr : x + seen[t] * pixel + first, n, to);
      to += 2 * words;
      s += words;
    }
  }
}

// Pixels [first, first + count) and taps -> the pixels they see, -1 outside.
void place_pixels(const Pixels& s, std::int64_t first, std::int64_t count, std::int32_t* place) {
  std::int64_t image = first / s.plane(), h = first % s.plane() / s.width, w = first % s.width;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto below = [](std::int64_t v, std::int64_t limit) {
      return static_cast<std::uint64_t>(v) < static_cast<std::uint64_t>(limit);
    };
    for (int a = 0; a < s.taps[0]; ++a) {
      const std::int64_t y = h * s.step[0] + s.shift[0][a], row = image * s.image + y * s.columns, x = w * s.step[1];
      const std::int64_t columns = below(y, s.rows) ? s.columns : 0;
      for (int b = 0; b < s.taps[1]; ++b)
        *place++ = static_cast<std::int32_t>(below(x + s.shift[1][b], columns) ? row + x + s.shift[1][b] : -1);
    }
    if (++w < s.width) continue;
    w = 0;
    if (++h < s.height) continue;
    h = 0;
    ++image;
  }
}

struct LastPlan {
  std::int64_t blocks, shares, width;  // of pixels; of the panels; columns of a share
  explicit LastPlan(const LastProduct& p)
      : blocks(ceil_div(ceil_div(p.total(), kPixels), num_threads()) * num_threads()),
        shares(min_of(p.panels(), max_of(1, 8 * num_threads() / (p.groups * blocks)))),
        width(ceil_div(p.panels(), shares) * kColumns) {
    shares = ceil_div(p.panels() * kColumns, width);
  }
  std::int64_t bytes(std::int64_t taps) const {
    return rounded(kPixels * kLineElements * 2) + rounded(kPixels * width * 4) + rounded(kPixels * width * 2) +
           rounded(kPixels * taps * 4);
  }
};

// act(bias + scale * sum), a scale per column.
void finish_scaled(const LastProduct& p, std::int64_t k0, std::int64_t columns, const float* sums,
                   std::int64_t sums_row, std::int64_t rows, T* to, std::int64_t row) {
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; j += kWords) {
      const int count = static_cast<int>(min_of(kWords, columns - j));
      Words v = load(sums + i * sums_row + j) * widen_load(p.scale + k0 + j, count);
      if (p.bias) v += widen_load(p.bias + k0 + j, count);
      if (p.relu) v = v < Words{} ? Words{} : v;  // NaN stays NaN
      narrow_store(to + i * row + j, v, count);
    }
}

void run_last(const LastProduct& p, const float* packed, char* buffers) {
  const Pixels& s = p.pixels;
  const LastPlan plan(p);
  const std::int64_t total = p.total(), words = p.words(), taps = s.all_taps(), panels = p.panels(),
                     blocks = words > kBlockWords ? ceil_div(words, kBlockWords) : 1, block = ceil_div(words, blocks),
                     groups_of_six = ceil_div(total, kTileRows), bytes = plan.bytes(taps);
  const bool in_place = p.in_place(), one_run = p.y_row == s.width * p.y_pixel && p.y_image == s.plane() * p.y_pixel;
  parallel_for(p.groups * plan.blocks * plan.shares, 1, [&](std::int64_t begin, std::int64_t end) {
    char* at = buffers + thread_index() * bytes;
    T* lines = reinterpret_cast<T*>(at);
    at += rounded(kPixels * kLineElements * 2);
    float* sums = reinterpret_cast<float*>(at);
    at += rounded(kPixels * plan.width * 4);
    T* spill = reinterpret_cast<T*>(at);
    std::int32_t* place = reinterpret_cast<std::int32_t*>(at + rounded(kPixels * plan.width * 2));
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t share = u % plan.shares, b = u / plan.shares % plan.blocks,
                         group = u / plan.shares / plan.blocks, first = groups_of_six * b / plan.blocks * kTileRows,
                         last = min_of(total, groups_of_six * (b + 1) / plan.blocks * kTileRows), count = last - first,
                         k0 = share * plan.width, k1 = min_of(p.outputs, k0 + plan.width);
      if (count <= 0) continue;
      if (!in_place) place_pixels(s, first, count, place);
      T* y = p.y + group * p.outputs + k0;
      std::int64_t s0 = 0;
      do {  // once without any words too
        const std::int64_t s1 = min_of(words, s0 + block);
        if (!in_place) gather_lines(p, group, place, count, s0, s1, lines);
        for (std::int64_t k = k0; k < k1; k += kColumns) {
          WordBlock<T> w;
          w.m = count;
          w.n = min_of(kColumns, k1 - k);
          w.steps = s1 - s0;
          w.a = in_place ? reinterpret_cast<const char*>(p.x + (first * p.groups + group) * p.channels + s0 * 2)
                         : reinterpret_cast<const char*>(lines);
          w.a_row = (in_place ? p.groups * p.channels : kLineElements) * 2;
          w.a_step = 4;
          w.ragged = false;
          w.ahead = in_place;
          w.b = packed + ((group * panels + k / kColumns) * words + s0) * kColumns;
          w.sums = sums + k - k0;
          w.sums_row = plan.width;
          w.first = s0 == 0;
          w.last = s1 == words && !p.scale;
          w.c = one_run ? y + first * p.y_pixel + k - k0 : spill + k - k0;
          w.c_row = one_run ? p.y_pixel : plan.width;
          w.end = {1, 0, p.bias ? p.bias + group * p.outputs + k : nullptr, p.relu};
          Pairs::block(w);
        }
        s0 = s1;
      } while (s0 < words);
      if (p.scale)
        finish_scaled(p, group * p.outputs + k0, k1 - k0, sums, plan.width, count,
                      one_run ? y + first * p.y_pixel : spill, one_run ? p.y_pixel : plan.width);
      if (one_run) continue;
      std::int64_t image = first / s.plane(), h = first % s.plane() / s.width, x = first % s.width;
      for (std::int64_t i = 0; i < count; ++i) {
        std::memcpy(y + image * p.y_image + h * p.y_row + x * p.y_pixel, spill + i * plan.width,
                    static_cast<std::size_t>(k1 - k0) * sizeof(T));
        if (++x < s.width) continue;
        x = 0;
        if (++h < s.height) continue;
        h = 0;
        ++image;
      }
    }
  });
}

std::int64_t scratch_of(const LastProduct& p) {
  return rounded(packed_floats(p) * 4) + num_threads() * LastPlan(p).bytes(p.pixels.all_taps());
}

// ---- weight gradient

constexpr std::int64_t kGradPixels = 256, kGradWords = kGradPixels / 2;  // of a block of sums
constexpr std::int64_t kChunkPixels = 128;                               // of a block, where pixels are shared out
constexpr std::int64_t kMostSums = 256 << 10;                            // bytes of a chunk
constexpr std::int64_t kTurnedWords = kGradWords + kWords;               // of a line of dy: off the cache-set period

struct WeightPlan {
  std::int64_t total, blocks, panels, share, shares;
  explicit WeightPlan(const ConvShape& c, const LastProduct& p)
      : total(p.total()),
        blocks(ceil_div(total, kGradPixels)),
        panels(ceil_div(p.channels, kColumns)),
        share(share_of(c.cout, c.groups * p.pixels.all_taps() * panels)),
        shares(ceil_div(c.cout, share)) {}
  std::int64_t turned_bytes(const ConvShape& c) const { return rounded(c.groups * blocks * c.cout * kTurnedWords * 4); }
  std::int64_t bytes() const {
    return rounded(kGradWords * kColumns * 4) + rounded(share * kColumns * 4) + rounded(kGradPixels * 4);
  }
};

Pixels tap_alone(const Pixels& s, std::int64_t tap) {
  Pixels one = s;
  one.taps[0] = one.taps[1] = 1;
  one.shift[0][0] = s.shift[0][tap / s.taps[1]];
  one.shift[1][0] = s.shift[1][tap % s.taps[1]];
  return one;
}

// Pairs of pixels -> [pair][64 channels].
void join_pixels(const T* x, std::int64_t x_pixel, const std::int32_t* place, std::int64_t count, std::int64_t channels,
                 float* panel) {
  for (std::int64_t i = 0; i < count; i += 2, panel += kColumns) {
    const std::int32_t* later = place + min_of(i + 2 * kPixelsAhead, count - 1);
    for (std::int64_t j = 0; j < channels; j += 2 * kWords) {
      __builtin_prefetch(x + later[0] * x_pixel + j);
      if (i + 2 * kPixelsAhead + 1 < count) __builtin_prefetch(x + later[1] * x_pixel + j);
    }
    join_two(place[i] < 0 ? nullptr : x + place[i] * x_pixel, place[i + 1] < 0 ? nullptr : x + place[i + 1] * x_pixel,
             channels, panel);
  }
}

// Pixels shared out in chunks.
struct ChunkPlan {
  std::int64_t panels, blocks, chunks, chunk;  // of outputs of the kernel; of pixels, and of these in a chunk
  explicit ChunkPlan(const LastProduct& p)
      : panels(ceil_div(p.channels, kColumns)), blocks(ceil_div(p.total(), kChunkPixels)) {
    const std::int64_t bytes = sums(p) * 4;
    chunks = bytes > kMostSums ? 0 : chunks_of(blocks, blocks * kChunkPixels * sums(p), bytes);
    chunk = chunks == 0 ? 0 : ceil_div(blocks, chunks);
    if (chunks != 0) chunks = ceil_div(blocks, chunk);
  }
  // [group][tap][panel of x][channel of dy][64]
  std::int64_t sums(const LastProduct& p) const {
    return p.groups * p.pixels.all_taps() * panels * p.outputs * kColumns;
  }
  static std::int64_t panel_bytes() { return kChunkPixels / 2 * kColumns * 4; }
  std::int64_t bytes(const LastProduct& p) const {
    return (ceil_div(p.outputs, kColumns) + 1) * panel_bytes() + rounded(kChunkPixels * 4);
  }
};

// One block of pixels of a group, to the sums of its chunk.
void add_block(const LastProduct& p, const ChunkPlan& plan, const T* dy, std::int64_t group, std::int64_t first,
               std::int64_t run, bool fresh, char* memory, float* sums) {
  const std::int64_t taps = p.pixels.all_taps(), dy_panels = ceil_div(p.outputs, kColumns),
                     words = kChunkPixels / 2 * kColumns;
  float *dy_joined = reinterpret_cast<float*>(memory), *panel = dy_joined + dy_panels * words;
  std::int32_t* place = reinterpret_cast<std::int32_t*>(panel + words);
  for (std::int64_t i = 0; i < run; ++i) place[i] = static_cast<std::int32_t>(first + i);
  if (run % 2 != 0) place[run] = -1;
  for (std::int64_t k = 0; k < p.outputs; k += kColumns)
    join_pixels(dy + group * p.outputs + k, p.groups * p.outputs, place, run, min_of(kColumns, p.outputs - k),
                dy_joined + k / kColumns * words);
  for (std::int64_t t = 0; t < taps; ++t) {
    place_pixels(tap_alone(p.pixels, t), first, run, place);
    if (run % 2 != 0) place[run] = -1;
    for (std::int64_t c = 0; c < p.channels; c += kColumns) {
      const std::int64_t columns = min_of(kColumns, p.channels - c);
      join_pixels(p.x + group * p.channels + c, p.x_pixel, place, run, columns, panel);
      for (std::int64_t k = 0; k < p.outputs; k += kColumns) {
        WordBlock<T> w;
        w.m = min_of(kColumns, p.outputs - k);
        w.n = columns;
        w.steps = ceil_div(run, 2);
        w.a = reinterpret_cast<const char*>(dy_joined + k / kColumns * words);
        w.a_row = 4;
        w.a_step = kColumns * 4;
        w.ragged = false;
        w.b = panel;
        w.sums = sums + (((group * taps + t) * plan.panels + c / kColumns) * p.outputs + k) * kColumns;
        w.sums_row = kColumns;
        w.first = fresh;
        w.last = false;
        w.c = nullptr;
        w.c_row = 0;
        w.end = {1, 0, nullptr, false};
        Pairs::block(w);
      }
    }
  }
}

void weight_by_chunks(const LastProduct& p, const ChunkPlan& plan, const T* dy, T* dw, char* memory) {
  const std::int64_t sums = plan.sums(p), total = p.total(), taps = p.pixels.all_taps();
  float* all = reinterpret_cast<float*>(memory);
  memory += rounded(plan.chunks * sums * 4);
  parallel_for(plan.chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    char* own = memory + thread_index() * plan.bytes(p);
    for (std::int64_t u = begin; u < end; ++u)
      for (std::int64_t b = u * plan.chunk; b < min_of(plan.blocks, (u + 1) * plan.chunk); ++b)
        for (std::int64_t group = 0; group < p.groups; ++group)
          add_block(p, plan, dy, group, b * kChunkPixels, min_of(kChunkPixels, total - b * kChunkPixels),
                    b == u * plan.chunk, own, all + u * sums);
  });
  // Chunks are added in order.
  parallel_for(sums / kColumns, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t k = u % p.outputs, c = u / p.outputs % plan.panels * kColumns,
                         t = u / p.outputs / plan.panels % taps, group = u / p.outputs / plan.panels / taps;
      for (std::int64_t j = 0; j < min_of(kColumns, p.channels - c); j += kWords)
        narrow_store(dw + ((group * p.outputs + k) * taps + t) * p.channels + c + j,
                     add_chunks(all + u * kColumns + j, sums, plan.chunks),
                     static_cast<int>(min_of(kWords, p.channels - c - j)));
    }
  });
}

}  // namespace

void pairs_last_weight(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (verbose_on) verbose_note(", products of pairs of channels-last pixels (vdpbf16ps)");
  LastProduct p = forward_product(c);
  p.x = static_cast<const T*>(conv.x);
  char* memory = aligned(conv.scratch);
  const ChunkPlan chunks(p);
  if (chunks.chunks != 0)
    return weight_by_chunks(p, chunks, static_cast<const T*>(conv.y), static_cast<T*>(conv.w), memory);
  const WeightPlan plan(c, p);
  float* turned = reinterpret_cast<float*>(memory);  // [group][block][channel][pair of pixels]
  memory += plan.turned_bytes(c);
  const std::int64_t y_pixel = c.groups * c.cout, taps = p.pixels.all_taps();
  const T* dy = static_cast<const T*>(conv.y);
  parallel_for(c.groups * plan.blocks, 65536 / (kGradPixels * c.cout) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t group = u / plan.blocks, first = u % plan.blocks * kGradPixels;
      pack_words_rows<Pairs>(dy + first * y_pixel + group * c.cout, 1, y_pixel, c.cout,
                             min_of(kGradPixels, plan.total - first), kTurnedWords, turned + u * c.cout * kTurnedWords);
    }
  });
  const Pixels& s = p.pixels;
  parallel_for(c.groups * taps * plan.panels * plan.shares, 1, [&](std::int64_t begin, std::int64_t end) {
    char* at = memory + thread_index() * plan.bytes();
    float* panel = reinterpret_cast<float*>(at);
    at += rounded(kGradWords * kColumns * 4);
    float* sums = reinterpret_cast<float*>(at);
    std::int32_t* place = reinterpret_cast<std::int32_t*>(at + rounded(plan.share * kColumns * 4));
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t k0 = u % plan.shares * plan.share, c0 = u / plan.shares % plan.panels * kColumns,
                         t = u / plan.shares / plan.panels % taps, group = u / plan.shares / plan.panels / taps,
                         columns = min_of(kColumns, p.channels - c0);
      const Pixels one = tap_alone(s, t);
      for (std::int64_t b = 0; b < plan.blocks; ++b) {
        const std::int64_t first = b * kGradPixels, run = min_of(kGradPixels, plan.total - first);
        place_pixels(one, first, run, place);
        if (run % 2 != 0) place[run] = -1;
        join_pixels(p.x + group * p.channels + c0, p.x_pixel, place, run, columns, panel);
        WordBlock<T> w;
        w.m = min_of(plan.share, c.cout - k0);
        w.n = columns;
        w.steps = ceil_div(run, 2);
        w.a = reinterpret_cast<const char*>(turned + ((group * plan.blocks + b) * c.cout + k0) * kTurnedWords);
        w.a_row = kTurnedWords * 4;
        w.a_step = 4;
        w.ragged = false;
        w.b = panel;
        w.sums = sums;
        w.sums_row = kColumns;
        w.first = b == 0;
        w.last = b + 1 == plan.blocks;
        w.c = static_cast<T*>(conv.w) + ((group * c.cout + k0) * taps + t) * p.channels + c0;
        w.c_row = taps * p.channels;
        w.end = {1, 0, nullptr, false};
        Pairs::block(w);
      }
    }
  });
}

void pairs_last_data(const Conv& conv, ConvPass pass) {
  const ConvShape& c = conv.shape;
  const bool forward = pass == ConvPass::forward;
  if (forward && first_layer_fits(c)) return first_layer_forward(conv);
  if (verbose_on) verbose_note(", products of pairs of channels-last pixels (vdpbf16ps)");
  char* memory = aligned(conv.scratch);
  float* packed = reinterpret_cast<float*>(memory);
  const std::int64_t phases[2] = {forward ? 1 : min_of(c.stride[1], c.in[1]),
                                  forward ? 1 : min_of(c.stride[2], c.in[2])};
  for (std::int64_t i = 0; i < phases[0] * phases[1]; ++i) {
    const std::int64_t fh = i / phases[1], fw = i % phases[1];
    LastProduct p = forward ? forward_product(c) : gradient_product(c, fh, fw);
    p.w = static_cast<const T*>(conv.w);
    p.x = static_cast<const T*>(forward ? conv.x : conv.y);
    p.y = static_cast<T*>(forward ? conv.y : conv.x) + (fh * c.in[2] + fw) * c.groups * (forward ? 0 : c.cin);
    p.bias = static_cast<const T*>(conv.bias);
    p.scale = static_cast<const T*>(conv.scale);
    p.relu = conv.activation == Activation::relu;
    pack_weights(p, packed);
    run_last(p, packed, memory + rounded(packed_floats(p) * 4));
  }
}

bool pairs_last_fits(const ConvShape& c, ConvPass pass) {
  return fits(c) && c.batch * max_of(plane_of(c.in), plane_of(c.out)) < std::int64_t{1} << 31 &&
         ((pass == ConvPass::input_grad ? c.cout : c.cin) >= 16 ||
          (pass != ConvPass::input_grad && first_layer_fits(c))) &&
         c.cout >= 8;
}

std::int64_t pairs_last_scratch(const ConvShape& c, ConvPass pass) {
  if (pass != ConvPass::input_grad && first_layer_fits(c)) return first_layer_scratch(c, pass);
  if (pass == ConvPass::weight_grad) {
    const LastProduct p = forward_product(c);
    const ChunkPlan chunks(p);
    if (chunks.chunks != 0) return 64 + rounded(chunks.chunks * chunks.sums(p) * 4) + num_threads() * chunks.bytes(p);
    const WeightPlan plan(c, p);
    return 64 + plan.turned_bytes(c) + num_threads() * plan.bytes();
  }
  if (pass == ConvPass::forward) return 64 + scratch_of(forward_product(c));
  std::int64_t most = 0;
  for (std::int64_t fh = 0; fh < min_of(c.stride[1], c.in[1]); ++fh)
    for (std::int64_t fw = 0; fw < min_of(c.stride[2], c.in[2]); ++fw)
      most = max_of(most, scratch_of(gradient_product(c, fh, fw)));
  return 64 + most;
}

void register_conv_last_avx512_bf16(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  constexpr int type = static_cast<int>(DType::BFloat16);
  k.channels_last[static_cast<int>(ConvPass::forward)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::forward);
  };
  k.channels_last[static_cast<int>(ConvPass::input_grad)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::input_grad);
  };
  k.channels_last[static_cast<int>(ConvPass::weight_grad)][type] = [](const ConvShape& c) {
    return pairs_last_fits(c, ConvPass::weight_grad);
  };
}

}  // namespace pydlx::PYDLX_ISA
