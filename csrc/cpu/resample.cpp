// Sparse maps along one axis, and sliding blocks. Every output element is one sum in table order; fold works plane by
// plane.
#include "kernels/resample.h"

#include "cpu/gemm/vec.h"
#include "cpu/isa.h"
#include "cpu/row_copy.h"
#include "functors/types.h"
#include "kernels/pool.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kWork = 32768;  // elements per parallel chunk

inline __attribute__((always_inline)) std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Every output copies one input.
bool one_tap_each(const AxisMap& m) {
  for (std::int64_t j = 0; j < m.out; ++j)
    if (m.start[j] != j || m.start[j + 1] != j + 1 || m.weight[j] != 1) return false;
  return true;
}

constexpr int kTogether = 256, kMostTaps = 8;

// Sums of equally many taps for neighbouring outputs.
template <class T>
struct TapTable {
  const AxisMap& m;
  std::int64_t column, first, taps;
  int count;
  alignas(64) T weight[kMostTaps][kTogether];
  alignas(64) std::int32_t index[kMostTaps][kTogether];

  TapTable(const AxisMap& map, std::int64_t j0, int outputs, std::int64_t each)
      : m(map), column(j0), first(m.start[j0]), taps(each), count(outputs) {
    if (taps > kMostTaps || count < 8 || m.in > INT32_MAX) return;
    sum_ = kSums[taps];
    for (int j = 0; j < count; ++j)
      for (std::int64_t k = 0; k < taps; ++k) {
        weight[k][j] = static_cast<T>(m.weight[first + j * taps + k]);
        index[k][j] = static_cast<std::int32_t>(m.index[first + j * taps + k]);
      }
  }
  // Rows [begin, end).
  void run(std::int64_t begin, std::int64_t end) const { (this->*sum_)(begin, end); }

 private:
  using Sum = void (TapTable::*)(std::int64_t, std::int64_t) const;
  // Of the turned table.
  template <int N>
  void sum(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t o = begin; o < end; ++o) {
      const T* src = static_cast<const T*>(m.x) + o * m.in;
      T* dst = static_cast<T*>(m.y) + o * m.out + column;
#pragma omp simd
      for (int j = 0; j < count; ++j) {
        T total = 0;
#pragma GCC unroll 8
        for (int k = 0; k < N; ++k) total += weight[k][j] * src[index[k][j]];
        dst[j] = total;
      }
    }
  }
  // Of the map as it is.
  void sum_singly(std::int64_t begin, std::int64_t end) const {
    for (std::int64_t o = begin; o < end; ++o) {
      const T* src = static_cast<const T*>(m.x) + o * m.in;
      T* dst = static_cast<T*>(m.y) + o * m.out + column;
      std::int64_t k = first;
      for (int j = 0; j < count; ++j) {
        T total = 0;
        for (const std::int64_t stop = k + taps; k < stop; ++k) total += static_cast<T>(m.weight[k]) * src[m.index[k]];
        dst[j] = total;
      }
    }
  }
  static constexpr Sum kSums[kMostTaps + 1] = {
      &TapTable::template sum<0>, &TapTable::template sum<1>, &TapTable::template sum<2>,
      &TapTable::template sum<3>, &TapTable::template sum<4>, &TapTable::template sum<5>,
      &TapTable::template sum<6>, &TapTable::template sum<7>, &TapTable::template sum<8>};
  Sum sum_ = &TapTable::sum_singly;
};

template <class T>
void axis_map(const AxisMap& m) {
  const T* x = static_cast<const T*>(m.x);
  T* y = static_cast<T*>(m.y);
  if (m.inner == 1 && one_tap_each(m)) {  // nearest neighbours: a gather
    parallel_for(m.outer, kWork / (m.out + 1) + 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t o = b; o < e; ++o) {
        const T* src = x + o * m.in;
        T* dst = y + o * m.out;
#pragma omp simd
        for (std::int64_t j = 0; j < m.out; ++j) dst[j] = src[m.index[j]];
      }
    });
    return;
  }
  if (m.inner == 1) {  // the last axis: rows of the table are short dot products
    parallel_for(m.outer, kWork / (m.out + 1) + 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t j0 = 0; j0 < m.out;) {
        // Neighbours of as many taps are summed together, their table turned to one row per tap.
        const std::int64_t taps = m.start[j0 + 1] - m.start[j0];
        std::int64_t j1 = j0 + 1;
        while (j1 < m.out && j1 - j0 < kTogether && m.start[j1 + 1] - m.start[j1] == taps) ++j1;
        const TapTable<T> table(m, j0, static_cast<int>(j1 - j0), taps);
        table.run(b, e);
        j0 = j1;
      }
    });
    return;
  }
  parallel_for(m.outer * m.out, kWork / (m.inner + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t j = u % m.out;
      const T* src = x + u / m.out * m.in * m.inner;
      T* dst = y + u * m.inner;
      std::int64_t k = m.start[j];
      const std::int64_t end = m.start[j + 1];
      if (k == end) {
        for (std::int64_t i = 0; i < m.inner; ++i) dst[i] = T(0);
        continue;
      }
      const T first = static_cast<T>(m.weight[k]);
      const T* row = src + m.index[k] * m.inner;
      if (first == T(1))
        std::memcpy(dst, row, static_cast<std::size_t>(m.inner) * sizeof(T));
      else
        for (std::int64_t i = 0; i < m.inner; ++i) dst[i] = first * row[i];
      for (++k; k < end; ++k) {
        const T w = static_cast<T>(m.weight[k]);
        const T* next = src + m.index[k] * m.inner;
        for (std::int64_t i = 0; i < m.inner; ++i) dst[i] += w * next[i];
      }
    }
  });
}

