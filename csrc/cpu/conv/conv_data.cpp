// Convolution output and input gradient as implicit matrix products: Y[m, pixel] = sum over rows r of A[m, r] *
// panel[r, pixel], where the panel is gathered 64 pixels at a time into the L2 cache. The input gradient of a strided
// convolution is one such product per stride phase (pixels with equal index modulo the stride see the same taps), so no
// multiplication by an inserted zero ever happens.
#include "core/verbose.h"
#include "cpu/conv/channel_end.h"
#include "cpu/conv/special.h"
#include "cpu/conv/tile.h"
#include "cpu/tuning/tuning.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Rows of the panel per step.
template <class T>
constexpr std::int64_t kDepth = tuning::kPanelDepthBytes / static_cast<std::int64_t>(sizeof(T));
constexpr int kBlockRows = tuning::kTileRows, kBlockVectors = tuning::kTileVectors;

// C[i, j] (+)= sum_p A[i, p] B[p, j] for kBlockRows rows of which `m` exist, and NV vectors of columns. Rows past m
// repeat the last one. `end` (or null) begins at the first row.
template <class T, int NV>
void block_product(std::int64_t k, const T* a, std::int64_t a_row, std::int64_t a_col, const T* b, T* c,
                   std::int64_t c_row, int m, const T* start, bool add, const ChannelEnd<T>* end) {
  constexpr int L = kLanesOf<T>;
  const T* ap[kBlockRows];
  for (int i = 0; i < kBlockRows; ++i) ap[i] = a + (i < m ? i : m - 1) * a_row;
  Vector<T> acc[kBlockRows][NV];
#pragma GCC unroll 8
  for (int i = 0; i < kBlockRows; ++i) {
    const T first = start && !add && i < m ? start[i] : T(0);
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) acc[i][j] = add && i < m ? load(c + i * c_row + j * L) : Vector<T>{} + first;
  }
  for (std::int64_t p = 0; p < k; ++p) {
    Vector<T> row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = load(b + p * kTile + j * L);
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      const Vector<T> v = Vector<T>{} + ap[i][p * a_col];
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] += v * row[j];
    }
  }
  if (end)
#pragma GCC unroll 8
    for (int i = 0; i < kBlockRows; ++i) {
      const Ending<T> e = end->one(i < m ? i : m - 1);
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) acc[i][j] = e(acc[i][j]);
    }
#pragma GCC unroll 8
  for (int i = 0; i < kBlockRows; ++i) {
    if (i >= m) break;
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store(c + i * c_row + j * L, acc[i][j]);
  }
}

// One product: where its matrix A and its output pixels are.
template <class T>
struct Product {
  Source<T> source;
  std::int64_t m = 0;                      // output channels per group
  const T *a = nullptr, *start = nullptr;  // sums start from `start`, one value per channel, or zero
  ChannelEnd<T> end;
  std::int64_t a_group = 0, a_row = 0, a_col = 0;
  T* y = nullptr;
  std::int64_t y_image = 0, y_group = 0, y_row = 0,
               y_step[3];  // elements between images, groups, channels, lattice neighbours
};

