// Table look-ups and their gradients. Indices are int64; a kernel that meets one outside the table returns its flat
// position, else -1.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct EmbeddingForward {
  const void* weight = nullptr;  // [rows, row_bytes]
  const std::int64_t* index = nullptr;
  void* out = nullptr;  // [n, row_bytes]
  std::int64_t n = 0, rows = 0, row_bytes = 0;
};

// dweight[v] = sum over i with index[i] = v, in order of i, of dy[i]. Indices are sorted by counting; every table row
// is owned by one thread, so there are no atomics and the order is fixed.
struct EmbeddingBackward {
  const void* dy = nullptr;
  const std::int64_t* index = nullptr;
  void* dweight = nullptr;        // [rows, cols]
  std::int64_t* start = nullptr;  // scratch [rows + 1]
  std::int64_t* order = nullptr;  // scratch [n]
  std::int64_t n = 0, rows = 0, cols = 0;
  std::int64_t padding_index = -1;  // contributes nothing
  bool by_frequency = false;        // divide by the number of occurrences
};

// out[b] = the sum of weight[index[b, i]] over i, or their mean.
struct EmbeddingBag {
  const void* weight = nullptr;         // [rows, cols]
  const std::int64_t* index = nullptr;  // [bags, length]
  void* out = nullptr;                  // [bags, cols]
  std::int64_t bags = 0, length = 0, rows = 0, cols = 0;
  bool mean = false;
};

struct OneHot {
  const std::int64_t* index = nullptr;
  std::int64_t* out = nullptr;  // [n, classes]
  std::int64_t n = 0, classes = 0;
};

struct EmbeddingKernels {
  std::int64_t (*forward)(const EmbeddingForward&) = nullptr;
  void (*backward[kDTypeCount])(const EmbeddingBackward&) = {};
  std::int64_t (*bag[kDTypeCount])(const EmbeddingBag&) = {};  // or null: look-ups, then a sum
  std::int64_t (*one_hot)(const OneHot&) = nullptr;
  std::int64_t (*largest)(const OneHot&) = nullptr;  // largest index; n > 0
};

}  // namespace pydlx
