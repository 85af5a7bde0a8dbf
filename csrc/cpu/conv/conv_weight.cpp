// Weight gradient: dW[k, r] = sum over pixels of dY[k, pixel] * panel[r, pixel] with r = (channel, tap). Both operands
// have the pixels as their fastest axis, so the product is a block of dot products whose accumulators are vectors along
// the pixels.
#include "cpu/conv/special.h"
#include "cpu/conv/tile.h"
#include "cpu/tuning/tuning.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {
namespace {

using tuning::kDotColumns;
using tuning::kDotRows;
// Rows of a panel held at once and pixels per chunk.
constexpr std::int64_t kPanelRows = 6 * kDotRows, kSliceRows = 8 * kDotColumns;
template <class T>
constexpr std::int64_t kChunk = tuning::kGradChunkBytes / static_cast<std::int64_t>(sizeof(T));

template <class T, int N>
inline __attribute__((always_inline)) T tree_sum(const T* p) {
  if constexpr (N == 2) {
    return p[0] + p[1];
  } else {
    typedef T H __attribute__((vector_size(N / 2 * sizeof(T)), aligned(alignof(T)), may_alias));
    T half[N / 2];
    *reinterpret_cast<H*>(half) = *reinterpret_cast<const H*>(p) + *reinterpret_cast<const H*>(p + N / 2);
    return tree_sum<T, N / 2>(half);
  }
}

// out[j * out_row + i] += <panel row i, slice row j> over n pixels; n is a multiple of the lanes.
template <class T, int COLS>
void block_dots(std::int64_t n, const T* panel, std::int64_t panel_row, int rows, const T* slice,
                std::int64_t slice_row, int cols, T* out, std::int64_t out_row) {
  constexpr int L = kLanesOf<T>;
  const T *a[kDotRows], *b[COLS];
  for (int i = 0; i < kDotRows; ++i) a[i] = panel + (i < rows ? i : rows - 1) * panel_row;
  for (int j = 0; j < COLS; ++j) b[j] = slice + (j < cols ? j : cols - 1) * slice_row;
  Vector<T> acc[kDotRows][COLS];
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < COLS; ++j) acc[i][j] = Vector<T>{};
  for (std::int64_t p = 0; p < n; p += L) {
    Vector<T> y[COLS];
#pragma GCC unroll 8
    for (int j = 0; j < COLS; ++j) y[j] = load(b[j] + p);
#pragma GCC unroll 8
    for (int i = 0; i < kDotRows; ++i) {
      const Vector<T> x = load(a[i] + p);
#pragma GCC unroll 8
      for (int j = 0; j < COLS; ++j) acc[i][j] += x * y[j];
    }
  }
  alignas(64) T lanes[L];
#pragma GCC unroll 8
  for (int i = 0; i < kDotRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < COLS; ++j) {
      store(lanes, acc[i][j]);
      const T v = tree_sum<T, L>(lanes);
      if (i < rows && j < cols) out[j * out_row + i] += v;
    }
}

struct Plan {
  std::int64_t rows, row_blocks, chunks, splits, per_split;
};
template <class T>
Plan plan_of(const ConvShape& c) {
  Plan p;
  p.rows = c.cin * c.kernel[0] * c.kernel[1] * c.kernel[2];
  p.row_blocks = ceil_div(p.rows, kPanelRows);
  p.chunks = larger(1, ceil_div(c.batch * c.out[0] * c.out[1] * c.out[2], kChunk<T>));
  // Few blocks of rows: cut the pixels as well, into parts that are summed in order at the end. Depends on the geometry
  // only.
  const std::int64_t blocks = c.groups * p.row_blocks;
  p.splits = blocks >= 16 ? 1 : smaller(p.chunks, ceil_div(16, blocks));
  p.per_split = ceil_div(p.chunks, p.splits);
  p.splits = ceil_div(p.chunks, p.per_split);
  return p;
}

template <class T>
constexpr std::int64_t kThreadScratch = (kPanelRows + kSliceRows) * kChunk<T>;

template <class T>
std::int64_t table_elements(const ConvShape& c) {  // rounded to whole cache lines
  return ((c.kernel[0] + c.kernel[1] + c.kernel[2]) * 8 / 64 + 1) * 64 / static_cast<std::int64_t>(sizeof(T));
}

