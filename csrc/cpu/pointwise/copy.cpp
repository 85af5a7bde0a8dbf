// Copies with conversion, and selection.
#include <cstring>

#include "cpu/pointwise/loop.h"
#include "cpu/row_copy.h"
#include "functors/convert.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Moves both sides to plane number `plane`, counted over the axes from the third on.
template <class W>
inline void move_to(const Elementwise& e, std::int64_t plane, W*& out, const W*& in) {
  for (int d = 2; d < e.ndim; ++d) {
    out += plane % e.size[d] * e.stride[0][d];
    in += plane % e.size[d] * e.stride[1][d];
    plane /= e.size[d];
  }
}

// A transposition: the output runs along axis 0, the input along axis 1. Square tiles touch every cache line of both
// sides once; going row by row would fetch a line of the input for each element.
template <class W>
void transpose(const Elementwise& e) {
  constexpr std::int64_t kTile = 32;
  const std::int64_t cols = e.size[0], rows = e.size[1], bands = (rows + kTile - 1) / kTile;
  const std::int64_t out_row = e.stride[0][1], in_col = e.stride[1][0];
  parallel_for(e.numel / (cols * rows) * bands, cols * kTile >= kGrain ? 1 : kGrain / (cols * kTile),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t task = begin; task < end; ++task) {
                   W* out = static_cast<W*>(e.data[0]);
                   const W* in = static_cast<const W*>(e.data[1]);
                   move_to(e, task / bands, out, in);
                   const std::int64_t r0 = task % bands * kTile, r1 = r0 + kTile < rows ? r0 + kTile : rows;
                   for (std::int64_t c0 = 0; c0 < cols; c0 += kTile)
                     transpose_tile(out + r0 * out_row + c0, out_row, in + c0 * in_col + r0, in_col, r1 - r0,
                                    c0 + kTile < cols ? kTile : cols - c0);
                 }
               });
}

// One row of a copy whose output is dense.
template <class W>
inline void copy_row(W* out, const W* in, std::int64_t n, std::int64_t stride) {
  if (stride == 1) {
    copy_run(out, in, n);
  } else if (stride == 0) {
    const W v = in[0];
    for (std::int64_t i = 0; i < n; ++i) out[i] = v;
  } else if (stride == -1) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = in[-i];
  } else if (stride == 2) {
    for (std::int64_t i = 0; i < n; ++i) out[i] = in[2 * i];
  } else {
    for (std::int64_t i = 0; i < n; ++i) out[i] = in[i * stride];
  }
}

// Whether a copy into one run of memory leaves past the caches: 42 MB take 1.33 ms instead of 1.73, filled 0.46 instead
// of 0.55. Short rows from all over memory do not gain by it.
bool past_caches(const Elementwise& e, std::int64_t width) {
  return num_threads() > 1 && e.numel * width >= kPastCaches &&
         reinterpret_cast<std::uintptr_t>(e.data[0]) % kCacheLine == 0;
}
template <class W>
void leave_row(W* out, const W* in, std::int64_t n, std::int64_t stride) {
  constexpr auto width = static_cast<std::int64_t>(sizeof(W));
  if (stride == 1) {
    copy_past_caches(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(in), n * width);
  } else {
    alignas(64) W buffer[kBlock];
    std::int64_t m;
    for (std::int64_t i = 0; i < n; i += m) {
      m = n - i < kBlock ? n - i : kBlock;
      if (i == 0 || stride != 0) copy_row(buffer, in + i * stride, m, stride);
      copy_past_caches(reinterpret_cast<char*>(out + i), reinterpret_cast<const char*>(buffer), m * width);
    }
  }
  past_caches_done();
}

// move(out, in) for the first elements of all rows along axis 0. The loop has copies of what it needs: what `move`
// writes might be any variable in memory.
template <class W, class Move>
void each_row(const Elementwise& e, const Move move) {
  const std::int64_t inner = e.size[0], rows = e.numel / inner;
  const std::int64_t out_step = e.stride[0][1], in_step = e.stride[1][1];
  parallel_for(rows, inner >= kGrain ? 1 : kGrain / inner, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t to_step = out_step, from_step = in_step, width = inner;
    const Move go = move;
    const bool far =
        e.stride[1][0] == 1 && width * static_cast<std::int64_t>(sizeof(W)) < from_step * 4 && width <= 512;
    for (std::int64_t r = begin; r < end;) {
      W* out = static_cast<W*>(e.data[0]);
      const W* in = static_cast<const W*>(e.data[1]);
      const std::int64_t at = r % e.size[1], left = e.size[1] - at;
      out += at * to_step;
      in += at * from_step;
      move_to(e, r / e.size[1], out, in);
      const std::int64_t run = left < end - r ? left : end - r;
      if (far) {  // short rows far apart, which no prefetcher follows
        for (std::int64_t i = 0; i < run; ++i, out += to_step, in += from_step) {
          for (std::int64_t c = 0; c < width; c += 64 / static_cast<std::int64_t>(sizeof(W)))
            __builtin_prefetch(in + 8 * from_step + c);
          go(out, in);
        }
      } else {
        for (std::int64_t i = 0; i < run; ++i, out += to_step, in += from_step) go(out, in);
      }
      r += run;
    }
  });
}