template <class T>
void product_tile(const Product<T>& p, std::int64_t group, std::int64_t first, std::int64_t count, std::int64_t m0,
                  std::int64_t m1) {
  constexpr int L = kLanesOf<T>, W = L * kBlockVectors;
  alignas(64) T panel[kDepth<T> * kTile];
  alignas(64) T spill[kBlockRows * kTile];
  Tile t;
  place_tile(t, p.source, first, count);
  const Source<T>& s = p.source;
  // Where the columns go. A full tile of consecutive elements is written directly, anything else through `spill`.
  std::int64_t to[kTile];
  bool direct = count == kTile;
  {
    const std::int64_t rest = first % s.pixels();
    std::int64_t image = t.image, w = rest % s.lattice[2], h = rest / s.lattice[2] % s.lattice[1],
                 d = rest / s.lattice[2] / s.lattice[1];
    for (int j = 0; j < count; ++j) {
      to[j] = image * p.y_image + d * p.y_step[0] + h * p.y_step[1] + w * p.y_step[2];
      direct &= to[j] == to[0] + j;
      if (++w < s.lattice[2]) continue;
      w = 0;
      if (++h < s.lattice[1]) continue;
      h = 0;
      if (++d < s.lattice[0]) continue;
      d = 0;
      ++image;
    }
  }
  T* y = p.y + group * p.y_group;
  const T* start = p.start ? p.start + group * p.m : nullptr;
  const std::int64_t rows = s.rows();
  for (std::int64_t r0 = 0; r0 == 0 || r0 < rows; r0 += kDepth<T>) {
    const std::int64_t r1 = smaller(rows, r0 + kDepth<T>);
    const bool add = r0 > 0;
    if (r1 > r0) fill_panel(panel, kTile, r0, r1, t, s, group);
    for (std::int64_t i = m0; i < m1; i += kBlockRows) {
      const int m = static_cast<int>(smaller(kBlockRows, m1 - i));
      const T* a = p.a + group * p.a_group + i * p.a_row + r0 * p.a_col;
      T* c = direct ? y + i * p.y_row + to[0] : spill;
      const std::int64_t c_row = direct ? p.y_row : kTile;
      if (!direct && add)
        for (int k = 0; k < m; ++k)
          for (int j = 0; j < count; ++j) spill[k * kTile + j] = y[(i + k) * p.y_row + to[j]];
      const ChannelEnd<T> ends = p.end.from(group * p.m + i);
      const ChannelEnd<T>* end = p.end.active() && r1 == rows ? &ends : nullptr;
      int j = 0;
      for (; j + W <= kTile && j < count; j += W) {
        if (kBlockVectors == 4 && count - j <= L)
          block_product<T, 1>(r1 - r0, a, p.a_row, p.a_col, panel + j, c + j, c_row, m, start ? start + i : nullptr,
                              add, end);
        else
          block_product<T, kBlockVectors>(r1 - r0, a, p.a_row, p.a_col, panel + j, c + j, c_row, m,
                                          start ? start + i : nullptr, add, end);
      }
      if (!direct)
        for (int k = 0; k < m; ++k)
          for (int q = 0; q < count; ++q) y[(i + k) * p.y_row + to[q]] = spill[k * kTile + q];
    }
  }
}

constexpr int kDirectTaps = 64;

// A row of a unit-stride direct convolution with all taps of a vector of outputs in one register. False when the row is
// too short.
template <class T>
bool direct_row_vectors(const Product<T>& p, const T* x, T* y, const T* a, std::int64_t group, std::int64_t m,
                        std::int64_t d, std::int64_t h) {
  constexpr int L = kLanesOf<T>;
  const Source<T>& s = p.source;
  const T* row[kDirectTaps];
  T weight[kDirectTaps];
  std::int64_t shift[kDirectTaps];
  int n = 0;
  std::int64_t lo = 0, hi = s.lattice[2];  // outputs all of whose taps lie inside the row
  for (std::int64_t tw = 0; tw < s.taps[2]; ++tw) {
    lo = larger(lo, -s.offset[2][tw]);
    hi = smaller(hi, s.in[2] - s.offset[2][tw]);
  }
  if (hi - lo < L) return false;
  for (std::int64_t c = 0; c < s.channels; ++c)
    for (std::int64_t td = 0; td < s.taps[0]; ++td)
      for (std::int64_t th = 0; th < s.taps[1]; ++th) {
        const std::int64_t id = d * s.step[0] + s.offset[0][td], ih = h * s.step[1] + s.offset[1][th];
        if (id < 0 || id >= s.in[0] || ih < 0 || ih >= s.in[1]) continue;
        for (std::int64_t tw = 0; tw < s.taps[2]; ++tw, ++n) {
          const std::int64_t tap = (td * s.taps[1] + th) * s.taps[2] + tw;
          weight[n] = a[(tap * s.row_tap + c * s.row_channel) * p.a_col];
          shift[n] = s.offset[2][tw];
          row[n] = x + c * s.x_channel + (id * s.in[1] + ih) * s.in[2];
        }
      }
  const T start = p.start ? p.start[group * p.m + m] : T(0);
  const bool ends = p.end.active();
  const Ending<T> end = p.end.one(group * p.m + m);
  for (std::int64_t j = lo; j < hi; j += L) {
    if (j > hi - L) j = hi - L;  // the last vector overlaps the one before it
    Vector<T> acc = Vector<T>{} + start;
    for (int t = 0; t < n; ++t) acc += weight[t] * load(row[t] + shift[t] + j);
    store(y + j, ends ? end(acc) : acc);
  }
  const auto edge = [&](std::int64_t j) {
    T acc = start;
    for (int t = 0; t < n; ++t) {
      const std::int64_t i = j + shift[t];
      if (i >= 0 && i < s.in[2]) acc += weight[t] * row[t][i];
    }
    y[j] = ends ? end(acc) : acc;
  };
  for (std::int64_t j = 0; j < lo; ++j) edge(j);
  for (std::int64_t j = hi; j < s.lattice[2]; ++j) edge(j);
  return true;
}

