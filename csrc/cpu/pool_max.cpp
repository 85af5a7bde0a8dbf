// Max pooling: a band of a plane is copied between borders of minus infinity, its columns sorted by their residue
// modulo the stride, so that every tap of a vector of outputs is one contiguous load without a test, on planes of any
// size.
#include "cpu/pool_max.h"

#include <type_traits>

#include "cpu/past_caches.h"
#include "cpu/pool_pairs.h"
#include "functors/pool_window.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

template <class T>
using Index = typename VectorOf<T>::index;
template <class T>
using Position = std::conditional_t<sizeof(T) == 4, int, long long>;  // an element of Index<T>

template <class T>
constexpr std::int64_t kBuffer = 32768 / sizeof(T);  // elements of a band: most of a first-level cache
template <class T>
constexpr T kLowest = -static_cast<T>(__builtin_inf());

constexpr int kMost = 64;  // taps along an axis

// What all planes share; divisions cost more than a small plane.
struct Layout {
  std::int64_t part, pitch;           // columns of one residue, elements per row
  std::int64_t rows, bands;           // output rows per band
  std::int64_t lo[kMost], hi[kMost];  // per residue, the columns that lie inside the plane
  std::int64_t tap[kMost];            // where a tap's columns begin
};

template <class T>
Layout layout_of(const Pool& p) {
  Layout l;
  l.part = quotient_up((p.out[2] - 1) * p.stride[2] + p.kernel[2], p.stride[2]) + kLanesOf<T>;
  l.pitch = l.part * p.stride[2];
  l.rows = 1;
  while (l.rows < p.out[1] && (l.rows * p.stride[1] + p.kernel[1]) * l.pitch <= kBuffer<T>) ++l.rows;
  l.bands = quotient_up(p.out[1], l.rows);
  const std::int64_t s = p.stride[2], last = smaller((p.out[2] - 1) * s + p.kernel[2], p.pad[2] + p.in[2]);
  for (std::int64_t f = 0; f < s; ++f) {  // columns f - pad, f - pad + s, ...
    l.lo[f] = p.pad[2] <= f ? 0 : quotient_up(p.pad[2] - f, s);
    l.hi[f] = last <= f ? 0 : quotient_up(last - f, s);
  }
  for (std::int64_t j = 0; j < p.kernel[2]; ++j) l.tap[j] = j % s * l.part + j / s;
  return l;
}

// Input rows first, first + 1, ... of the band, between the borders that the buffer already has.
template <class T>
void copy_rows(const Pool& p, const Layout& l, const T* x, std::int64_t first, std::int64_t rows, T* out) {
  const std::int64_t s = p.stride[2];
  for (std::int64_t r = 0; r < rows; ++r) {
    T* to = out + r * l.pitch;
    if (first + r < 0 || first + r >= p.in[1]) {
      for (std::int64_t i = 0; i < l.pitch; ++i) to[i] = kLowest<T>;
      continue;
    }
    const T* from = x + (first + r) * p.in[2];
    for (std::int64_t f = 0; f < s; ++f) {
      const std::int64_t lo = l.lo[f], hi = l.hi[f];
      const T* src = from + f - p.pad[2];
      T* dst = to + f * l.part;
      if (s == 1)
        for (std::int64_t i = lo; i < hi; ++i) dst[i] = src[i];
      else if (s == 2)
        for (std::int64_t i = lo; i < hi; ++i) dst[i] = src[2 * i];
      else
        for (std::int64_t i = lo; i < hi; ++i) dst[i] = src[i * s];
    }
  }
}

