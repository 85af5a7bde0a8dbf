// The windows of pooling along one axis, shared by the CPU and CUDA backends.
#pragma once
#include "core/half.h"
#include "kernels/pool.h"

namespace pydlx::functors {

PYDLX_HD std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_HD std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
PYDLX_HD std::int64_t quotient_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// The clipped window of output o along an axis: positions first, first + step, ..., `count` of them.
struct Window {
  std::int64_t first, count, step;
  std::int64_t span;  // what an average counts along this axis
};
PYDLX_HD Window window_of(const Pool& p, int axis, std::int64_t o) {
  const std::int64_t n = p.in[axis];
  if (p.adaptive) {
    // o * in fits: both are sizes of tensors that exist.
    const std::int64_t lo = o * n / p.out[axis], hi = ((o + 1) * n + p.out[axis] - 1) / p.out[axis];
    return {lo, hi - lo, 1, hi - lo};
  }
  const std::int64_t start = o * p.stride[axis] - p.pad[axis], d = p.dilation[axis];
  const std::int64_t skip = start >= 0 ? 0 : d == 1 ? -start : quotient_up(-start, d);
  const std::int64_t last = smaller(p.kernel[axis], d == 1 ? n - start : quotient_up(n - start, d));
  const std::int64_t count = larger(0, last - skip);
  const std::int64_t padded = smaller(start + p.kernel[axis], n + p.pad[axis]) - start;
  return {start + skip * d, count, d, p.count_include_pad ? padded : count};
}

}  // namespace pydlx::functors