// Copies into dense rows (heads moved apart, slices, flips, broadcasts): the general walk would stage the input in a
// buffer, and costs more than moving short rows.
template <class W>
void copy_rows(const Elementwise& e) {
  const std::int64_t inner = e.size[0], stride = e.stride[1][0];
  if (e.ndim == 1) {
    const bool leaves = past_caches(e, sizeof(W));
    parallel_for(inner, kGrain, [&](std::int64_t begin, std::int64_t end) {
      W* const out = static_cast<W*>(e.data[0]) + begin;
      const W* const in = static_cast<const W*>(e.data[1]) + begin * stride;
      leaves ? leave_row(out, in, end - begin, stride) : copy_row(out, in, end - begin, stride);
    });
    return;
  }
  constexpr auto width = static_cast<std::int64_t>(sizeof(W));
  const std::int64_t bytes = inner * width;
  if (stride == 1 && bytes >= 2 && bytes <= 4 * kVectorBytes)
    return choose_pieces(bytes, [&]<int kPiece, int kCount>() {
      each_row<W>(e, [bytes](W* out, const W* in) __attribute__((always_inline)) {
        copy_pieces<kPiece, kCount>(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(in), bytes);
      });
    });
  each_row<W>(e, [=](W* out, const W* in) { copy_row(out, in, inner, stride); });
}

// Equal dtypes and selection move bits: one kernel per element size.
template <class T>
void copy_same(const Elementwise& e) {
  using W = word_t<T>;
  if (e.ndim >= 2 && e.stride[0][0] == 1 && (e.stride[1][0] == 1 || e.stride[1][0] == 0)) return copy_rows<W>(e);
  for (int k = 1; k < e.ndim && e.stride[0][0] == 1; ++k) {
    if (e.stride[1][k] != 1 || e.size[k] < 8) continue;
    Elementwise swapped = e;  // the input's dense axis as axis 1
    swapped.size[1] = e.size[k];
    swapped.size[k] = e.size[1];
    for (int i = 0; i < 2; ++i) {
      swapped.stride[i][1] = e.stride[i][k];
      swapped.stride[i][k] = e.stride[i][1];
    }
    return transpose<W>(swapped);
  }
  if (e.stride[0][0] == 1) return copy_rows<W>(e);
  map1<Same, W, W>(e);
}
template <class T>
void where_kernel(const Elementwise& e) {
  map3<Select, word_t<T>, std::uint8_t, word_t<T>>(e);
}

// To and from 16-bit floats: the conversion itself is all there is to do, so dense tensors need no staging buffer.
template <class To, class From>
void convert(const Elementwise& e) {
  if constexpr (sizeof(compute_t<To>) != sizeof(To) || sizeof(compute_t<From>) != sizeof(From)) {
    if constexpr (std::is_same_v<compute_t<To>, float> && std::is_same_v<compute_t<From>, float> &&
                  (sizeof(To) == 4 || sizeof(From) == 4)) {
      if (e.ndim == 1 && e.stride[0][0] == 1 && e.stride[1][0] == 1) {
        parallel_for(e.numel, kGrain, [&](std::int64_t b, std::int64_t end) {
          char* to = static_cast<char*>(e.data[0]) + b * static_cast<std::int64_t>(sizeof(To));
          const char* from = static_cast<const char*>(e.data[1]) + b * static_cast<std::int64_t>(sizeof(From));
          if constexpr (sizeof(To) == 4)
            load<float, From>(end - b, to, from, 1);
          else
            store<float, To>(end - b, to, 1, from);
        });
        return;
      }
    }
  }
  map1<Convert<compute_t<To>>, To, From>(e);
}

template <class To, class... From>
void fill_to(PointwiseKernels& k, Types<From...>) {
  ((k.copy[idx<To>][idx<From>] = convert<To, From>), ...);
  k.copy[idx<To>][idx<To>] = copy_same<To>;
  k.where[idx<To>] = where_kernel<To>;
}
template <class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  (fill_to<Ts>(k, all), ...);
}

}  // namespace

void register_copy(KernelTable& t) { fill(family<PointwiseKernels>(t), AllTypes{}); }

}  // namespace pydlx::PYDLX_ISA
