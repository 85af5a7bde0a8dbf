// Products of float32 on the tensor cores. The units take eleven significant bits of a float32. With Digits::all a
// number is the sum of two such parts, and a product is three: of both leading parts, and of each with the other's
// remainder. The units also cut their sums instead of rounding them, so that a sum of eight terms is made by them and
// added with rounding (Ootomo and Yokota 2022, "Recovering single precision accuracy from Tensor Cores while surpassing
// the FP32 theoretical peak performance"). Infinities, and numbers next to the largest, turn into NaN when they are
// taken apart: what has such a result is computed once more on the ordinary units.
#pragma once
#include "cuda/runtime/mma.cuh"

namespace pydlx::cuda {
namespace {

enum class Digits { all, eleven };  // of float32 operands

template <class T>
const char* units_of(Digits digits) {
  return sizeof(T) == 2 ? "mma.sync" : digits == Digits::all ? "mma.sync, three products" : "mma.sync, TF32";
}

// x becomes the nearest number of eleven significant bits, and `rest` what that leaves. Numbers that have none become
// NaN or leave one. Integers take fewer instructions, but lose a NaN, which is only in `rest` then.
template <Digits digits>
__device__ __forceinline__ void split(float& x, [[maybe_unused]] float& rest) {
  if constexpr (digits == Digits::eleven) {
    const float shifted = __fmul_rn(x, 8193.0f);  // Dekker 1971; one rounding each, not those of fused operations
    x = __fsub_rn(shifted, __fsub_rn(shifted, x));
  } else {
    const float leading = leading_bits(__uint_as_float(__float_as_uint(x) + 0x1000u));
    rest = x - leading;
    x = leading;
  }
}

// sum[from + j] += x y[j], eight terms. The remainders of x come first, or those of y: in the other order with x and y
// exchanged the sums are the same bit by bit.
template <Digits digits, bool x_first = true, int M, int J>
__device__ __forceinline__ void add_eight(float (&sum)[M][4], int from, const float (&x)[4], const float (&x_rest)[4],
                                          const float (&y)[J][2], const float (&y_rest)[J][2]) {
  // j innermost: a product waits for the one before of the same sum.
  if constexpr (digits == Digits::eleven) {
#pragma unroll
    for (int j = 0; j < J; ++j) mma_1688(sum[from + j], x, y[j], sum[from + j]);
  } else {
    const float none[4] = {};
    float eight[J][4];
#pragma unroll
    for (int j = 0; j < J; ++j)
      x_first ? mma_1688(eight[j], x_rest, y[j], none) : mma_1688(eight[j], x, y_rest[j], none);
#pragma unroll
    for (int j = 0; j < J; ++j)
      x_first ? mma_1688(eight[j], x, y_rest[j], eight[j]) : mma_1688(eight[j], x_rest, y[j], eight[j]);
#pragma unroll
    for (int j = 0; j < J; ++j) mma_1688(eight[j], x, y[j], eight[j]);
#pragma unroll
    for (int j = 0; j < J; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[from + j][e] += eight[j][e];
  }
}

// Whether a sum is NaN, or so large that one cut by the units may have been infinite.
__device__ __forceinline__ bool is_special(float sum) { return !(fabsf(sum) < 0x1p120f); }

// Whether some thread of a block of that many warps says so; all of them ask, and meet before they ask again.
template <int warps>
__device__ __forceinline__ bool any_of_block(bool mine) {
  __shared__ int found[warps];
  mine = __any_sync(kFullMask, mine);
  if (threadIdx.x % kWarp == 0) found[threadIdx.x / kWarp] = mine;
  __syncthreads();
  bool any = false;
#pragma unroll
  for (int w = 0; w < warps; ++w) any = any || found[w] != 0;
  return any;
}

}  // namespace
}  // namespace pydlx::cuda
