// What the passes of a bfloat16 convolution share: which shapes they take, and how the elements that pixels see are
// brought side by side. Planes are read as they lie: sixteen pixels of a grid mostly lie within 32 elements of memory,
// from where one permutation takes them, and a mask clears those that a tap sees outside of the plane.
#pragma once
#include "core/verbose.h"
#include "cpu/conv/pairs_memory.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kMostTaps = 128;
constexpr std::int64_t kWindow = 32;  // elements that one permutation reaches
constexpr std::int64_t kAhead = 4;    // channels: hardware does not foresee where the next one's rows are

// Pixel (h, w) of a grid of height x width sees, through tap (i, j), element (h step[0] + shift[0][i],
// w step[1] + shift[1][j]) of a plane, or zero outside of it.
struct Pixels {
  const T* x = nullptr;
  std::int64_t size = 0;  // elements of the whole operand
  std::int64_t image = 0, group = 0, channel = 0, channels = 0;
  std::int64_t height = 0, width = 0;
  std::int64_t rows = 0, columns = 0;  // of a plane
  std::int64_t step[2] = {1, 1};
  int taps[2] = {0, 0};
  int shift[2][kMostTaps];
  std::int64_t at[kMostTaps];  // of tap (i, j), counted row by row, from an element's place
  void place_taps() {
    for (int t = 0; t < all_taps(); ++t) at[t] = shift[0][t / taps[1]] * columns + shift[1][t % taps[1]];
  }
  std::int64_t plane() const { return height * width; }
  std::int64_t all_taps() const { return taps[0] * taps[1]; }
  // Neighbours in the grid are neighbours in the plane, over the ends of rows too.
  bool dense() const { return step[1] == 1 && (height == 1 || (step[0] == 1 && columns == width)); }
};

void set_planes(Pixels& p, const void* x, std::int64_t batch, std::int64_t groups, std::int64_t channels,
                const std::int64_t (&size)[3]) {
  p.x = static_cast<const T*>(x);
  p.rows = size[1];
  p.columns = size[2];
  p.channels = channels;
  p.channel = plane_of(size);
  p.group = channels * p.channel;
  p.image = groups * p.group;
  p.size = batch * p.image;
}

// What the outputs see of the input.
void forward_pixels(const ConvShape& c, const void* x, Pixels& p) {
  set_planes(p, x, c.batch, c.groups, c.cin, c.in);
  p.height = c.out[1];
  p.width = c.out[2];
  for (int i = 0; i < 2; ++i) {
    p.step[i] = c.stride[1 + i];
    p.taps[i] = static_cast<int>(c.kernel[1 + i]);
    for (int k = 0; k < p.taps[i]; ++k) p.shift[i][k] = static_cast<int>(k * c.dilation[1 + i] - c.pad[1 + i]);
  }
  p.place_taps();
}

// Some pixels of a vector of sixteen that lie within a window.
struct Part {
  __m512i order;    // elements of two windows that alternate in the result: one permutation joins pairs
  std::int64_t at;  // of the window, from the group's first channel and tap shift 0
  int vector;
  bool more;  // lanes of the vector of the part before it
};
// Consecutive pixels, counted over all images.
struct View {
  static constexpr int kMost = 64;  // pixels, and pieces
  int parts;
  bool dense;
  std::int64_t low, high;  // of all windows
  std::uint32_t* masks;    // [tap, and one that sees nothing][kMost]: which lanes see an element
  std::uint32_t* tap(std::int64_t t) const { return masks + t * kMost; }
  Part part[kMost];
  static std::int64_t bytes(std::int64_t taps) {
    return rounded(sizeof(View)) + rounded((taps + 1) * kMost * static_cast<std::int64_t>(sizeof(std::uint32_t)));
  }
};