template <class T>
std::int64_t weight_grad_scratch(const ConvShape& c) {
  if constexpr (sizeof(T) == sizeof(float))
    if (const std::int64_t n = special_conv_scratch(c, ConvPass::weight_grad); n >= 0) return n;
  const Plan p = plan_of<T>(c);
  const std::int64_t partial = p.splits > 1 ? p.splits * c.groups * c.cout * p.rows : 0;
  return (table_elements<T>(c) + num_threads() * kThreadScratch<T> + partial + 64) *
         static_cast<std::int64_t>(sizeof(T));
}

constexpr std::int64_t kDirectTaps = 64;

// Depthwise with unit stride: one dot product per tap, row by row, straight from the images.
template <class T>
void depthwise_weight_grad(const Conv& conv) {
  constexpr int L = kLanesOf<T>;
  const ConvShape& c = conv.shape;
  const std::int64_t in = c.in[0] * c.in[1] * c.in[2], out = c.out[0] * c.out[1] * c.out[2];
  const std::int64_t taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
  parallel_for(c.groups, 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t g = b; g < e; ++g) {
      alignas(64) T lanes[kDirectTaps * L] = {};
      T rest[kDirectTaps] = {};
      for (std::int64_t n = 0; n < c.batch; ++n)
        for (std::int64_t line = 0; line < c.out[0] * c.out[1]; ++line) {
          const T* dy = static_cast<const T*>(conv.y) + (n * c.groups + g) * out + line * c.out[2];
          const std::int64_t d = line / c.out[1] * c.stride[0] - c.pad[0], h = line % c.out[1] * c.stride[1] - c.pad[1];
          for (std::int64_t t = 0; t < taps; ++t) {
            const std::int64_t id = d + t / c.kernel[2] / c.kernel[1] * c.dilation[0],
                               ih = h + t / c.kernel[2] % c.kernel[1] * c.dilation[1];
            if (id < 0 || id >= c.in[0] || ih < 0 || ih >= c.in[1]) continue;
            const std::int64_t shift = t % c.kernel[2] * c.dilation[2] - c.pad[2];
            const T* x =
                static_cast<const T*>(conv.x) + (n * c.groups + g) * in + (id * c.in[1] + ih) * c.in[2] + shift;
            const std::int64_t hi = smaller(c.out[2], c.in[2] - shift);
            std::int64_t j = larger(0, -shift);
            Vector<T> acc = load(lanes + t * L);
            for (; j + L <= hi; j += L) acc += load(dy + j) * load(x + j);
            store(lanes + t * L, acc);
            for (; j < hi; ++j) rest[t] += dy[j] * x[j];
          }
        }
      T* dw = static_cast<T*>(conv.w) + g * taps;
      for (std::int64_t t = 0; t < taps; ++t) dw[t] = tree_sum<T, L>(lanes + t * L) + rest[t];
    }
  });
}