// One row of outputs; `x` is the band's row where its windows begin, input row `top` of the plane.
template <bool kIndex, class T>
void output_row(const Pool& p, const Layout& l, const T* x, std::int64_t top, T* y, std::int64_t* index) {
  constexpr int kLane = kLanesOf<T>;
  using V = Vector<T>;
  using I = Index<T>;
  const int s = static_cast<int>(p.stride[2]), width = static_cast<int>(p.in[2]);
  const std::int64_t skip = larger(0, -top), live = smaller(p.kernel[1], p.in[1] - top);  // rows inside the plane
  for (std::int64_t o = 0; o < p.out[2]; o += kLane) {
    const int n = static_cast<int>(smaller(kLane, p.out[2] - o));
    V best = splat(kLowest<T>);
    I lane{};
    for (int i = 0; i < kLane; ++i) lane[i] = i * s;
    lane += static_cast<int>(o) * s - static_cast<int>(p.pad[2]);  // the window's first column
    // Where no value exceeds minus infinity: the first position inside the plane.
    I where = (lane < 0 ? I{} : lane) + static_cast<int>(top + skip) * width;
    for (std::int64_t i = skip; i < live; ++i)
      for (std::int64_t j = 0; j < p.kernel[2]; ++j) {
        const V v = load(x + i * l.pitch + l.tap[j] + o);
        const I take = (v > best) | (v != v);  // NaN wins, the last one of several
        best = take ? v : best;
        if constexpr (kIndex) where = take ? lane + static_cast<int>((top + i) * width + j) : where;
      }
    if (n == kLane)
      store<T>(y + o, best);
    else
      store_part(y + o, best, Lanes(n));
    if constexpr (kIndex) {
      alignas(64) Position<T> at[kLane];
      std::memcpy(at, &where, sizeof at);
      for (int i = 0; i < n; ++i) index[o + i] = at[i];
    }
  }
}

// ---- windows one channel deep ---------------------------------------------------------------------------------------

enum class Positions { none, kept, past_caches };

template <Positions kWhere, class T>
PYDLX_INLINE void store_positions(std::int64_t* to, Index<T> at, int count) {
  constexpr int kLane = kLanesOf<T>, kWide = kLanesOf<double>;
  if (count < kLane) {
    alignas(64) Position<T> one[kLane];
    std::memcpy(one, &at, sizeof one);
    for (int l = 0; l < count; ++l) to[l] = one[l];
    return;
  }
  typedef Position<T> Part __attribute__((vector_size(kWide * sizeof(T))));
#pragma GCC unroll 2
  for (int k = 0; k < kLane; k += kWide) {
    Part part;
    std::memcpy(&part, reinterpret_cast<const char*>(&at) + static_cast<std::size_t>(k) * sizeof(T), sizeof part);
    const Index<double> wide = __builtin_convertvector(part, Index<double>);
    if constexpr (kWhere == Positions::past_caches)
      store_past_caches<double>(reinterpret_cast<double*>(to + k), (Vector<double>)wide);
    else
      std::memcpy(to + k, &wide, sizeof wide);
  }
}

// Where the positions of a group of channels go, or null.
struct Found {
  std::int64_t *index, *pixel;
  PYDLX_INLINE Found operator+(std::int64_t c) const {
    return {index ? index + c : nullptr, pixel ? pixel + c : nullptr};
  }
};

// n <= kLanesOf<T> * kVectors channels of one output pixel from `x`, their first channel in the plane's first pixel.
// The winners of all taps stay in registers: values, and the pixels they came from.
template <Positions kWhere, int kVectors, class T>
PYDLX_INLINE void pixel_channels(const Pool& p, const Window& h, const Window& w, const T* x, std::int64_t channel,
                                 int n, T* y, const Found& found) {
  constexpr int kLane = kLanesOf<T>;
  using V = Vector<T>;
  using I = Index<T>;
  const std::int64_t width = p.in[1], channels = p.in[2];
  V best[kVectors];
  I where[kVectors];
  for (int g = 0; g < kVectors; ++g) {
    best[g] = splat(kLowest<T>);
    where[g] = I{} + static_cast<int>(h.first * width + w.first);
  }
  const bool part = n < kLane * kVectors;
  for (std::int64_t i = 0; i < h.count; ++i)
    for (std::int64_t j = 0; j < w.count; ++j) {
      const std::int64_t at = (h.first + i * h.step) * width + w.first + j * w.step;
      const I here = I{} + static_cast<int>(at);
      for (int g = 0; g < kVectors; ++g) {
        const T* from = x + at * channels;
        const V v = part ? load_part(from, Lanes(n)) : load(from + g * kLane);
        const I take = (v > best[g]) | (v != v);  // NaN wins, the last one of several
        best[g] = take ? v : best[g];
        if constexpr (kWhere != Positions::none) where[g] = take ? here : where[g];
      }
    }
  for (int g = 0; g < kVectors; ++g) {
    if (part)
      store_part(y, best[g], Lanes(n));
    else
      store<T>(y + g * kLane, best[g]);
    if constexpr (kWhere != Positions::none) {
      const int lanes = part ? n : kLane, first = g * kLane;
      if (found.pixel) store_positions<Positions::kept, T>(found.pixel + first, where[g], lanes);
      I at = where[g] * static_cast<int>(channels) + static_cast<int>(channel) + first;
      for (int l = 0; l < kLane; ++l) at[l] += l;
      if (found.index) store_positions<kWhere, T>(found.index + first, at, lanes);
    }
  }
}

