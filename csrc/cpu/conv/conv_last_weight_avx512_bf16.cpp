// The weight gradient of bfloat16 convolutions on channels-last images: K runs over pairs of pixels. Where sums of all
// weights stay in the caches the pixels are shared out, in chunks with sums of their own; else the taps are, of which x
// is joined per tap and dy transposed once.
#include "cpu/conv/last_product.h"

namespace pydlx::PYDLX_ISA {
namespace {

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

std::int64_t pairs_last_weight_scratch(const ConvShape& c) {
  const LastProduct p = forward_product(c);
  const ChunkPlan chunks(p);
  if (chunks.chunks != 0) return 64 + rounded(chunks.chunks * chunks.sums(p) * 4) + num_threads() * chunks.bytes(p);
  const WeightPlan plan(c, p);
  return 64 + plan.turned_bytes(c) + num_threads() * plan.bytes();
}

void register_conv_last_weight_avx512_bf16(KernelTable&) {}  // reached through conv_pairs_avx512_bf16.cpp

}  // namespace pydlx::PYDLX_ISA
