// Max and average pooling, and the index-driven passes behind max pooling's gradient and max_unpool. Planes are
// independent; work inside a plane is sequential, so gradients are sums in a fixed order.
#include "kernels/pool.h"

#include "cpu/pool_max.h"
#include "cpu/pool_pairs.h"
#include "functors/pool_window.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

constexpr int kSpan = 128;  // outputs of a row handled together

// Outputs [lo, hi) of the span at w0 whose tap tw lies inside the row; `at` is the sampled position of the span's first
// output.
struct Range {
  std::int64_t lo, hi, at;
};
inline __attribute__((always_inline)) Range range_of(const Pool& p, std::int64_t w0, std::int64_t n, std::int64_t tw) {
  const std::int64_t s = p.stride[2], at = w0 * s - p.pad[2] + tw * p.dilation[2];
  return {at >= 0 ? 0 : quotient_up(-at, s), at >= p.in[2] ? 0 : smaller(n, quotient_up(p.in[2] - at, s)), at};
}

// What all rows share about a span of output columns: computed once per chunk of rows, because it takes divisions.
struct Span {
  static constexpr int kTaps = 16;
  std::int64_t w0 = -1, n = 0;
  std::int64_t first[kSpan], count[kSpan], span[kSpan];
  Range ranges[kTaps];
};
void place_span(const Pool& p, Span& s, std::int64_t w0) {
  if (s.w0 == w0) return;
  const bool placed = s.w0 >= 0;
  s.w0 = w0;
  s.n = smaller(kSpan, p.out[2] - w0);
  // Windows of one position each, as along the channels of channels-last images: spans alternate from pixel to pixel
  // and only differ in where they begin.
  if (!p.adaptive && p.kernel[2] == 1 && p.stride[2] == 1 && p.pad[2] == 0) {
    for (std::int64_t j = 0; j < kSpan; ++j) s.first[j] = w0 + j;
    for (std::int64_t j = 0; j < kSpan && !placed; ++j) s.count[j] = s.span[j] = 1;
    s.ranges[0] = {0, s.n, w0};
    return;
  }
  for (std::int64_t j = 0; j < s.n; ++j) {
    const Window w = window_of(p, 2, w0 + j);
    s.first[j] = w.first;
    s.count[j] = w.count;
    s.span[j] = w.span;
  }
  if (!p.adaptive)
    for (std::int64_t q = 0; q < p.kernel[2] && q < Span::kTaps; ++q) s.ranges[q] = range_of(p, w0, s.n, q);
}
inline __attribute__((always_inline)) Range tap_range(const Pool& p, const Span& s, std::int64_t q) {
  return q < Span::kTaps ? s.ranges[q] : range_of(p, s.w0, s.n, q);
}

// The taps that meet the row for some output of the span; a kernel may be far longer than the row.
struct Taps {
  std::int64_t first, end;
};
inline __attribute__((always_inline)) Taps taps_of(const Pool& p, const Span& s) {
  const std::int64_t d = p.dilation[2], low = s.w0 * p.stride[2] - p.pad[2], high = low + (s.n - 1) * p.stride[2];
  return {high >= 0 ? 0 : quotient_up(-high, d), smaller(p.kernel[2], quotient_up(larger(p.in[2] - low, 0), d))};
}

template <int S, class T>
inline __attribute__((always_inline)) void max_step(const T* src, std::int64_t s, std::int64_t at, std::int64_t lo,
                                                    std::int64_t hi, T* best, std::int64_t* where) {
  const std::int64_t step = S ? S : s;
  for (std::int64_t j = lo; j < hi; ++j) {
    const T v = src[j * step];
    const bool take = v > best[j] || v != v;  // NaN wins, the last one of several
    best[j] = take ? v : best[j];
    where[j] = take ? at + j * step : where[j];
  }
}
template <int S, class T>
inline __attribute__((always_inline)) void max_only(const T* src, std::int64_t s, std::int64_t lo, std::int64_t hi,
                                                    T* best) {
  const std::int64_t step = S ? S : s;
  for (std::int64_t j = lo; j < hi; ++j) {
    const T v = src[j * step];
    best[j] = v > best[j] || v != v ? v : best[j];
  }
}