// One output row segment of one channel, tap by tap: for depthwise convolutions, where a matrix product would be mostly
// padding.
template <class T>
void direct_row(const Product<T>& p, std::int64_t image, std::int64_t group, std::int64_t m, std::int64_t d,
                std::int64_t h) {
  constexpr int kSpan = 256;
  const Source<T>& s = p.source;
  const T* a = p.a + group * p.a_group + m * p.a_row;
  T* y = p.y + image * p.y_image + group * p.y_group + m * p.y_row + d * p.y_step[0] + h * p.y_step[1];
  const T* x = s.x + image * s.x_image + group * s.x_group;
  const std::int64_t step = s.step[2];
  if (step == 1 && p.y_step[2] == 1 && s.rows() <= kDirectTaps && direct_row_vectors(p, x, y, a, group, m, d, h))
    return;
  for (std::int64_t w0 = 0; w0 < s.lattice[2]; w0 += kSpan) {
    const std::int64_t n = smaller(kSpan, s.lattice[2] - w0);
    alignas(64) T acc[kSpan];
    const T start = p.start ? p.start[group * p.m + m] : T(0);
    for (std::int64_t j = 0; j < n; ++j) acc[j] = start;
    for (std::int64_t c = 0; c < s.channels; ++c)
      for (std::int64_t td = 0; td < s.taps[0]; ++td) {
        const std::int64_t id = d * s.step[0] + s.offset[0][td];
        if (id < 0 || id >= s.in[0]) continue;
        for (std::int64_t th = 0; th < s.taps[1]; ++th) {
          const std::int64_t ih = h * s.step[1] + s.offset[1][th];
          if (ih < 0 || ih >= s.in[1]) continue;
          const T* row = x + c * s.x_channel + (id * s.in[1] + ih) * s.in[2];
          for (std::int64_t tw = 0; tw < s.taps[2]; ++tw) {
            const std::int64_t tap = (td * s.taps[1] + th) * s.taps[2] + tw;
            const T v = a[(tap * s.row_tap + c * s.row_channel) * p.a_col];
            const std::int64_t start_at = w0 * step + s.offset[2][tw];  // sampled position of column 0
            const std::int64_t lo = start_at >= 0 ? 0 : ceil_div(-start_at, step);
            const std::int64_t hi = start_at >= s.in[2] ? 0 : smaller(n, ceil_div(s.in[2] - start_at, step));
            const T* src = row + start_at;
            if (step == 1)
              for (std::int64_t j = lo; j < hi; ++j) acc[j] += v * src[j];
            else
              for (std::int64_t j = lo; j < hi; ++j) acc[j] += v * src[j * step];
          }
        }
      }
    if (p.end.active()) {
      const Ending<T> end = p.end.one(group * p.m + m);
      for (std::int64_t j = 0; j < n; ++j) acc[j] = end(acc[j]);
    }
    T* out = y + w0 * p.y_step[2];
    if (p.y_step[2] == 1)
      for (std::int64_t j = 0; j < n; ++j) out[j] = acc[j];
    else
      for (std::int64_t j = 0; j < n; ++j) out[j * p.y_step[2]] = acc[j];
  }
}