// A row's table in pieces: output columns [to, to + count) read input columns from, from + step, ...; step 0 with from
// < 0 is the value.
struct Piece {
  std::int64_t to, count, from, step;
};
constexpr int kMaxPieces = 16;

// How a row is written: from pieces (padding), every input twice (upsampling), or column by column (kind other).
struct RowPlan {
  enum Kind { pieces, twice, other } kind = other;
  int count = 0;
  Piece piece[kMaxPieces];
};

RowPlan plan_row(const std::int64_t* index, std::int64_t n) {
  RowPlan p;
  bool twice = n >= 2;
  for (std::int64_t j = 0; j < n && twice; ++j) twice = index[j] == j / 2;
  if (twice) {
    p.kind = RowPlan::twice;
    return p;
  }
  for (std::int64_t j = 0; j < n;) {
    if (p.count == kMaxPieces) return p;
    Piece& s = p.piece[p.count++];
    s = {j, 1, index[j], j + 1 < n ? index[j + 1] - index[j] : 0};
    if (index[j] < 0) s.from = -1, s.step = 0;
    if (s.step < -1 || s.step > 1) s.step = 0;
    const auto follows = [&](std::int64_t k) {
      return s.from < 0 ? index[k] < 0 : index[k] >= 0 && index[k] == s.from + s.count * s.step;
    };
    for (++j; j < n && follows(j); ++j) ++s.count;
  }
  p.kind = RowPlan::pieces;
  return p;
}

// A short row as whole vectors (half ones for elements of two bytes): those between copy, those at the ends pick their
// elements from one vector of the input each, or are the value. The last one may overlap the one before. Pieces of a
// few elements would cost more than the rest of the row.
constexpr int kMaxEdges = 4;
template <class W>
struct Weave {
  static constexpr int kBytes = sizeof(W) == 2 ? kVectorBytes / 2 : kVectorBytes;
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(W));
  typedef W Words __attribute__((vector_size(kBytes)));
  struct Edge {
    Words pick, fill;
    std::int64_t to, from;
  };
  bool fits = false;  // the row is of this kind
  int edges = 0;
  std::int64_t first = 0, last = 0, shift = 0;  // vectors from `first` to before `last` copy, from `shift` further
  Edge edge[kMaxEdges];

  bool add_edge(const std::int64_t* index, std::int64_t to, std::int64_t in) {
    if (edges == kMaxEdges) return false;
    Edge& e = edge[edges++];
    e.to = to;
    std::int64_t low = in - kLanes, high = 0;
    for (int l = 0; l < kLanes; ++l) {
      const std::int64_t k = index[to + l];
      if (k < 0) continue;
      low = k < low ? k : low;
      high = k > high ? k : high;
    }
    e.from = low;
    for (int l = 0; l < kLanes; ++l) {
      const std::int64_t k = index[to + l];
      e.pick[l] = k < 0 ? W(0) : static_cast<W>(k - low);
      e.fill[l] = k < 0 ? static_cast<W>(-1) : W(0);
    }
    return high - low < kLanes;
  }
  void plan(const std::int64_t* index, std::int64_t out, std::int64_t in) {
    if (kVectorBytes < 32 || out < kLanes || in < kLanes || out > 64 * kLanes) return;
    const auto copies = [&](std::int64_t to) {
      for (int l = 0; l < kLanes; ++l)
        if (index[to + l] < 0 || index[to + l] != index[to] + l) return false;
      return true;
    };
    std::int64_t to = 0;
    for (; to + kLanes <= out && !copies(to); to += kLanes)
      if (!add_edge(index, to, in)) return;
    first = to;
    shift = to + kLanes <= out ? index[to] - to : 0;
    for (; to + kLanes <= out && copies(to) && index[to] == to + shift; to += kLanes) {}
    last = to;
    for (; to < out; to += kLanes)
      if (!add_edge(index, to + kLanes <= out ? to : out - kLanes, in)) return;
    fits = edges > 0;
  }
};

