// First layers of bfloat16 networks (see cpu/gemm/pairs.h). In channels-last images a row of the kernel is one run of
// elements, which are pairs as they lie: the forward pass broadcasts them out of rows with borders, for six pixels by
// 64 outputs, and keeps the sums of all taps in registers. The weight gradient, of either layout, has pairs of
// neighbouring pixels: an element of a row and the one that the next pixel sees in its place make a word, and one line
// of such words serves every row and column of the kernel.
#include "core/verbose.h"
#include "cpu/conv/pairs_last.h"
#include "cpu/conv/pairs_memory.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kBandBytes = 24 << 10;  // of bordered rows
constexpr std::int64_t kGradBand = 4;          // rows of outputs
constexpr std::int64_t kSpare = 2 * kWords;    // elements that loads pass the end of a row by

// Six lines of words by NV vectors, held in registers over rows x (words, and half a word).
struct Tile {
  const char* line[kTileRows];
  std::int64_t rows, row, words, step;  // of a line; bytes between them
  bool ragged;                          // after the words of a row, the lower half of one more
  const float* b;
  float* sums;  // [line][kColumns], added to unless `first`; null: results go to y
  bool first;
  T* y;
  std::int64_t y_line;
  int live, count;  // lines that are stored, columns in the last vector
  const T *bias, *scale;
  bool relu;
};

template <int MR, int NV>
__attribute__((noinline)) void line_tile(const Tile& t) {
  Words acc[MR][NV];
  const char* line[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    line[i] = t.line[i];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = t.first ? Words{} : load(t.sums + i * kColumns + j * kWords);
  }
  const float* b = t.b;
  const std::int64_t words = t.words, step = t.step;
  for (std::int64_t r = 0; r < t.rows; ++r) {
    std::int64_t at = r * t.row;
    for (std::int64_t s = 0; s < words; ++s, at += step, b += kColumns)
      add_pairs(acc, b, [&](int i) __attribute__((always_inline)) { return word_at(line[i] + at); });
    if (!t.ragged) continue;
    add_pairs(acc, b, [&](int i) __attribute__((always_inline)) { return half_word_at(line[i] + at); });
    b += kColumns;
  }
  if (t.sums) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) store<float>(t.sums + i * kColumns + j * kWords, acc[i][j]);
    return;
  }
  if (t.scale) scale_columns(acc, t.scale, t.count);
  if (t.bias) bias_columns(acc, t.bias, t.count);
  if (t.relu) relu_tile(acc);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    if (i >= t.live) break;
    store_pairs<NV>(t.y + i * t.y_line, acc[i], t.count);
  }
}

constexpr int kHalfRows = kTileRows / 2;
void run_tile(const Tile& t, std::int64_t columns, bool half) {
  using Fn = void (*)(const Tile&);
  constexpr Fn all[2][kTileVectors] = {
      {line_tile<kTileRows, 1>, line_tile<kTileRows, 2>, line_tile<kTileRows, 3>, line_tile<kTileRows, 4>},
      {line_tile<kHalfRows, 1>, line_tile<kHalfRows, 2>, line_tile<kHalfRows, 3>, line_tile<kHalfRows, 4>}};
  all[half][ceil_div(columns, kWords) - 1](t);
}

int last_columns(std::int64_t columns) { return static_cast<int>((columns - 1) % kWords + 1); }

