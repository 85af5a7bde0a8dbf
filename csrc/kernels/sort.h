// Sorting, selection and searching along the last axis of contiguous rows. NaN counts as larger than everything; equal
// elements keep their order, so every result is unique whatever the algorithm or the number of threads.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct Sort {
  const void* in = nullptr;       // [rows, n]
  void* values = nullptr;         // sort: [rows, n]; select: [rows, k], or [rows] for kth
  std::int64_t* index = nullptr;  // like values; null: not wanted (sort of integers on the CPU only)
  std::int64_t rows = 0, n = 0;
  std::int64_t k = 0;  // topk: how many; kth: 0-based rank
  bool descending = false;
  bool nan_first = false;     // kth: a row with NaN gives its first NaN (median)
  void* workspace = nullptr;  // `workspace_bytes` for every thread
  std::int64_t workspace_bytes = 0;
};

// Lower (or upper) bounds of values in sorted rows. One sorted row serves all values when sorted_rows is 1.
struct SearchSorted {
  const void* sorted = nullptr;          // [sorted_rows, n]
  const void* values = nullptr;          // [rows, m]
  const std::int64_t* sorter = nullptr;  // [sorted_rows, n]: positions that sort the rows, or null
  std::int64_t* out = nullptr;           // [rows, m]
  std::int64_t sorted_rows = 1, rows = 1, n = 0, m = 0;
  bool right = false;
};

// Counts of integers (weights null) or sums of weights per value, in input order.
struct Bincount {
  const std::int64_t* in = nullptr;
  const void* weights = nullptr;
  void* out = nullptr;  // int64, or the weights' dtype; zero on entry
  std::int64_t n = 0, bins = 0;
};

// Least and greatest of n > 0 integers, and how often each occurs where all of them lie in [from, from + bins).
struct Tally {
  const void* in = nullptr;
  std::int64_t n = 0, from = 0, bins = 0;
  std::int64_t* out = nullptr;           // [bins]
  void* workspace = nullptr;             // tally_bytes(bins)
  std::int64_t least = 0, greatest = 0;  // result
  bool counted = false;                  // result; if not, `out` is worthless
};

struct SortKernels {
  // Bytes of workspace one thread needs for rows of n elements.
  std::int64_t (*workspace_bytes)(std::int64_t n) = nullptr;
  void (*sort[kDTypeCount])(const Sort&) = {};
  void (*topk[kDTypeCount])(const Sort&) = {};
  void (*kth[kDTypeCount])(const Sort&) = {};
  void (*search[kDTypeCount])(const SearchSorted&) = {};
  // First negative or too large position, or -1. [0]: counts; otherwise weights of the dtype.
  std::int64_t (*count)(const Bincount&) = nullptr;
  std::int64_t (*weigh[kDTypeCount])(const Bincount&) = {};
  // Integers but bool; null where a device has none. n < 2^32.
  void (*tally[kDTypeCount])(Tally&) = {};
  std::int64_t (*tally_bytes)(std::int64_t bins) = nullptr;  // workspace for num_threads() threads
};

}  // namespace pydlx