template <int kEdges, class W>
inline __attribute__((always_inline)) void weave_row(const Weave<W>& w, W* y, const W* x, W value) {
  for (int k = 0; k < kEdges; ++k) {
    typename Weave<W>::Words v;
    std::memcpy(&v, x + w.edge[k].from, sizeof v);
    v = (__builtin_shuffle(v, w.edge[k].pick) & ~w.edge[k].fill) | (w.edge[k].fill & value);
    std::memcpy(y + w.edge[k].to, &v, sizeof v);
  }
  for (std::int64_t c = w.first; c < w.last; c += Weave<W>::kLanes)
    std::memcpy(y + c, x + c + w.shift, Weave<W>::kBytes);
}

// Output rows [b, e).
template <int kEdges, class W>
void weave_rows(const PlaneMap& m, const Weave<W>& shared, std::int64_t b, std::int64_t e) {
  const Weave<W> w = shared;  // a copy that stores to y cannot change, and registers may hold
  W value;
  std::memcpy(&value, m.value, sizeof value);
  const std::int64_t n = m.out[2], in_row = m.in[2], rows = m.out[0] * m.out[1];
  std::int64_t o = b / rows, i = b % rows / m.out[1], j = b % m.out[1];
  W* y = static_cast<W*>(m.y) + b * n;
  while (b < e) {
    const std::int64_t p = m.index[0][i], run = m.out[1] - j < e - b ? m.out[1] - j : e - b;
    const std::int64_t* const row = m.index[1] + j;
    const W* const volume = static_cast<const W*>(m.x) + o * m.in[0] * m.in[1] * in_row;
    for (std::int64_t k = 0; k < run; ++k, y += n) {
      if (p < 0 || row[k] < 0)
        for (std::int64_t c = 0; c < n; ++c) y[c] = value;
      else
        weave_row<kEdges, W>(w, y, volume + (p * m.in[1] + row[k]) * in_row, value);
    }
    b += run;
    j = 0;
    if (++i == m.out[0]) i = 0, ++o;
  }
}

template <class W>
inline __attribute__((always_inline)) void write_row(const RowPlan& p, const std::int64_t* index, W* y, const W* x,
                                                     std::int64_t n, W value) {
  if (p.kind == RowPlan::twice) {
    std::int64_t j = 0;
    if constexpr (sizeof(W) == 4) {
      constexpr std::int64_t kStep = kLanesOf<float>;
      for (; j + 2 * kStep <= n; j += 2 * kStep) {
        const Vector<float> v = load(reinterpret_cast<const float*>(x + j / 2));
        store(reinterpret_cast<float*>(y + j), interleave<float, 0>(v, v));
        store(reinterpret_cast<float*>(y + j + kStep), interleave<float, 1>(v, v));
      }
    }
    for (; j + 2 <= n; j += 2) y[j] = y[j + 1] = x[j / 2];
    if (j < n) y[j] = x[j / 2];
  } else if (p.kind == RowPlan::pieces) {
    for (int k = 0; k < p.count; ++k) {
      const Piece& s = p.piece[k];
      W* to = y + s.to;
      if (s.step == 1) {
        copy_run(to, x + s.from, s.count);
      } else if (s.step == 0) {
        const W v = s.from < 0 ? value : x[s.from];
        for (std::int64_t i = 0; i < s.count; ++i) to[i] = v;
      } else {
        for (std::int64_t i = 0; i < s.count; ++i) to[i] = x[s.from - i];
      }
    }
  } else {
    for (std::int64_t j = 0; j < n; ++j) y[j] = index[j] < 0 ? value : x[index[j]];
  }
}

