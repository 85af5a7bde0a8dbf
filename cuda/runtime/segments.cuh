// Lists of tensors in the arguments of a kernel: what each of them takes, laid end to end.
#pragma once
#include <cstdint>

namespace pydlx::cuda {
namespace {

template <int kMost>
struct Segments {
  int count = 0;
  std::int64_t start[kMost + 1] = {};

  // Appends a segment and returns its number.
  int add(std::int64_t length) {
    start[count + 1] = start[count] + length;
    return count++;
  }
  __host__ __device__ std::int64_t total() const { return start[count]; }
  // The last segment that starts at or before i.
  __device__ __forceinline__ int find(std::int64_t i) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (start[middle] <= i ? low : high) = middle;
    }
    return low;
  }
};

}  // namespace
}  // namespace pydlx::cuda