// Runs `phases` products, made by `at(phase, product)`, as one parallel loop over their tiles.
template <class T, class At>
void run_products(const ConvShape& shape, std::int64_t phases, const At& at) {
  Product<T> p0;
  at(0, p0);  // the first phase has the most pixels
  const double depth = static_cast<double>(p0.source.rows()) + 1;
  const std::int64_t channels = p0.source.channels, m_total = p0.m;
  const bool thin = m_total == 1 || (channels == 1 && m_total <= 4);  // a product would be mostly padding
  if (verbose_on) verbose_note(thin ? ", row by row; not a product: too few channels" : ", implicit product in tiles");
  if (thin) {
    const std::int64_t lines = p0.source.lattice[0] * p0.source.lattice[1];
    const double work = 2 * depth * static_cast<double>(p0.source.lattice[2]);
    const std::int64_t units = phases * shape.batch * shape.groups * m_total * lines;
    parallel_for(
        units, work > 1e5 ? 1 : static_cast<std::int64_t>(1e5 / work) + 1, [&](std::int64_t b, std::int64_t e) {
          Product<T> p;
          std::int64_t made = -1;
          for (std::int64_t u = b; u < e; ++u) {
            const std::int64_t line = u % lines, m = u / lines % m_total, group = u / lines / m_total % shape.groups;
            const std::int64_t image = u / lines / m_total / shape.groups % shape.batch,
                               phase = u / lines / m_total / shape.groups / shape.batch;
            if (phase != made) at(made = phase, p);
            const std::int64_t d = line / p0.source.lattice[1], h = line % p0.source.lattice[1];
            if (d < p.source.lattice[0] && h < p.source.lattice[1]) direct_row(p, image, group, m, d, h);
          }
        });
    return;
  }
  const std::int64_t tiles = ceil_div(shape.batch * p0.source.pixels(), kTile);
  // Few tiles (deep layers, small batches): split the channels too. The split depends on the geometry only.
  const std::int64_t units = phases * shape.groups * tiles;
  const std::int64_t blocks = ceil_div(m_total, kBlockRows);
  const std::int64_t splits = units >= 16 ? 1 : smaller(ceil_div(blocks, 4), ceil_div(16, units));
  const std::int64_t share = ceil_div(blocks, splits) * kBlockRows;
  const double work = 2 * depth * kTile * static_cast<double>(smaller(m_total, share));
  parallel_for(
      units * splits, work > 1e6 ? 1 : static_cast<std::int64_t>(1e6 / work) + 1, [&](std::int64_t b, std::int64_t e) {
        Product<T> p;
        std::int64_t made = -1;
        for (std::int64_t u = b; u < e; ++u) {
          const std::int64_t split = u % splits, tile = u / splits % tiles, group = u / splits / tiles % shape.groups;
          const std::int64_t phase = u / splits / tiles / shape.groups;
          if (phase != made) at(made = phase, p);
          const std::int64_t total = shape.batch * p.source.pixels(), m0 = split * share,
                             m1 = smaller(m_total, m0 + share);
          if (tile * kTile < total && m0 < m1)
            product_tile(p, group, tile * kTile, smaller(kTile, total - tile * kTile), m0, m1);
        }
      });
}

std::int64_t volume(const std::int64_t* n) { return n[0] * n[1] * n[2]; }

template <class T>
void forward(const Conv& conv) {
  if constexpr (sizeof(T) == sizeof(float))
    if (special_conv(conv, ConvPass::forward)) return;
  const ConvShape& c = conv.shape;
  std::int64_t* table = static_cast<std::int64_t*>(conv.scratch);
  const std::int64_t* offset[3];
  for (int i = 0; i < 3; ++i) {
    offset[i] = table;
    for (std::int64_t k = 0; k < c.kernel[i]; ++k) *table++ = k * c.dilation[i] - c.pad[i];
  }
  const std::int64_t in = volume(c.in), out = volume(c.out), taps = volume(c.kernel);
  run_products<T>(c, 1, [&](std::int64_t, Product<T>& p) {
    Source<T>& s = p.source;
    s.x = static_cast<const T*>(conv.x);
    s.channels = c.cin;
    s.x_channel = in;
    s.x_group = c.cin * in;
    s.x_image = c.groups * c.cin * in;
    for (int i = 0; i < 3; ++i) {
      s.lattice[i] = c.out[i];
      s.step[i] = c.stride[i];
      s.in[i] = c.in[i];
      s.offset[i] = offset[i];
      s.taps[i] = c.kernel[i];
    }
    s.tap_count = taps;
    s.row_tap = 1;
    s.row_channel = taps;
    p.m = c.cout;
    p.a = static_cast<const T*>(conv.w);
    p.start = start_of<T>(conv);
    p.end = end_of<T>(conv);
    p.a_row = c.cin * taps;
    p.a_col = 1;
    p.a_group = c.cout * p.a_row;
    p.y = static_cast<T*>(conv.y);
    p.y_row = out;
    p.y_group = c.cout * out;
    p.y_image = c.groups * p.y_group;
    p.y_step[2] = 1;
    p.y_step[1] = c.out[2];
    p.y_step[0] = c.out[1] * c.out[2];
  });
}