template <Positions kWhere, class T>
void pixel(const Pool& p, const Window& h, const Window& w, const T* x, T* y, const Found& found) {
  constexpr int kLane = kLanesOf<T>, kGroup = 4;
  std::int64_t c = 0;
  for (; c + kGroup * kLane <= p.in[2]; c += kGroup * kLane)
    pixel_channels<kWhere, kGroup>(p, h, w, x + c, c, kGroup * kLane, y + c, found + c);
  for (; c < p.in[2]; c += kLane)
    pixel_channels<kWhere, 1>(p, h, w, x + c, c, static_cast<int>(smaller(kLane, p.in[2] - c)), y + c, found + c);
}

// Images whose channels are last: windows one position deep along axis 2.
template <class T>
bool channels_last(const Pool& p, const T* all) {
  if (p.adaptive || p.kernel[2] != 1 || p.stride[2] != 1 || p.dilation[2] != 1 || p.pad[2] != 0) return false;
  // Positions are kept in 32 bits.
  if (p.in[2] < kLanesOf<T> || p.in[0] * p.in[1] >= (std::int64_t{1} << 30) / p.in[2]) return false;
  const std::int64_t in = p.in[0] * p.in[1] * p.in[2], pixels = p.out[0] * p.out[1];
  const std::int64_t work = (p.kernel[0] * p.kernel[1] + 2) * p.in[2];
  const std::int64_t touched = p.planes * (in + 3 * pixels * p.in[2]) * static_cast<std::int64_t>(sizeof(T));
  const bool past = p.index && num_threads() > 1 && touched >= kPastCaches && p.in[2] % kLanesOf<T> == 0 &&
                    reinterpret_cast<std::uintptr_t>(p.index) % kCacheLine == 0;
  const auto run = past                 ? pixel<Positions::past_caches, T>
                   : p.index || p.pixel ? pixel<Positions::kept, T>
                                        : pixel<Positions::none, T>;
  parallel_for(p.planes * pixels, 65536 / (work + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const Window h = window_of(p, 0, u % pixels / p.out[1]), w = window_of(p, 1, u % p.out[1]);
      const T* x = all + u / pixels * in;
      T* y = static_cast<T*>(p.y) + u * p.in[2];
      const Found found = Found{p.index, p.pixel} + u * p.in[2];
      run(p, h, w, x, y, found);
    }
    past_caches_done();
  });
  return true;
}

// ---- windows two columns wide that follow one another --------------------------------------------------------------

// A row of outputs whose windows begin in input row `top` of the plane at x.
template <bool kIndex, class T>
void pair_row(const Pool& p, const T* x, std::int64_t top, T* y, std::int64_t* index) {
  using V = Vector<T>;
  using I = Index<T>;
  const std::int64_t skip = larger(0, -top), live = smaller(p.kernel[1], p.in[1] - top), width = p.in[2];
  pairs::each_vector<T>(p, [&](std::int64_t o, int n) __attribute__((always_inline)) {
    V best = splat(kLowest<T>);
    I lane{};
    for (int i = 0; i < kLanesOf<T>; ++i) lane[i] = 2 * i;
    lane += 2 * static_cast<int>(o);  // the window's first column
    I where = lane + static_cast<int>((top + skip) * width);
    for (std::int64_t i = skip; i < live; ++i) {
      const pairs::Columns<T> c = pairs::load_columns(x + (top + i) * width + 2 * o, n);
      const auto meet = [&](V v, int column) __attribute__((always_inline)) {
        const I take = (v > best) | (v != v);  // NaN wins, the last one of several
        best = take ? v : best;
        if constexpr (kIndex) where = take ? lane + static_cast<int>((top + i) * width + column) : where;
      };
      meet(pairs::column<0>(c), 0);
      meet(pairs::column<1>(c), 1);
    }
    store_count(y + o, best, n);
    if constexpr (kIndex) store_positions<Positions::kept, T>(index + o, where, n);
  });
}