// What both passes see of the geometry; elements are those of an image.
struct Layer {
  std::int64_t planes, depth;  // of an image, and elements of their pixels: channels are one or the other
  std::int64_t run, pixel;     // of a row of the kernel, and from one output to the next
  std::int64_t length, pitch;  // of a row with borders, as far as outputs see it
  std::int64_t panels;
  explicit Layer(const ConvShape& c)
      : planes(c.channels_last ? 1 : c.cin),
        depth(c.channels_last ? c.cin : 1),
        run(c.kernel[2] * depth),
        pixel(c.stride[2] * depth),
        length((c.out[2] - 1) * pixel + run),
        pitch(ceil_div(length + pixel + kSpare, 2 * kWords) * 2 * kWords),
        panels(ceil_div(c.cout, kColumns)) {}
};
std::int64_t seen_rows(const ConvShape& c, std::int64_t outputs) {
  return (outputs - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
}

// Row y of a plane between its borders, which are zero.
void bordered_row(const ConvShape& c, const Layer& l, const void* x, std::int64_t plane, std::int64_t y, T* to) {
  const std::int64_t front = y < 0 || y >= c.in[1] ? l.length : min_of(c.pad[2] * l.depth, l.length),
                     have = min_of(c.in[2] * l.depth, l.length - front);
  const auto bytes = [](std::int64_t n) { return static_cast<std::size_t>(n) * sizeof(T); };
  std::memset(to, 0, bytes(front));
  if (have > 0)
    std::memcpy(to + front, static_cast<const T*>(x) + (plane * c.in[1] + y) * c.in[2] * l.depth, bytes(have));
  std::memset(to + front + have, 0, bytes(l.length - front - have));
}

// ---- forward

struct DataPlan {
  std::int64_t words, rows, bands;  // of a row of the kernel; outputs' rows at a time
  DataPlan(const ConvShape& c, const Layer& l)
      : words(ceil_div(l.run, 2)),
        rows(max_of(1, min_of(ceil_div(c.out[1], 4), kBandBytes / (l.pitch * 2 * c.stride[1])))),
        bands(ceil_div(c.out[1], rows)) {
    rows = ceil_div(c.out[1], bands);
    bands = ceil_div(c.out[1], rows);
  }
  std::int64_t panel(const ConvShape& c) const { return c.kernel[1] * words * kColumns; }  // words
};

struct DataMemory {
  T* ordered;     // weights that are not channels-last
  float* packed;  // [panel][row of the kernel][word][64 outputs]
  T* bands;       // one after the other
  std::int64_t band, bytes;
  DataMemory(const ConvShape& c, const Layer& l, const DataPlan& plan, void* scratch) {
    Parts parts(scratch);
    band = seen_rows(c, plan.rows) * l.pitch;
    ordered = parts.take<T>(c.weights_last ? 0 : c.cout * c.cin * plane_of(c.kernel));
    packed = parts.take<float>(l.panels * plan.panel(c));
    bands = parts.take<T>(num_threads() * band);
    bytes = parts.bytes();
  }
};

// Weights as [output][tap][channel].
void order_weights(const ConvShape& c, const T* w, T* out) {
  const std::int64_t taps = plane_of(c.kernel);
  for (std::int64_t k = 0; k < c.cout; ++k)
    for (std::int64_t t = 0; t < taps; ++t)
      for (std::int64_t i = 0; i < c.cin; ++i) out[(k * taps + t) * c.cin + i] = w[(k * c.cin + i) * taps + t];
}

}  // namespace

void first_layer_forward(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (verbose_on) verbose_note(", pairs of the rows of channels-last images (vdpbf16ps)");
  const Layer l(c);
  const DataPlan plan(c, l);
  const DataMemory memory(c, l, plan, conv.scratch);
  const T* w = static_cast<const T*>(conv.w);
  if (!c.weights_last) {
    order_weights(c, w, memory.ordered);
    w = memory.ordered;
  }
  for (std::int64_t k = 0; k < c.cout; k += kColumns)
    for (std::int64_t r = 0; r < c.kernel[1]; ++r)
      pack_words_b<Pairs>(w + (k * c.kernel[1] + r) * l.run, 1, c.kernel[1] * l.run, l.run,
                          min_of(kColumns, c.cout - k),
                          memory.packed + k / kColumns * plan.panel(c) + r * plan.words * kColumns);
  const std::int64_t plane = plane_of(c.out), work = plan.rows * c.out[2] * plan.panel(c) * l.panels;
  parallel_for(c.batch * plan.bands, (1 << 19) / work + 1, [&](std::int64_t begin, std::int64_t end) {
    T* band = memory.bands + thread_index() * memory.band;
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t image = u / plan.bands, y0 = u % plan.bands * plan.rows,
                         rows = min_of(plan.rows, c.out[1] - y0), pixels = rows * c.out[2];
      for (std::int64_t r = 0; r < seen_rows(c, rows); ++r)
        bordered_row(c, l, conv.x, image, y0 * c.stride[1] - c.pad[1] + r, band + r * l.pitch);
      for (std::int64_t k = 0; k < c.cout; k += kColumns) {
        const std::int64_t columns = min_of(kColumns, c.cout - k);
        Tile t;
        t.rows = c.kernel[1];
        t.row = c.dilation[1] * l.pitch * 2;
        t.words = l.run / 2;
        t.step = 4;
        t.ragged = l.run % 2 != 0;
        t.b = memory.packed + k / kColumns * plan.panel(c);
        t.sums = nullptr;
        t.first = true;
        t.y = static_cast<T*>(conv.y) + (image * plane + y0 * c.out[2]) * c.cout + k;
        t.y_line = c.cout;
        t.count = last_columns(columns);
        t.bias = conv.bias ? static_cast<const T*>(conv.bias) + k : nullptr;
        t.scale = conv.scale ? static_cast<const T*>(conv.scale) + k : nullptr;
        t.relu = conv.activation == Activation::relu;
        const T *row = band, *at = band;
        for (std::int64_t p = 0, x = 0; p < pixels; p += kTileRows, t.y += kTileRows * c.cout) {
          t.live = static_cast<int>(min_of(kTileRows, pixels - p));
          for (int i = 0; i < t.live; ++i) {
            t.line[i] = reinterpret_cast<const char*>(at);
            at += l.pixel;
            if (++x < c.out[2]) continue;
            x = 0;
            at = row += c.stride[1] * l.pitch;
          }
          for (int i = t.live; i < kTileRows; ++i) t.line[i] = t.line[0];  // computed, and not stored
          run_tile(t, columns, false);
        }
      }
    }
  });
}