// Per axis, the taps sorted by phase: pixel i sees tap k when (i + pad - k * dilation) is a multiple of the stride,
// which depends on i mod stride only. `offset` is then the output index minus the lattice index.
struct PhaseTable {
  std::int64_t phases = 1;
  std::int64_t *first = nullptr, *count = nullptr;  // per phase: its range in the sorted taps
  std::int64_t *tap = nullptr, *offset = nullptr;   // per sorted tap
};

std::int64_t* make_phases(PhaseTable& t, std::int64_t* memory, const ConvShape& c, int axis) {
  const std::int64_t s = c.stride[axis];
  t.phases = smaller(s, c.in[axis]);
  t.first = memory;
  t.count = t.first + t.phases;
  t.tap = t.count + t.phases;
  t.offset = t.tap + c.kernel[axis];
  // Counting sort by phase. Taps whose phase no pixel has are left out.
  const auto phase_of = [&](std::int64_t k) {
    const std::int64_t r = (k * c.dilation[axis] - c.pad[axis]) % s;
    return r < 0 ? r + s : r;
  };
  for (std::int64_t f = 0; f < t.phases; ++f) t.count[f] = 0;
  for (std::int64_t k = 0; k < c.kernel[axis]; ++k)
    if (phase_of(k) < t.phases) ++t.count[phase_of(k)];
  std::int64_t at = 0;
  for (std::int64_t f = 0; f < t.phases; ++f) {
    t.first[f] = at;
    at += t.count[f];
    t.count[f] = 0;
  }
  for (std::int64_t k = 0; k < c.kernel[axis]; ++k) {
    const std::int64_t f = phase_of(k);
    if (f >= t.phases) continue;
    const std::int64_t i = t.first[f] + t.count[f]++;
    t.tap[i] = k;
    t.offset[i] = (f + c.pad[axis] - k * c.dilation[axis]) / s;
  }
  return t.offset + c.kernel[axis];
}