template <class W>
void plane_map(const PlaneMap& m) {
  const std::int64_t n = m.out[2], rows = m.out[0] * m.out[1];
  const RowPlan plan = plan_row(m.index[2], n);
  if constexpr (sizeof(W) > 1) {
    Weave<W> weave;
    if (plan.kind == RowPlan::pieces && plan.count > 1) weave.plan(m.index[2], n, m.in[2]);
    if (weave.fits) {
      const auto fn = weave.edges <= 1   ? weave_rows<1, W>
                      : weave.edges == 2 ? weave_rows<2, W>
                      : weave.edges == 3 ? weave_rows<3, W>
                                         : weave_rows<4, W>;
      parallel_for(m.outer * rows, kWork / (n + 1) + 1,
                   [&](std::int64_t begin, std::int64_t end) { fn(m, weave, begin, end); });
      return;
    }
  }
  W value;
  std::memcpy(&value, m.value, sizeof value);
  parallel_for(m.outer * rows, kWork / (n + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    std::int64_t o = b / rows, i = b % rows / m.out[1], j = b % m.out[1], before = -2;
    const W* const all = static_cast<const W*>(m.x);
    for (std::int64_t u = b; u < e; ++u) {
      W* y = static_cast<W*>(m.y) + u * n;
      const std::int64_t p = m.index[0][i], q = m.index[1][j],
                         row = p < 0 || q < 0 ? -1 : (o * m.in[0] + p) * m.in[1] + q;
      if (row < 0) {
        for (std::int64_t k = 0; k < n; ++k) y[k] = value;
      } else if (row == before && plan.kind != RowPlan::pieces) {
        copy_run(y, y - n, n);  // the row just written
      } else {
        write_row(plan, m.index[2], y, all + row * m.in[2], n, value);
      }
      before = row;
      if (++j == m.out[1]) {
        j = 0;
        if (++i == m.out[0]) i = 0, ++o;
      }
    }
  });
}

// Calls fn(tap row of y, source row or null, first and last column inside) for every (tap, output row) of a plane.
template <class F>
inline __attribute__((always_inline)) void each_block_row(const Pool& p, const F& fn) {
  const std::int64_t taps = p.kernel[1] * p.kernel[2], rows = p.out[1], cols = p.out[2];
  for (std::int64_t t = 0; t < taps; ++t) {
    const std::int64_t shift = t % p.kernel[2] * p.dilation[2] - p.pad[2];
    const std::int64_t lo = shift >= 0 ? 0 : ceil_div(-shift, p.stride[2]);
    std::int64_t hi = shift >= p.in[2] ? 0 : ceil_div(p.in[2] - shift, p.stride[2]);
    hi = hi < cols ? hi : cols;
    for (std::int64_t o = 0; o < rows; ++o) {
      const std::int64_t h = o * p.stride[1] - p.pad[1] + t / p.kernel[2] * p.dilation[1];
      const bool inside = h >= 0 && h < p.in[1] && lo < hi;
      fn((t * rows + o) * cols, inside ? h * p.in[2] + shift : 0, inside ? lo : cols, inside ? hi : cols);
    }
  }
}

std::int64_t plane_grain(const Pool& p) {
  return kWork / (p.kernel[1] * p.kernel[2] * p.out[1] * p.out[2] + p.in[1] * p.in[2] + 1) + 1;
}

template <class T>
void unfold(const Pool& p) {
  const std::int64_t in = p.in[1] * p.in[2], out = p.kernel[1] * p.kernel[2] * p.out[1] * p.out[2], s = p.stride[2],
                     cols = p.out[2];
  parallel_for(p.planes, plane_grain(p), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t plane = b; plane < e; ++plane) {
      const T* x = static_cast<const T*>(p.x) + plane * in;
      T* y = static_cast<T*>(p.y) + plane * out;
      each_block_row(p, [&](std::int64_t to, std::int64_t from, std::int64_t lo, std::int64_t hi) {
        T* dst = y + to;
        for (std::int64_t j = 0; j < lo; ++j) dst[j] = T(0);
        for (std::int64_t j = lo; j < hi; ++j) dst[j] = x[from + j * s];
        for (std::int64_t j = hi; j < cols; ++j) dst[j] = T(0);
      });
    }
  });
}

template <class T>
void fold(const Pool& p) {
  const std::int64_t in = p.in[1] * p.in[2], out = p.kernel[1] * p.kernel[2] * p.out[1] * p.out[2], s = p.stride[2];
  parallel_for(p.planes, plane_grain(p), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t plane = b; plane < e; ++plane) {
      T* x = static_cast<T*>(p.x) + plane * in;
      const T* y = static_cast<const T*>(p.y) + plane * out;
      for (std::int64_t i = 0; i < in; ++i) x[i] = T(0);
      each_block_row(p, [&](std::int64_t from, std::int64_t to, std::int64_t lo, std::int64_t hi) {
        for (std::int64_t j = lo; j < hi; ++j) x[to + j * s] += y[from + j];
      });
    }
  });
}

}  // namespace

void register_resample(KernelTable& t) {
  ResampleKernels& k = family<ResampleKernels>(t);
  k.plane_map[0] = plane_map<std::uint8_t>;
  k.plane_map[1] = plane_map<std::uint16_t>;
  k.plane_map[2] = plane_map<std::uint32_t>;
  k.plane_map[3] = plane_map<std::uint64_t>;
  each_type(WideTypes{}, [&]<class T>() {
    k.axis_map[idx<T>] = axis_map<T>;
    k.unfold[idx<T>] = unfold<T>;
    k.fold[idx<T>] = fold<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
