// Table look-ups, their gradients by counting sort, one-hot rows.
#include "kernels/embedding.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
#include "cpu/row_copy.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

std::int64_t grain_for(std::int64_t work) { return work >= 16384 ? 1 : 16384 / (work + 1) + 1; }

std::int64_t forward(const EmbeddingForward& k) {
  FirstBad bad;
  const char* w = static_cast<const char*>(k.weight);
  char* out = static_cast<char*>(k.out);
  parallel_for(k.n, grain_for(k.row_bytes / 4), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t v = k.index[i];
      if (v < 0 || v >= k.rows)
        bad.note(i);
      else
        copy_row_bytes(out + i * k.row_bytes, w + v * k.row_bytes, k.row_bytes);
    }
  });
  return bad.position;
}

template <class T>
void backward(const EmbeddingBackward& k) {
  using A = compute_t<T>;
  // Stable counting sort: order[start[v] .. start[v + 1]) are the positions of v, ascending.
  for (std::int64_t v = 0; v <= k.rows; ++v) k.start[v] = 0;
  // Forward has checked the indices, but memory shared with other libraries may have changed since: never leave the
  // table.
  auto inside = [&](std::int64_t i) {
    return static_cast<std::uint64_t>(k.index[i]) < static_cast<std::uint64_t>(k.rows);
  };
  for (std::int64_t i = 0; i < k.n; ++i)
    if (inside(i)) ++k.start[k.index[i]];
  std::int64_t total = 0;
  for (std::int64_t v = 0; v <= k.rows; ++v) {
    const std::int64_t count = k.start[v];
    k.start[v] = total;
    total += count;
  }
  for (std::int64_t i = 0; i < k.n; ++i)
    if (inside(i)) k.order[k.start[k.index[i]]++] = i;  // start[v] becomes the end of v
  const T* dy = static_cast<const T*>(k.dy);
  parallel_for(k.rows, grain_for(k.cols * (1 + k.n / (k.rows + 1))), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      T* out = static_cast<T*>(k.dweight) + v * k.cols;
      const std::int64_t first = v == 0 ? 0 : k.start[v - 1], last = k.start[v];
      if (first == last || v == k.padding_index) {
        for (std::int64_t c = 0; c < k.cols; ++c) out[c] = static_cast<T>(A(0));
        continue;
      }
      const A factor = k.by_frequency ? A(1) / static_cast<A>(last - first) : A(1);
      for (std::int64_t c0 = 0; c0 < k.cols; c0 += 64) {
        const int width = static_cast<int>(k.cols - c0 < 64 ? k.cols - c0 : 64);
        A sum[64] = {};
        for (std::int64_t j = first; j < last; ++j) {
          const std::int64_t i = k.order[j];
          const T* row = dy + i * k.cols + c0;
          if (width == 64)
            for (int l = 0; l < 64; ++l) sum[l] += static_cast<A>(row[l]) * factor;
          else
            for (int l = 0; l < width; ++l) sum[l] += static_cast<A>(row[l]) * factor;
        }
        for (int l = 0; l < width; ++l) out[c0 + l] = static_cast<T>(sum[l]);
      }
    }
  });
}

std::int64_t one_hot(const OneHot& k) {
  FirstBad bad;
  parallel_for(k.n, grain_for(k.classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t* row = k.out + i * k.classes;
      for (std::int64_t c = 0; c < k.classes; ++c) row[c] = 0;
      const std::int64_t v = k.index[i];
      if (v < 0 || v >= k.classes)
        bad.note(i);
      else
        row[v] = 1;
    }
  });
  return bad.position;
}

std::int64_t largest(const OneHot& k) {
  std::int64_t top = k.index[0];
  for (std::int64_t i = 1; i < k.n; ++i) top = k.index[i] > top ? k.index[i] : top;
  return top;
}

}  // namespace

void register_embedding(KernelTable& t) {
  EmbeddingKernels& k = family<EmbeddingKernels>(t);
  k.forward = forward;
  k.one_hot = one_hot;
  k.largest = largest;
  each_type(FloatTypes{}, [&]<class T>() { k.backward[idx<T>] = backward<T>; });
}

}  // namespace pydlx::PYDLX_ISA