// At `memory`, for at most View::kMost pixels. For pairs the masks are in even bits.
template <bool kPairs>
View* view_of(const Pixels& p, std::int64_t first, std::int64_t count, char* memory) {
  View& v = *reinterpret_cast<View*>(memory);
  const auto all = [](std::int64_t x) __attribute__((always_inline)) { return _mm512_set1_epi32(static_cast<int>(x)); };
  const __m512i width = all(p.width), height = all(p.height), one = all(1),
                lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const auto spread = [](__mmask16 m) __attribute__((always_inline)) -> std::uint32_t {
    return kPairs ? _pdep_u32(m, 0x55555555u) : m;
  };
  const std::int64_t row = p.step[0] * p.columns;
  v.masks = reinterpret_cast<std::uint32_t*>(memory + rounded(sizeof(View)));
  v.dense = p.dense();
  v.parts = 0;
  v.low = v.high = 0;
  std::int64_t image = first / p.plane(), h0 = first % p.plane() / p.width, w0 = first % p.width;
  for (std::int64_t j = 0; j < count; j += kWords) {
    const int lanes = static_cast<int>(min_of(kWords, count - j));
    __m512i w = _mm512_add_epi32(all(w0), lane), h = all(h0), n = _mm512_setzero_si512();
    for (__mmask16 m; (m = _mm512_cmpge_epi32_mask(w, width)) != 0;) {
      w = _mm512_mask_sub_epi32(w, m, w, width);
      h = _mm512_mask_add_epi32(h, m, h, one);
      m = _mm512_cmpge_epi32_mask(h, height);
      h = _mm512_mask_sub_epi32(h, m, h, height);
      n = _mm512_mask_add_epi32(n, m, n, one);
    }
    alignas(64) int all_w[kWords], all_h[kWords], all_n[kWords];
    _mm512_store_si512(all_w, w);
    _mm512_store_si512(all_h, h);
    _mm512_store_si512(all_n, n);
    const __m512i y = _mm512_mullo_epi32(h, all(p.step[0])), x = _mm512_mullo_epi32(w, all(p.step[1]));
    bool more = false;
    for (__mmask16 left = first_lanes(lanes); left != 0; more = true) {
      const int l = __builtin_ctz(left);
      const __m512i down = _mm512_sub_epi32(h, all(all_h[l])), right = _mm512_sub_epi32(x, all(all_w[l] * p.step[1])),
                    distance = _mm512_add_epi32(_mm512_mullo_epi32(down, all(row)), right);
      const __mmask16 same = _mm512_mask_cmpeq_epi32_mask(left, n, all(all_n[l])),
                      here = _mm512_mask_cmplt_epu32_mask(same, distance, all(kWindow));
      Part& part = v.part[v.parts];
      part.at = (image + all_n[l]) * p.image + all_h[l] * row + all_w[l] * p.step[1] - (v.dense ? l : 0);
      part.vector = static_cast<int>(j / kWords);
      part.more = more;
      const __m512i from = v.dense ? lane : _mm512_maskz_mov_epi32(here, distance);
      part.order = _mm512_add_epi32(_mm512_mullo_epi32(from, all(65537)), all(kWindow << 16));
      if (v.parts == 0 || part.at < v.low) v.low = part.at;
      v.high = max_of(v.high, part.at + (v.dense ? kWords : kWindow));
      std::uint32_t column[kMostTaps];
      for (int t = 0; t < p.taps[1]; ++t)
        column[t] = spread(_mm512_mask_cmplt_epu32_mask(here, _mm512_add_epi32(x, all(p.shift[1][t])), all(p.columns)));
      std::uint32_t* to = v.masks + v.parts;
      for (int i = 0; i < p.taps[0]; ++i) {
        const std::uint32_t sees =
            spread(_mm512_cmplt_epu32_mask(_mm512_add_epi32(y, all(p.shift[0][i])), all(p.rows)));
        for (int t = 0; t < p.taps[1]; ++t, to += View::kMost) *to = sees & column[t];
      }
      *to = 0;
      ++v.parts;
      left = static_cast<__mmask16>(left & ~here);
    }
    for (w0 += lanes; w0 >= p.width;) {
      w0 -= p.width;
      if (++h0 == p.height) {
        h0 = 0;
        ++image;
      }
    }
  }
  return &v;
}

// Elements of a window, of which some are outside of the operand.
PYDLX_INLINE __m512i window_part(const Pixels& p, std::int64_t at) {
  const std::uint64_t before = at < 0 ? min_of(-at, kWindow) : 0,
                      inside = at < p.size ? min_of(p.size - at, kWindow) : 0;
  const std::uint64_t bits = ((std::uint64_t{1} << inside) - 1) & ~((std::uint64_t{1} << before) - 1);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>(bits), p.x + at);
}

