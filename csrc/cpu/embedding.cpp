// Table look-ups, sums of them, their gradients by counting sort, one-hot rows.
#include "kernels/embedding.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
#include "cpu/row_copy.h"
#include "cpu/row_sums.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

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
  // Forward has checked the indices, but memory shared with other libraries may have changed since: never leave the
  // table.
  sort_by_place(k.n, k.rows, k.start, k.order, [&](std::int64_t i) {
    const std::int64_t v = k.index[i];
    return static_cast<std::uint64_t>(v) < static_cast<std::uint64_t>(k.rows) ? v : -1;
  });
  parallel_for(k.rows, grain_for(k.cols * (1 + k.n / (k.rows + 1))), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t v = begin; v < end; ++v) {
      const std::int64_t first = v == 0 ? 0 : k.start[v - 1], count = v == k.padding_index ? 0 : k.start[v] - first;
      sum_rows<T>({static_cast<const T*>(k.dy), k.cols, k.order + first, count, k.start[k.rows - 1] - first}, nullptr,
                  k.by_frequency && count > 0 ? static_cast<double>(count) : 1, static_cast<T*>(k.dweight) + v * k.cols,
                  k.cols);
    }
  });
}

template <class T>
std::int64_t bag(const EmbeddingBag& k) {
  FirstBad bad;
  parallel_for(k.bags, grain_for(k.length * k.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t* pick = k.index + b * k.length;
      bool inside = true;
      for (std::int64_t i = 0; i < k.length; ++i)
        if (static_cast<std::uint64_t>(pick[i]) >= static_cast<std::uint64_t>(k.rows)) {
          bad.note(b * k.length + i);
          inside = false;
          break;
        }
      if (inside)
        sum_rows<T>({static_cast<const T*>(k.weight), k.cols, pick, k.length}, nullptr,
                    k.mean ? static_cast<double>(k.length) : 1, static_cast<T*>(k.out) + b * k.cols, k.cols);
    }
  });
  return bad.position;
}

std::int64_t one_hot(const OneHot& k) {
  FirstBad bad;
  parallel_for(k.n, grain_for(k.classes), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int64_t* row = k.out + i * k.classes;
      std::memset(row, 0, static_cast<std::size_t>(k.classes) * sizeof *row);
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
  each_type(FloatTypes{}, [&]<class T>() {
    k.backward[idx<T>] = backward<T>;
    k.bag[idx<T>] = bag<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