template <class T>
void weight_grad(const Conv& conv) {
  if constexpr (sizeof(T) == sizeof(float))
    if (special_conv(conv, ConvPass::weight_grad)) return;
  const ConvShape& c = conv.shape;
  if (c.cin == 1 && c.cout == 1 && c.groups >= 8 && c.stride[2] == 1 &&
      c.kernel[0] * c.kernel[1] * c.kernel[2] <= kDirectTaps)
    return depthwise_weight_grad<T>(conv);
  const Plan plan = plan_of<T>(c);
  T* memory = reinterpret_cast<T*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  std::int64_t* table = reinterpret_cast<std::int64_t*>(memory);
  T* buffers = memory + table_elements<T>(c);
  T* partial = buffers + num_threads() * kThreadScratch<T>;
  const std::int64_t in = c.in[0] * c.in[1] * c.in[2], out = c.out[0] * c.out[1] * c.out[2];
  const std::int64_t taps = c.kernel[0] * c.kernel[1] * c.kernel[2], total = c.batch * out,
                     size = c.groups * c.cout * plan.rows;
  Source<T> s;
  s.x = static_cast<const T*>(conv.x);
  s.channels = c.cin;
  s.x_channel = in;
  s.x_group = c.cin * in;
  s.x_image = c.groups * c.cin * in;
  for (int i = 0; i < 3; ++i) {
    s.lattice[i] = c.out[i];
    s.step[i] = c.stride[i];
    s.in[i] = c.in[i];
    s.offset[i] = table;
    s.taps[i] = c.kernel[i];
    for (std::int64_t k = 0; k < c.kernel[i]; ++k) *table++ = k * c.dilation[i] - c.pad[i];
  }
  s.tap_count = taps;
  s.row_tap = 1;
  s.row_channel = taps;

  const T* dy = static_cast<const T*>(conv.y);
  T* dw = static_cast<T*>(conv.w);
  parallel_for(c.groups * plan.row_blocks * plan.splits, 1, [&](std::int64_t b, std::int64_t e) {
    T* panel = buffers + thread_index() * kThreadScratch<T>;
    T* slice = panel + kPanelRows * kChunk<T>;
    Tile t;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t split = u % plan.splits, block = u / plan.splits % plan.row_blocks,
                         group = u / plan.splits / plan.row_blocks;
      const std::int64_t r0 = block * kPanelRows, r1 = smaller(plan.rows, r0 + kPanelRows);
      T* target = (plan.splits > 1 ? partial + split * size : dw) + group * c.cout * plan.rows + r0;
      for (std::int64_t k = 0; k < c.cout; ++k)
        for (std::int64_t r = r0; r < r1; ++r) target[k * plan.rows + r - r0] = T(0);
      const std::int64_t last = smaller(plan.chunks, (split + 1) * plan.per_split);
      for (std::int64_t chunk = split * plan.per_split; chunk < last; ++chunk) {
        const std::int64_t p0 = chunk * kChunk<T>, p1 = smaller(total, p0 + kChunk<T>), n = p1 - p0,
                           wide = ceil_div(n, kTile) * kTile;
        for (std::int64_t q = 0; q < n; q += kTile) {
          place_tile(t, s, p0 + q, smaller(kTile, n - q));
          fill_panel(panel + q, kChunk<T>, r0, r1, t, s, group);
        }
        for (std::int64_t k0 = 0; k0 < c.cout; k0 += kSliceRows) {
          const std::int64_t k1 = smaller(c.cout, k0 + kSliceRows);
          for (std::int64_t k = k0; k < k1; ++k) {
            T* to = slice + (k - k0) * kChunk<T>;
            for (std::int64_t p = p0; p < p1;) {  // image by image
              const std::int64_t image = p / out, at = p % out, run = smaller(out - at, p1 - p);
              std::memcpy(to + (p - p0), dy + ((image * c.groups + group) * c.cout + k) * out + at,
                          static_cast<std::size_t>(run) * sizeof(T));
              p += run;
            }
            for (std::int64_t j = n; j < wide; ++j) to[j] = T(0);
          }
          for (std::int64_t k = k0; k < k1; k += kDotColumns) {
            const int cols = static_cast<int>(smaller(kDotColumns, k1 - k));
            for (std::int64_t r = r0; r < r1; r += kDotRows) {
              const int rows = static_cast<int>(smaller(kDotRows, r1 - r));
              T* o = target + k * plan.rows + (r - r0);
              const T *pa = panel + (r - r0) * kChunk<T>, *sl = slice + (k - k0) * kChunk<T>;
              if (cols == 1)
                block_dots<T, 1>(wide, pa, kChunk<T>, rows, sl, kChunk<T>, cols, o, plan.rows);
              else
                block_dots<T, kDotColumns>(wide, pa, kChunk<T>, rows, sl, kChunk<T>, cols, o, plan.rows);
            }
          }
        }
      }
    }
  });
  if (plan.splits > 1)
    parallel_for(size, 16384, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t i = b; i < e; ++i) {
        T sum = partial[i];
        for (std::int64_t k = 1; k < plan.splits; ++k) sum += partial[k * size + i];
        dw[i] = sum;
      }
    });
}

}  // namespace

void register_conv_weight(KernelTable& t) {
  ConvKernels& k = family<ConvKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    constexpr int w = static_cast<int>(ConvPass::weight_grad);
    k.run[w][idx<T>] = weight_grad<T>;
    k.scratch_size[w][idx<T>] = weight_grad_scratch<T>;
    if constexpr (sizeof(T) == sizeof(float))
      k.channels_last[w][idx<T>] = [](const ConvShape& c) {
        return special_conv_channels_last(c, ConvPass::weight_grad);
      };
  });
}

}  // namespace pydlx::PYDLX_ISA
