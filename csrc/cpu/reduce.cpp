// Reductions in a fixed order: rows are cut into chunks of 4096 elements, each summed in 64 fixed lanes, and the chunks are combined
// by a fixed binary tree. The same lanes are used on every instruction set.
#include "cpu/isa.h"
#include "functors/types.h"
#include "kernels/reduce.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

constexpr std::int64_t kChunk = 4096;

template <class T>
struct AccumulatorOf {
  using type = compute_t<T>;
};
template <class T>
using acc_t = typename AccumulatorOf<T>::type;

// Sum of n <= kChunk values: 64 lanes, then a fixed tree.
template <class T>
acc_t<T> chunk_sum(const T* x, std::int64_t n, std::int64_t stride) {
  acc_t<T> lane[64] = {};
  std::int64_t i = 0;
  if (stride == 1) {
    for (; i + 64 <= n; i += 64)
      for (int l = 0; l < 64; ++l) lane[l] += static_cast<acc_t<T>>(x[i + l]);
  } else {
    for (; i + 64 <= n; i += 64)
      for (int l = 0; l < 64; ++l) lane[l] += static_cast<acc_t<T>>(x[(i + l) * stride]);
  }
  for (int l = 0; i < n; ++i, ++l) lane[l] += static_cast<acc_t<T>>(x[i * stride]);
  for (int width = 32; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

// Combines a stream of equally weighted partial sums as a binary counter does: bit k holds the sum of 2^k chunks.
template <class A>
struct PairwiseTree {
  A level[48];
  std::uint64_t used = 0;
  void push(A v) {
    int k = 0;
    while (used >> k & 1) {
      v = level[k] + v;
      used &= ~(std::uint64_t{1} << k);
      ++k;
    }
    level[k] = v;
    used |= std::uint64_t{1} << k;
  }
  A total() const {
    A s = 0;
    for (int k = 0; k < 48; ++k)
      if (used >> k & 1) s = level[k] + s;
    return s;
  }
};

// Element offset of flat position `i` in axes listed innermost first.
inline __attribute__((always_inline)) std::int64_t offset_of(std::int64_t i, int ndim, const std::int64_t* size, const std::int64_t* stride) {
  std::int64_t o = 0;
  for (int d = 0; d < ndim; ++d) {
    o += i % size[d] * stride[d];
    i /= size[d];
  }
  return o;
}

// Sum of the inner positions [begin, end) of one output element.
template <class T>
acc_t<T> range_sum(const Reduce& r, const T* x, std::int64_t begin, std::int64_t end) {
  if (r.inner_ndim <= 1) {
    const std::int64_t s = r.inner_ndim == 0 ? 0 : r.inner_stride[0];
    return chunk_sum(x + begin * s, end - begin, s);
  }
  acc_t<T> sum = 0;
  const std::int64_t row = r.inner_size[0];
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t at = i % row, n = row - at < end - i ? row - at : end - i;
    sum += chunk_sum(x + offset_of(i, r.inner_ndim, r.inner_size, r.inner_stride), n, r.inner_stride[0]);
    i += n;
  }
  return sum;
}

// Reducing an outer axis of a row-major matrix: add whole rows, 64 columns at a time, in chunks of rows so that the error stays small.
template <class T>
void sum_rows(const Reduce& r) {
  const T* x = static_cast<const T*>(r.in);
  T* out = static_cast<T*>(r.out);
  const std::int64_t cols = r.outer_size[0], groups = r.outer_numel / cols;
  const std::int64_t blocks = (cols + 63) / 64;
  const std::int64_t work = r.inner_numel * 64;
  parallel_for(groups * blocks, work > 32768 ? 1 : 32768 / (work + 1) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t g = b; g < e; ++g) {
      const std::int64_t group = g / blocks, c0 = g % blocks * 64;
      const int width = static_cast<int>(cols - c0 < 64 ? cols - c0 : 64);
      const std::int64_t base = offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.outer_stride + 1);
      acc_t<T> total[64] = {};
      for (std::int64_t i0 = 0; i0 < r.inner_numel; i0 += 512) {
        acc_t<T> part[64] = {};
        const std::int64_t i1 = i0 + 512 < r.inner_numel ? i0 + 512 : r.inner_numel;
        for (std::int64_t i = i0; i < i1; ++i) {
          const T* p = x + base + c0 + offset_of(i, r.inner_ndim, r.inner_size, r.inner_stride);
          if (width == 64)
            for (int l = 0; l < 64; ++l) part[l] += static_cast<acc_t<T>>(p[l]);
          else
            for (int l = 0; l < width; ++l) part[l] += static_cast<acc_t<T>>(p[l]);
        }
        for (int l = 0; l < 64; ++l) total[l] += part[l];
      }
      T* o = out + offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.out_stride + 1) + c0 * r.out_stride[0];
      for (int l = 0; l < width; ++l) o[l * r.out_stride[0]] = static_cast<T>(total[l]);
    }
  });
}

template <class T>
void sum_kernel(const Reduce& r) {
  const T* x = static_cast<const T*>(r.in);
  T* out = static_cast<T*>(r.out);
  const bool inner_contiguous = r.inner_ndim == 0 || r.inner_stride[0] == 1;
  if (r.outer_ndim > 0 && r.outer_stride[0] == 1 && !inner_contiguous) return sum_rows<T>(r);
  const std::int64_t chunks = (r.inner_numel + kChunk - 1) / kChunk;
  if (r.outer_numel == 1 && chunks > 8) {
    // One long sum: chunks in parallel (at most 1 Mi elements each step keeps the buffer small), tree in order.
    PairwiseTree<acc_t<T>> tree;
    acc_t<T> partial[256];
    for (std::int64_t c0 = 0; c0 < chunks; c0 += 256) {
      const std::int64_t n = chunks - c0 < 256 ? chunks - c0 : 256;
      parallel_for(n, 8, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t c = b; c < e; ++c) {
          const std::int64_t begin = (c0 + c) * kChunk, end = begin + kChunk < r.inner_numel ? begin + kChunk : r.inner_numel;
          partial[c] = range_sum(r, x, begin, end);
        }
      });
      for (std::int64_t c = 0; c < n; ++c) tree.push(partial[c]);
    }
    out[0] = static_cast<T>(tree.total());
    return;
  }
  const std::int64_t grain = r.inner_numel >= 32768 ? 1 : 32768 / (r.inner_numel + 1) + 1;
  parallel_for(r.outer_numel, grain, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t o = b; o < e; ++o) {
      const T* row = x + offset_of(o, r.outer_ndim, r.outer_size, r.outer_stride);
      PairwiseTree<acc_t<T>> tree;
      for (std::int64_t i = 0; i < r.inner_numel; i += kChunk)
        tree.push(range_sum(r, row, i, i + kChunk < r.inner_numel ? i + kChunk : r.inner_numel));
      out[offset_of(o, r.outer_ndim, r.outer_size, r.out_stride)] = static_cast<T>(tree.total());
    }
  });
}

template <class T>
void add_sum(ReduceKernels& k) {
  k.reduce[static_cast<int>(ReduceOp::sum)][static_cast<int>(DTypeOf<T>::value)] = sum_kernel<T>;
}

}  // namespace

void register_reduce(KernelTable& t) {
  add_sum<std::int64_t>(family<ReduceKernels>(t));
  add_sum<Half>(family<ReduceKernels>(t));
  add_sum<BFloat16>(family<ReduceKernels>(t));
  add_sum<float>(family<ReduceKernels>(t));
  add_sum<double>(family<ReduceKernels>(t));
}

}  // namespace pydlx::PYDLX_ISA