// ---- weight gradient

namespace {

struct GradPlan {
  std::int64_t taps, lines;           // elements of the kernel, and in whole tiles
  std::int64_t pairs, pitch;          // of pixels in a row; words between lines
  std::int64_t total, chunk, chunks;  // rows of outputs
  std::int64_t band;
  GradPlan(const ConvShape& c, const Layer& l)
      : taps(l.planes * c.kernel[1] * l.run),
        lines(ceil_div(taps, kWords) * kWords + kTileRows),
        pairs(ceil_div(c.out[2], 2)),
        pitch(ceil_div(l.length, kWords) * kWords + kWords),
        total(c.batch * c.out[1]),
        band(min_of(kGradBand, c.out[1])) {
    chunks = chunks_of(total, total * c.out[2] * taps * l.panels * kColumns, sums_bytes(l));
    chunk = ceil_div(total, chunks);
    chunks = ceil_div(total, chunk);
  }
  std::int64_t panel() const { return lines * kColumns; }                           // sums
  std::int64_t sums_bytes(const Layer& l) const { return l.panels * panel() * 4; }  // of a chunk
};

struct GradMemory {
  float* sums;                    // [chunk][panel][line][64 channels]
  float *all_lines, *all_joined;  // of every thread
  T* all_rows;
  std::int64_t lines, joined, row, bytes;
  GradMemory(const ConvShape& c, const Layer& l, const GradPlan& plan, void* scratch) {
    Parts parts(scratch);
    lines = l.planes * seen_rows(c, plan.band) * plan.pitch;
    joined = plan.band * plan.pairs * kColumns;
    row = l.pitch;
    sums = parts.take<float>(plan.chunks * l.panels * plan.panel());
    all_lines = parts.take<float>(num_threads() * lines);
    all_joined = parts.take<float>(num_threads() * joined);
    all_rows = parts.take<T>(num_threads() * row);
    bytes = parts.bytes();
  }
};

// Pairs of the pixels of rows, which follow each other in memory -> [row][pair][64 channels].
void join_pixels(const ConvShape& c, std::int64_t pairs, const T* dy, std::int64_t rows, std::int64_t columns,
                 float* to) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t p = 0; p < pairs; ++p, to += kColumns) {
      const T* a = dy + (r * c.out[2] + 2 * p) * c.cout;
      join_two(a, 2 * p + 1 < c.out[2] ? a + c.cout : nullptr, columns, to);
    }
}
// The same of planes, whose neighbours are pairs as they lie.
void turn_pixels(const ConvShape& c, std::int64_t pairs, const T* dy, std::int64_t rows, std::int64_t columns,
                 float* to) {
  for (std::int64_t r = 0; r < rows; ++r, dy += c.out[2], to += pairs * kColumns)
    for (std::int64_t p = 0; p < pairs; p += kWords)
      for (std::int64_t k = 0; k < columns; k += kWords) {
        const int count = static_cast<int>(min_of(2 * kWords, c.out[2] - 2 * p));
        const T* from = dy + k * plane_of(c.out) + 2 * p;
        Words v[kWords];
#pragma GCC unroll 16
        for (int i = 0; i < kWords; ++i)
          v[i] = k + i < columns ? Pairs::along(from + i * plane_of(c.out), count) : Words{};
        transpose_square<float>(v);
#pragma GCC unroll 16
        for (int i = 0; i < kWords; ++i)
          if (p + i < pairs) store<float>(to + (p + i) * kColumns + k, v[i]);
      }
}