template <class T>
void max_row(const Pool& p, Span& cols, const T* x, T* y, std::int64_t* index, const Window& d, const Window& h) {
  const T lowest = -static_cast<T>(__builtin_inf());
  const std::int64_t corner = (d.first * p.in[1] + h.first) * p.in[2];
  for (std::int64_t w0 = 0; w0 < p.out[2]; w0 += kSpan) {
    place_span(p, cols, w0);
    const std::int64_t n = cols.n, s = p.stride[2];
    T best[kSpan];
    std::int64_t where[kSpan];
    if (p.adaptive) {
      for (std::int64_t j = 0; j < n; ++j) {
        const std::int64_t first = cols.first[j], count = cols.count[j];
        T b = lowest;
        std::int64_t at = corner + first;
        for (std::int64_t i = 0; i < d.count; ++i)
          for (std::int64_t k = 0; k < h.count; ++k)
            for (std::int64_t q = 0; q < count; ++q) {
              const std::int64_t pos = ((d.first + i) * p.in[1] + h.first + k) * p.in[2] + first + q;
              if (x[pos] > b || x[pos] != x[pos]) {
                b = x[pos];
                at = pos;
              }
            }
        best[j] = b;
        where[j] = at;
      }
    } else {
      for (std::int64_t j = 0; j < n; ++j) {
        best[j] = lowest;
        where[j] = corner + cols.first[j];
      }
      const Taps taps = taps_of(p, cols);
      for (std::int64_t i = 0; i < d.count; ++i)
        for (std::int64_t k = 0; k < h.count; ++k) {
          const std::int64_t row = ((d.first + i * d.step) * p.in[1] + h.first + k * h.step) * p.in[2];
          for (std::int64_t q = taps.first; q < taps.end; ++q) {
            const Range r = tap_range(p, cols, q);
            const std::int64_t at = row + r.at;
            if (!index)
              s == 1   ? max_only<1>(x + at, s, r.lo, r.hi, best)
              : s == 2 ? max_only<2>(x + at, s, r.lo, r.hi, best)
                       : max_only<0>(x + at, s, r.lo, r.hi, best);
            else
              s == 1   ? max_step<1>(x + at, s, at, r.lo, r.hi, best, where)
              : s == 2 ? max_step<2>(x + at, s, at, r.lo, r.hi, best, where)
                       : max_step<0>(x + at, s, at, r.lo, r.hi, best, where);
          }
        }
    }
    for (std::int64_t j = 0; j < n; ++j) y[w0 + j] = best[j];
    if (index)
      for (std::int64_t j = 0; j < n; ++j) index[w0 + j] = where[j];
  }
}

// What a sum over the window is divided by. The product of three spans may exceed 64 bits.
template <class T>
inline __attribute__((always_inline)) T divisor_of(const Pool& p, const Window& d, const Window& h, std::int64_t span) {
  return p.divisor ? static_cast<T>(p.divisor) : static_cast<T>(d.span) * static_cast<T>(h.span) * static_cast<T>(span);
}

// The columns that the windows of a span reach. Columns are summed over the rows of the windows first, where that saves
// strided work: several rows, and windows of several columns that fit the buffer.
constexpr std::int64_t kReach = 1024;
struct Reach {
  std::int64_t lo, hi;
};
inline __attribute__((always_inline)) Reach reach_of(const Pool& p, const Span& s) {
  if (p.adaptive) return {s.first[0], s.first[s.n - 1] + s.count[s.n - 1]};
  const std::int64_t low = s.w0 * p.stride[2] - p.pad[2], high = low + (s.n - 1) * p.stride[2];
  return {larger(low, 0), smaller(high + (p.kernel[2] - 1) * p.dilation[2] + 1, p.in[2])};
}
inline __attribute__((always_inline)) bool by_columns(const Pool& p, const Span& s, const Window& d, const Window& h,
                                                      Reach& r) {
  if (d.count * h.count <= 1 || (!p.adaptive && p.kernel[2] <= 2)) return false;
  r = reach_of(p, s);
  return r.hi > r.lo && r.hi - r.lo <= kReach;
}

// Calls fn(row) for the plane's rows inside the window.
template <class T, class F>
inline __attribute__((always_inline)) void window_rows(const Pool& p, T* x, const Window& d, const Window& h,
                                                       const F& fn) {
  for (std::int64_t i = 0; i < d.count; ++i)
    for (std::int64_t k = 0; k < h.count; ++k)
      fn(x + ((d.first + i * d.step) * p.in[1] + h.first + k * h.step) * p.in[2]);
}

// One window after the other; otherwise one tap of all windows after the other, which are then at most two apart and
// fill vectors.
inline bool by_windows(const Pool& p) { return p.adaptive || p.stride[2] > 2; }