template <class T>
void pair_planes(const Pool& p, const T* all) {
  const std::int64_t in = p.in[1] * p.in[2], lines = p.out[1], work = (p.kernel[1] + 1) * p.in[2];
  parallel_for(p.planes * lines, 65536 / (work + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t top = u % lines * p.stride[1] - p.pad[1];
      const T* x = all + u / lines * in;
      T* y = static_cast<T*>(p.y) + u * p.out[2];
      if (p.index)
        pair_row<true>(p, x, top, y, p.index + u * p.out[2]);
      else
        pair_row<false>(p, x, top, y, nullptr);
    }
  });
}

// Planes, sliding windows without dilation.
template <class T>
bool sliding_planes(const Pool& p, const T* all) {
  if (p.adaptive || p.pixel || p.in[0] != 1 || p.out[0] != 1 || p.kernel[0] != 1 || p.stride[0] != 1 || p.pad[0] != 0)
    return false;
  if (p.dilation[1] != 1 || p.dilation[2] != 1 || p.in[1] * p.in[2] >= (std::int64_t{1} << 30)) return false;
  if (pairs::fit(p)) {
    pair_planes(p, all);
    return true;
  }
  // A window of every output row must fit the buffer, and a copy of the input is worth it only if most of it is used.
  if (p.kernel[1] > kMost || p.kernel[2] > kMost || p.stride[1] > p.kernel[1] || p.stride[2] > p.kernel[2])
    return false;
  if (p.in[2] + 2 * p.kernel[2] + (kLanesOf<T> + 2) * p.stride[2] > kBuffer<T> / p.kernel[1]) return false;
  const Layout l = layout_of<T>(p);
  if (p.kernel[1] * l.pitch > kBuffer<T>) return false;
  const std::int64_t in = p.in[1] * p.in[2], out = p.out[1] * p.out[2];
  const std::int64_t work = (in + out * p.kernel[1] * p.kernel[2]) / l.bands;
  parallel_for(p.planes * l.bands, 65536 / (work + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    alignas(64) T buffer[kBuffer<T>];
    for (std::int64_t i = 0; i < kBuffer<T>; ++i) buffer[i] = kLowest<T>;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t plane = u / l.bands, y0 = u % l.bands * l.rows, y1 = smaller(p.out[1], y0 + l.rows);
      const std::int64_t first = y0 * p.stride[1] - p.pad[1];
      copy_rows(p, l, all + plane * in, first, (y1 - y0 - 1) * p.stride[1] + p.kernel[1], buffer);
      for (std::int64_t r = y0; r < y1; ++r) {
        const T* x = buffer + (r - y0) * p.stride[1] * l.pitch;
        T* y = static_cast<T*>(p.y) + plane * out + r * p.out[2];
        if (p.index)
          output_row<true>(p, l, x, r * p.stride[1] - p.pad[1], y, p.index + plane * out + r * p.out[2]);
        else
          output_row<false>(p, l, x, r * p.stride[1] - p.pad[1], y, nullptr);
      }
    }
  });
  return true;
}

}  // namespace

bool max_pool(const Pool& p, const float* x) { return sliding_planes(p, x) || channels_last(p, x); }
bool max_pool(const Pool& p, const double* x) { return sliding_planes(p, x) || channels_last(p, x); }

void register_pool_max(KernelTable&) {}  // reached through pool.cpp

}  // namespace pydlx::PYDLX_ISA