// Joined pairs of rows of outputs and the lines that they see, to the sums of one panel.
void add_band(const ConvShape& c, const Layer& l, const GradPlan& plan, const float* lines, std::int64_t rows,
              std::int64_t columns, bool first, const float* joined, float* sums) {
  Tile t;
  t.rows = rows;
  t.row = c.stride[1] * plan.pitch * 4;
  t.words = c.out[2] / 2;
  t.step = 2 * l.pixel * 4;
  t.ragged = c.out[2] % 2 != 0;
  t.b = joined;
  t.first = first;
  for (std::int64_t e = 0; e < plan.taps; e += kTileRows) {
    for (int i = 0; i < kTileRows; ++i) {
      const std::int64_t tap = min_of(e + i, plan.taps - 1);
      const std::int64_t row = tap / l.run, plane = row / c.kernel[1];
      t.line[i] = reinterpret_cast<const char*>(
          lines + (plane * seen_rows(c, rows) + row % c.kernel[1] * c.dilation[1]) * plan.pitch + tap % l.run);
    }
    t.sums = sums + e * kColumns;
    run_tile(t, columns, plan.taps - e <= kHalfRows);
  }
}

}  // namespace

void first_layer_weight(const Conv& conv) {
  const ConvShape& c = conv.shape;
  if (verbose_on) verbose_note(", pairs of the pixels of rows (vdpbf16ps)");
  const Layer l(c);
  const GradPlan plan(c, l);
  const GradMemory memory(c, l, plan, conv.scratch);
  const std::int64_t panel = plan.panel();
  parallel_for(plan.chunks, 1, [&](std::int64_t begin, std::int64_t end) {
    float *lines = memory.all_lines + thread_index() * memory.lines,
          *joined = memory.all_joined + thread_index() * memory.joined;
    T* row = memory.all_rows + thread_index() * memory.row;
    std::memset(row + l.length, 0, static_cast<std::size_t>(l.pitch - l.length) * sizeof(T));
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t last = min_of(plan.total, (u + 1) * plan.chunk);
      for (std::int64_t y = u * plan.chunk, rows; y < last; y += rows) {
        const std::int64_t image = y / c.out[1], y0 = y % c.out[1];
        rows = min_of(plan.band, min_of(last - y, c.out[1] - y0));
        float* to = lines;
        for (std::int64_t plane = image * l.planes; plane < (image + 1) * l.planes; ++plane)
          for (std::int64_t r = 0; r < seen_rows(c, rows); ++r, to += plan.pitch) {
            bordered_row(c, l, conv.x, plane, y0 * c.stride[1] - c.pad[1] + r, row);
            for (std::int64_t i = 0; i < l.length; i += kWords)
              store<float>(to + i, Pairs::join(load_16(row + i), load_16(row + i + l.pixel)));
          }
        for (std::int64_t k = 0; k < c.cout; k += kColumns) {
          const std::int64_t columns = min_of(kColumns, c.cout - k);
          const T* dy = static_cast<const T*>(conv.y);
          if (c.channels_last)
            join_pixels(c, plan.pairs, dy + y * c.out[2] * c.cout + k, rows, columns, joined);
          else
            turn_pixels(c, plan.pairs, dy + (image * c.cout + k) * plane_of(c.out) + y0 * c.out[2], rows, columns,
                        joined);
          add_band(c, l, plan, lines, rows, columns, y == u * plan.chunk, joined,
                   memory.sums + (u * l.panels + k / kColumns) * panel);
        }
      }
    }
  });
  // Chunks are added in order.
  const std::int64_t pieces = ceil_div(plan.taps, kWords);
  parallel_for(l.panels * pieces, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t u = begin; u < end; ++u) {
      const std::int64_t k = u / pieces * kColumns, e = u % pieces * kWords, rows = min_of(kWords, plan.taps - e),
                         columns = min_of(kColumns, c.cout - k);
      float* sums = memory.sums + k / kColumns * panel + e * kColumns;
      for (std::int64_t i = 0; i < rows * kColumns; i += kWords) {
        if (i % kColumns >= columns) continue;
        store<float>(sums + i, add_chunks(sums + i, l.panels * panel, plan.chunks));
      }
      store_turned(sums, kColumns, rows, columns, static_cast<T*>(conv.w) + k * plan.taps + e, plan.taps);
    }
  });
}

bool first_layer_fits(const ConvShape& c) {
  return c.groups == 1 && c.cin < 16 && c.kernel[2] > 1 && c.dilation[2] == 1 && c.kernel[2] * c.cin >= 8;
}

std::int64_t first_layer_scratch(const ConvShape& c, ConvPass pass) {
  const Layer l(c);
  return pass == ConvPass::weight_grad ? GradMemory(c, l, GradPlan(c, l), nullptr).bytes
                                       : DataMemory(c, l, DataPlan(c, l), nullptr).bytes;
}

void register_conv_first_avx512_bf16(KernelTable&) {}  // reached through conv_last_avx512_bf16.cpp

}  // namespace pydlx::PYDLX_ISA