// sum[j] <- sum[j] + what the window of the span's output j covers in the row.
template <class T>
inline __attribute__((always_inline)) void add_windows(const Pool& p, const Span& cols, const Taps& taps, const T* row,
                                                       T* sum) {
  const std::int64_t s = p.stride[2];
  if (by_windows(p)) {
    for (std::int64_t j = 0; j < cols.n; ++j)
      for (std::int64_t q = 0; q < cols.count[j]; ++q) sum[j] += row[cols.first[j] + q * p.dilation[2]];
    return;
  }
  for (std::int64_t q = taps.first; q < taps.end; ++q) {
    const Range r = tap_range(p, cols, q);
    const T* src = row + r.at;
    if (s == 1)
      for (std::int64_t j = r.lo; j < r.hi; ++j) sum[j] += src[j];
    else
      for (std::int64_t j = r.lo; j < r.hi; ++j) sum[j] += src[2 * j];
  }
}
// The reverse: every output's share goes to what its window covers.
template <class T>
inline __attribute__((always_inline)) void spread_windows(const Pool& p, const Span& cols, const Taps& taps,
                                                          const T* share, T* row) {
  const std::int64_t s = p.stride[2];
  if (by_windows(p)) {
    for (std::int64_t j = 0; j < cols.n; ++j)
      for (std::int64_t q = 0; q < cols.count[j]; ++q) row[cols.first[j] + q * p.dilation[2]] += share[j];
    return;
  }
  for (std::int64_t q = taps.first; q < taps.end; ++q) {
    const Range r = tap_range(p, cols, q);
    T* dst = row + r.at;
    for (std::int64_t j = r.lo; j < r.hi; ++j) dst[j * s] += share[j];
  }
}

template <class T>
void average_row(const Pool& p, Span& cols, const T* x, T* y, const Window& d, const Window& h) {
  if (pairs::fit(p)) return pairs::average_row(p, x, y, d, h, divisor_of<T>(p, d, h, 2));
  for (std::int64_t w0 = 0; w0 < p.out[2]; w0 += kSpan) {
    place_span(p, cols, w0);
    const std::int64_t n = cols.n;
    const Taps taps = by_windows(p) ? Taps{0, 0} : taps_of(p, cols);
    T sum[kSpan], count[kSpan];
    for (std::int64_t j = 0; j < n; ++j) sum[j] = 0, count[j] = divisor_of<T>(p, d, h, cols.span[j]);
    if (Reach r; by_columns(p, cols, d, h, r)) {
      T line[kReach];
      const std::int64_t width = r.hi - r.lo;
      for (std::int64_t c = 0; c < width; ++c) line[c] = 0;
      window_rows(p, x, d, h, [&](const T* row) __attribute__((always_inline)) {
        for (std::int64_t c = 0; c < width; ++c) line[c] += row[r.lo + c];
      });
      add_windows<T>(p, cols, taps, line - r.lo, sum);
    } else {
      window_rows(p, x, d, h,
                  [&](const T* row) __attribute__((always_inline)) { add_windows<T>(p, cols, taps, row, sum); });
    }
    for (std::int64_t j = 0; j < n; ++j) y[w0 + j] = sum[j] / count[j];
  }
}

// Adds the row's gradients into the plane; the reverse of average_row.
template <class T>
void average_grad_row(const Pool& p, Span& cols, T* x, const T* y, const Window& d, const Window& h) {
  if (pairs::fit(p)) return pairs::average_grad_row(p, x, y, d, h, divisor_of<T>(p, d, h, 2));
  for (std::int64_t w0 = 0; w0 < p.out[2]; w0 += kSpan) {
    place_span(p, cols, w0);
    const std::int64_t n = cols.n;
    const Taps taps = by_windows(p) ? Taps{0, 0} : taps_of(p, cols);
    T share[kSpan];
    for (std::int64_t j = 0; j < n; ++j) share[j] = y[w0 + j] / divisor_of<T>(p, d, h, cols.span[j]);
    if (Reach r; by_columns(p, cols, d, h, r)) {
      T line[kReach];
      const std::int64_t width = r.hi - r.lo;
      for (std::int64_t c = 0; c < width; ++c) line[c] = 0;
      spread_windows<T>(p, cols, taps, share, line - r.lo);
      window_rows(p, x, d, h, [&](T* row) __attribute__((always_inline)) {
        for (std::int64_t c = 0; c < width; ++c) row[r.lo + c] += line[c];
      });
    } else {
      window_rows(p, x, d, h,
                  [&](T* row) __attribute__((always_inline)) { spread_windows<T>(p, cols, taps, share, row); });
    }
  }
}

std::int64_t volume(const std::int64_t* n) { return n[0] * n[1] * n[2]; }

// Planes per chunk so that a chunk reads or writes at least 32 Ki elements.
std::int64_t plane_grain(std::int64_t elements) { return elements >= 32768 ? 1 : 32768 / (elements + 1) + 1; }