// The words of all pixels for a pair of elements: tap a at offset `from_a`, tap b at `from_b`.
PYDLX_INLINE void gather_pair(const Pixels& p, const View& v, std::int64_t from_a, std::int64_t tap_a,
                              std::int64_t from_b, std::int64_t tap_b, float* to) {
  const std::uint32_t *masks_a = v.tap(tap_a), *masks_b = v.tap(tap_b);
  Words last{};
  // Pairs of channels under one tap pass two channels in the time that others take for the taps of one.
  const bool channels = tap_a == tap_b;
  const std::int64_t ahead = (channels ? 8 * kAhead : kAhead) * p.channel;
  const T *ahead_a = p.x + from_a + ahead, *ahead_b = p.x + (channels ? from_b : from_a) + ahead;
  const auto each = [&](auto load_pair) __attribute__((always_inline)) {
    for (int i = 0; i < v.parts; ++i) {
      const Part& part = v.part[i];
      __builtin_prefetch(ahead_a + part.at);
      if (channels) __builtin_prefetch(ahead_b + part.at);
      Words words = (Words)load_pair(part, static_cast<__mmask32>(masks_a[i] | masks_b[i] << 1));
      if (part.more) words = (Words)_mm512_or_si512((__m512i)words, (__m512i)last);
      store<float>(to + part.vector * kWords, words);
      last = words;
    }
  };
  const bool inside = min_of(from_a, from_b) + v.low >= 0 && max_of(from_a, from_b) + v.high <= p.size;
  const T *a = p.x + from_a, *b = p.x + from_b;
  if (!inside)
    each([&](const Part& part, __mmask32 mask) __attribute__((always_inline)) {
      return _mm512_maskz_permutex2var_epi16(mask, window_part(p, from_a + part.at), part.order,
                                             window_part(p, from_b + part.at));
    });
  else if (v.dense)
    each([&](const Part& part, __mmask32 mask) __attribute__((always_inline)) {
      return _mm512_maskz_mov_epi16(mask, (__m512i)Pairs::join(load_16(a + part.at), load_16(b + part.at)));
    });
  else
    each([&](const Part& part, __mmask32 mask) __attribute__((always_inline)) {
      return _mm512_maskz_permutex2var_epi16(mask, _mm512_loadu_si512(a + part.at), part.order,
                                             _mm512_loadu_si512(b + part.at));
    });
}

// The elements that a tap of all pixels sees.
PYDLX_INLINE void gather_line(const Pixels& p, const View& v, std::int64_t from, std::int64_t tap, T* to) {
  const std::uint32_t* masks = v.tap(tap);
  const bool inside = from + v.low >= 0 && from + v.high <= p.size;
  const T* ahead = p.x + from + (p.all_taps() == 1 ? kAhead : 1) * p.channel;
  __m256i last = _mm256_setzero_si256();
  for (int i = 0; i < v.parts; ++i) {
    const Part& part = v.part[i];
    __builtin_prefetch(ahead + part.at);
    const __mmask16 mask = static_cast<__mmask16>(masks[i]);
    __m256i line;
    if (v.dense) {
      line = _mm256_maskz_loadu_epi16(mask, p.x + from + part.at);
    } else {
      const __m512i window = inside ? _mm512_loadu_si512(p.x + from + part.at) : window_part(p, from + part.at);
      line = _mm512_maskz_cvtepi32_epi16(mask, _mm512_maskz_permutexvar_epi16(0x55555555u, part.order, window));
    }
    if (part.more) line = _mm256_or_si256(line, last);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + part.vector * kWords), line);
    last = line;
  }
}

// Rows that a part of work takes: all, unless threads would wait. No sum depends on it.
[[maybe_unused]] std::int64_t share_of(std::int64_t m, std::int64_t units) {
  const std::int64_t wanted = in_parallel_region() || num_threads() == 1 ? 1 : 4 * num_threads(),
                     shares = units >= wanted ? 1 : min_of(ceil_div(m, 24), ceil_div(wanted, units));
  return ceil_div(ceil_div(m, shares), kTileRows) * kTileRows;
}

// Which shapes the kernels take.
[[maybe_unused]] bool fits(const ConvShape& c) {
  constexpr std::int64_t kMost = 1 << 26;  // positions are counted in 32 bits
  bool small = true;
  for (int i = 1; i < 3; ++i)
    small = small && c.pad[i] < kMost && c.stride[i] < kMost && c.dilation[i] < kMost / kMostTaps;
  return small && c.in[0] == 1 && c.out[0] == 1 && c.kernel[0] == 1 && c.stride[0] == 1 && c.pad[0] == 0 &&
         c.batch > 0 && plane_of(c.kernel) <= kMostTaps && c.out[1] > 0 && c.out[2] > 0 && c.in[1] < kMost &&
         c.in[2] < kMost && plane_of(c.in) < kMost && plane_of(c.out) < kMost;
}

// Winograd's algorithm does a quarter of the multiplications, in float32 at half the speed; its transforms are made
// good by large planes only, or, where those of the weights are there from an earlier call, by a few tiles, of which
// larger weights, which come from further away, need more.
[[maybe_unused]] bool leave_to_winograd(const ConvShape& c) {
  if (c.exact || c.kernel[1] != 3 || c.kernel[2] != 3 || c.stride[1] != 1 || c.stride[2] != 1 || c.dilation[1] != 1 ||
      c.dilation[2] != 1 || c.cin < 16 || c.cout < 16)
    return false;
  const std::int64_t tiles = c.batch * ceil_div(c.out[1], 4) * ceil_div(c.out[2], 4);
  return plane_of(c.out) >= 225 || (c.weights_kept && tiles >= 32 && tiles >= c.cin * c.cout / 4096);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