template <class T>
void input_grad(const Conv& conv) {
  if constexpr (sizeof(T) == sizeof(float))
    if (special_conv(conv, ConvPass::input_grad)) return;
  const ConvShape& c = conv.shape;
  PhaseTable t[3];
  std::int64_t* memory = static_cast<std::int64_t*>(conv.scratch);
  for (int i = 0; i < 3; ++i) memory = make_phases(t[i], memory, c, i);
  const std::int64_t in = volume(c.in), out = volume(c.out), taps = volume(c.kernel);
  // Weights as [group][sorted tap][cout][cin]: the rows of one phase are consecutive, the channels it writes are the
  // fastest axis. Sorted taps are numbered so that the product of three per-axis ranges is one range.
  T* packed = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(memory) + 63) & ~std::uintptr_t{63});
  const T* w = static_cast<const T*>(conv.w);
  const auto phase_start = [&](const std::int64_t* f) {
    return t[0].first[f[0]] * c.kernel[1] * c.kernel[2] +
           t[0].count[f[0]] * (t[1].first[f[1]] * c.kernel[2] + t[1].count[f[1]] * t[2].first[f[2]]);
  };
  const std::int64_t phases = t[0].phases * t[1].phases * t[2].phases;
  const auto phase_index = [&](std::int64_t phase, std::int64_t* f) {
    f[2] = phase % t[2].phases;
    f[1] = phase / t[2].phases % t[1].phases;
    f[0] = phase / t[2].phases / t[1].phases;
  };
  parallel_for(c.groups * c.cout, 16384 / (c.cin * taps + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t phase = 0; phase < phases; ++phase) {
      std::int64_t f[3];
      phase_index(phase, f);
      const std::int64_t n1 = t[1].count[f[1]], n2 = t[2].count[f[2]], n = t[0].count[f[0]] * n1 * n2;
      const std::int64_t start = n > 0 ? phase_start(f) : 0;
      for (std::int64_t u = b; u < e; ++u) {
        const std::int64_t g = u / c.cout, k = u % c.cout;
        const T* row = w + u * c.cin * taps;
        for (std::int64_t i = 0; i < n; ++i) {
          const std::int64_t d = t[0].tap[t[0].first[f[0]] + i / n2 / n1];
          const std::int64_t h = t[1].tap[t[1].first[f[1]] + i / n2 % n1];
          const T* src = row + (d * c.kernel[1] + h) * c.kernel[2] + t[2].tap[t[2].first[f[2]] + i % n2];
          T* dst = packed + ((g * taps + start + i) * c.cout + k) * c.cin;
          for (std::int64_t m = 0; m < c.cin; ++m) dst[m] = src[m * taps];
        }
      }
    }
  });
  run_products<T>(c, phases, [&](std::int64_t phase, Product<T>& p) {
    std::int64_t f[3];
    phase_index(phase, f);
    Source<T>& s = p.source;
    s.x = static_cast<const T*>(conv.y);
    s.channels = c.cout;
    s.x_channel = out;
    s.x_group = c.cout * out;
    s.x_image = c.groups * c.cout * out;
    s.tap_count = 1;
    for (int i = 0; i < 3; ++i) {
      s.lattice[i] = (c.in[i] - f[i] - 1) / c.stride[i] + 1;
      s.step[i] = 1;
      s.in[i] = c.out[i];
      s.offset[i] = t[i].offset + t[i].first[f[i]];
      s.taps[i] = t[i].count[f[i]];
      s.tap_count *= s.taps[i];
    }
    s.row_tap = c.cout;
    s.row_channel = 1;
    p.m = c.cin;
    p.a = packed + phase_start(f) * c.cout * c.cin;
    p.start = start_of<T>(conv);
    p.end = end_of<T>(conv);
    p.a_row = 1;
    p.a_col = c.cin;
    p.a_group = taps * c.cout * c.cin;
    p.y = static_cast<T*>(conv.x) + (f[0] * c.in[1] + f[1]) * c.in[2] + f[2];
    p.y_row = in;
    p.y_group = c.cin * in;
    p.y_image = c.groups * p.y_group;
    p.y_step[2] = c.stride[2];
    p.y_step[1] = c.stride[1] * c.in[2];
    p.y_step[0] = c.stride[0] * c.in[1] * c.in[2];
  });
}

template <class T>
std::int64_t forward_scratch(const ConvShape& c) {
  if constexpr (sizeof(T) == sizeof(float))
    if (const std::int64_t n = special_conv_scratch(c, ConvPass::forward); n >= 0) return n;
  return 8 * (c.kernel[0] + c.kernel[1] + c.kernel[2]);
}

// The weights exist, so their element count fits; only the phase tables need a check.
template <class T>
std::int64_t input_grad_scratch(const ConvShape& c) {
  if constexpr (sizeof(T) == sizeof(float))
    if (const std::int64_t n = special_conv_scratch(c, ConvPass::input_grad); n >= 0) return n;
  std::int64_t table = 0;
  for (int i = 0; i < 3; ++i) table += 2 * smaller(c.stride[i], c.in[i]) + 2 * c.kernel[i];
  return 8 * table + 64 + c.groups * c.cout * c.cin * volume(c.kernel) * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace

void register_conv_data(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    constexpr int f = static_cast<int>(ConvPass::forward), g = static_cast<int>(ConvPass::input_grad);
    k.run[f][idx<T>] = forward<T>;
    k.scratch_size[f][idx<T>] = forward_scratch<T>;
    k.run[g][idx<T>] = input_grad<T>;
    k.scratch_size[g][idx<T>] = input_grad_scratch<T>;
    if constexpr (sizeof(T) == sizeof(float)) {
      k.prepared_size[idx<T>] = special_conv_prepared;
      k.channels_last[f][idx<T>] = [](const ConvShape& c) { return special_conv_channels_last(c, ConvPass::forward); };
      k.channels_last[g][idx<T>] = [](const ConvShape& c) {
        return special_conv_channels_last(c, ConvPass::input_grad);
      };
    }
  });
}

}  // namespace pydlx::PYDLX_ISA