template <class T>
void max_kernel(const Pool& p) {
  if (max_pool(p, static_cast<const T*>(p.x))) return;
  const std::int64_t in = volume(p.in), out = volume(p.out), lines = p.out[0] * p.out[1];
  const std::int64_t line_work = larger(1, in / larger(1, lines));
  parallel_for(p.planes * lines, plane_grain(line_work), [&](std::int64_t b, std::int64_t e) {
    Span cols;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t plane = u / lines, line = u % lines;
      const Window d = window_of(p, 0, line / p.out[1]), h = window_of(p, 1, line % p.out[1]);
      const std::int64_t at = plane * out + line * p.out[2];
      std::int64_t* const index = p.index ? p.index + at : p.pixel ? p.pixel + at : nullptr;
      max_row(p, cols, static_cast<const T*>(p.x) + plane * in, static_cast<T*>(p.y) + at, index, d, h);
      if (p.pixel)
        for (std::int64_t i = 0; i < p.out[2]; ++i) p.pixel[at + i] = index[i] / p.in[2];
    }
  });
}

template <class T>
void average_kernel(const Pool& p) {
  const std::int64_t in = volume(p.in), out = volume(p.out), lines = p.out[0] * p.out[1];
  const std::int64_t line_work = larger(1, in / larger(1, lines));
  parallel_for(p.planes * lines, plane_grain(line_work), [&](std::int64_t b, std::int64_t e) {
    Span cols;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t plane = u / lines, line = u % lines;
      const Window d = window_of(p, 0, line / p.out[1]), h = window_of(p, 1, line % p.out[1]);
      average_row(p, cols, static_cast<const T*>(p.x) + plane * in,
                  static_cast<T*>(p.y) + plane * out + line * p.out[2], d, h);
    }
  });
}

template <class T>
void average_grad_kernel(const Pool& p) {
  const std::int64_t in = volume(p.in), out = volume(p.out);
  parallel_for(p.planes, plane_grain(in + out), [&](std::int64_t b, std::int64_t e) {
    Span cols;
    for (std::int64_t plane = b; plane < e; ++plane) {
      T* x = static_cast<T*>(p.x) + plane * in;
      for (std::int64_t i = 0; i < in; ++i) x[i] = T(0);
      for (std::int64_t line = 0; line < p.out[0] * p.out[1]; ++line)
        average_grad_row(p, cols, x, static_cast<const T*>(p.y) + plane * out + line * p.out[2],
                         window_of(p, 0, line / p.out[1]), window_of(p, 1, line % p.out[1]));
    }
  });
}

std::int64_t first_bad(const PlaneIndex& p) {
  for (std::int64_t i = 0; i < p.planes * p.narrow_size; ++i)
    if (static_cast<std::uint64_t>(p.index[i]) >= static_cast<std::uint64_t>(p.wide_size)) return i;
  return -1;
}

// fn(wide plane, narrow plane, index plane) for all planes, after the indices were checked.
template <class T, class F>
std::int64_t each_plane(const PlaneIndex& p, const F& fn) {
  const std::int64_t bad = p.trusted ? -1 : first_bad(p);
  if (bad >= 0) return bad;
  parallel_for(p.planes, plane_grain(p.wide_size + p.narrow_size), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t plane = b; plane < e; ++plane)
      fn(static_cast<T*>(p.wide) + plane * p.wide_size, static_cast<T*>(p.narrow) + plane * p.narrow_size,
         p.index + plane * p.narrow_size);
  });
  return -1;
}

template <class T>
std::int64_t gather_kernel(const PlaneIndex& p) {
  return each_plane<T>(p, [&](const T* wide, T* narrow, const std::int64_t* index) {
    for (std::int64_t i = 0; i < p.narrow_size; ++i) narrow[i] = wide[index[i]];
  });
}
template <class T>
std::int64_t scatter_add_kernel(const PlaneIndex& p) {
  return each_plane<T>(p, [&](T* wide, const T* narrow, const std::int64_t* index) {
    for (std::int64_t i = 0; i < p.wide_size; ++i) wide[i] = T(0);
    for (std::int64_t i = 0; i < p.narrow_size; ++i) wide[index[i]] += narrow[i];
  });
}
template <class T>
std::int64_t place_kernel(const PlaneIndex& p) {
  return each_plane<T>(p, [&](T* wide, const T* narrow, const std::int64_t* index) {
    for (std::int64_t i = 0; i < p.wide_size; ++i) wide[i] = T(0);
    for (std::int64_t i = 0; i < p.narrow_size; ++i) wide[index[i]] = narrow[i];
  });
}

}  // namespace

void register_pool(KernelTable& t) {
  PoolKernels& k = family<PoolKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.max[idx<T>] = max_kernel<T>;
    k.average[idx<T>] = average_kernel<T>;
    k.average_grad[idx<T>] = average_grad_kernel<T>;
    k.gather[idx<T>] = gather_kernel<T>;
    k.scatter_add[idx<T>] = scatter_add_kernel<T>;
    k.place[idx<T>] = place_kernel<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
