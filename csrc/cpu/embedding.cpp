// Table look-ups, their gradients by counting sort, bags, one-hot rows.
#include "kernels/embedding.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
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
        std::memcpy(out + i * k.row_bytes, w + v * k.row_bytes, static_cast<std::size_t>(k.row_bytes));
    }
  });
  return bad.position;
}

template <class T>
void backward(const EmbeddingBackward& k) {
  using A = compute_t<T>;
  // Stable counting sort: order[start[v] .. start[v + 1]) are the positions of v, ascending.
  for (std::int64_t v = 0; v <= k.rows; ++v) k.start[v] = 0;
  for (std::int64_t i = 0; i < k.n; ++i) ++k.start[k.index[i]];
  std::int64_t total = 0;
  for (std::int64_t v = 0; v <= k.rows; ++v) {
    const std::int64_t count = k.start[v];
    k.start[v] = total;
    total += count;
  }
  for (std::int64_t i = 0; i < k.n; ++i) k.order[k.start[k.index[i]]++] = i;  // start[v] becomes the end of v
  const T* dy = static_cast<const T*>(k.dy);
  const A* scale = static_cast<const A*>(k.scale);
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
          const T* row = dy + (k.source ? k.source[i] : i) * k.cols + c0;
          const A f = scale ? scale[i] * factor : factor;
          if (width == 64)
            for (int l = 0; l < 64; ++l) sum[l] += static_cast<A>(row[l]) * f;
          else
            for (int l = 0; l < width; ++l) sum[l] += static_cast<A>(row[l]) * f;
        }
        for (int l = 0; l < width; ++l) out[c0 + l] = static_cast<T>(sum[l]);
      }
    }
  });
}

template <class T>
std::int64_t bag(const EmbeddingBag& k) {
  using A = compute_t<T>;
  FirstBad bad;
  const T *w = static_cast<const T*>(k.weight), *scale = static_cast<const T*>(k.scale);
  parallel_for(k.bags, grain_for(k.cols * (1 + k.n / (k.bags + 1))), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      T* out = static_cast<T*>(k.out) + b * k.cols;
      std::int64_t used = 0;
      bool ok = true;
      for (std::int64_t i = k.offset[b]; i < k.offset[b + 1]; ++i) {
        if (k.index[i] < 0 || k.index[i] >= k.rows) {
          bad.note(i);
          ok = false;
        }
        used += k.index[i] != k.padding_index;
      }
      for (std::int64_t c0 = 0; c0 < k.cols && ok; c0 += 64) {
        const int width = static_cast<int>(k.cols - c0 < 64 ? k.cols - c0 : 64);
        A value[64] = {};
        std::int64_t row[64];
        for (int l = 0; l < 64; ++l) row[l] = -1;
        for (std::int64_t i = k.offset[b]; i < k.offset[b + 1]; ++i) {
          const std::int64_t v = k.index[i];
          if (v == k.padding_index) continue;
          const T* p = w + v * k.cols + c0;
          const A f = scale ? static_cast<A>(scale[i]) : A(1);
          if (k.mode == BagMode::max) {
            for (int l = 0; l < width; ++l) {
              const A e = static_cast<A>(p[l]);
              if (row[l] < 0 || e > value[l] || e != e) value[l] = e, row[l] = v;
            }
          } else {
            for (int l = 0; l < width; ++l) value[l] += static_cast<A>(p[l]) * f;
          }
        }
        const A divisor = k.mode == BagMode::mean && used > 0 ? static_cast<A>(used) : A(1);
        for (int l = 0; l < width; ++l) {
          out[c0 + l] = static_cast<T>(value[l] / divisor);
          if (k.chosen) k.chosen[b * k.cols + c0 + l] = row[l];
        }
      }
    }
  });
  return bad.position;
}

// Threads own columns; bags are added in order.
template <class T>
void bag_max_backward(const EmbeddingBag& k) {
  const T* dy = static_cast<const T*>(k.dy);
  T* dw = static_cast<T*>(k.dweight);
  parallel_for((k.cols + 15) / 16, grain_for((k.rows + k.bags) * 16), [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t c0 = begin * 16, c1 = end * 16 < k.cols ? end * 16 : k.cols;
    for (std::int64_t v = 0; v < k.rows; ++v)
      for (std::int64_t c = c0; c < c1; ++c) dw[v * k.cols + c] = static_cast<T>(compute_t<T>(0));
    for (std::int64_t b = 0; b < k.bags; ++b)
      for (std::int64_t c = c0; c < c1; ++c) {
        const std::int64_t v = k.chosen[b * k.cols + c];
        if (v < 0) continue;
        T& to = dw[v * k.cols + c];
        to = static_cast<T>(static_cast<compute_t<T>>(to) + static_cast<compute_t<T>>(dy[b * k.cols + c]));
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

template <class T>
void add_embedding(EmbeddingKernels& k) {
  constexpr int d = static_cast<int>(DTypeOf<T>::value);
  k.backward[d] = backward<T>;
  k.bag[d] = bag<T>;
  k.bag_max_backward[d] = bag_max_backward<T>;
}

}  // namespace

void register_embedding(KernelTable& t) {
  EmbeddingKernels& k = family<EmbeddingKernels>(t);
  k.forward = forward;
  k.one_hot = one_hot;
  k.largest = largest;
  add_embedding<Half>(k);
  add_embedding<BFloat16>(k);
  add_embedding<float>(k);
  add_embedding<double>(k);
}

}  // namespace pydlx::PYDLX_ISA
