// What the attention kernels have in common: scores behind masks, bands, slopes and dropout. Scores are kept in units
// of log2(e).
#pragma once
#include "core/philox.h"
#include "cuda/runtime/draws.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/pairs.cuh"
#include "functors/math.h"
#include "kernels/attention.h"

namespace pydlx::cuda {
namespace {

constexpr float kLog2E = 1.44269504f;

template <class T>
__device__ __forceinline__ const T* rows_at(const HeadRows& x, std::int64_t batch, std::int64_t head) {
  return static_cast<const T*>(x.data) + batch * x.batch + head * x.head;
}

// Slope, mask and band applied to a product; -inf for what query i must not see.
__device__ __forceinline__ float score(const Attention& a, std::int64_t batch, std::int64_t head, std::int64_t i,
                                       std::int64_t j, float product) {
  if (i >= a.q_len || j >= a.k_len || j < i - a.before || j > i + a.after) return -math::kInfinity<float>;
  float s = product * (static_cast<float>(a.scale) * kLog2E);
  if (a.slopes) {
    const float slope = static_cast<const float*>(a.slopes)[batch * a.slope_batch + head * a.slope_head];
    s -= slope * kLog2E * static_cast<float>(j < i ? i - j : j - i);
  }
  if (a.mask) {
    const std::int64_t at = batch * a.mask_batch + head * a.mask_head + i * a.mask_row + j * a.mask_col;
    if (a.mask_is_bool) {
      if (!static_cast<const std::uint8_t*>(a.mask)[at]) return -math::kInfinity<float>;
    } else {
      // Numbers near the largest float are not brought to units of log2(e), where they would become infinite.
      const float bias = static_cast<const float*>(a.mask)[at];
      if (bias == -math::kInfinity<float>) return bias;
      s += bias < -2e38f || bias > 2e38f ? bias : bias * kLog2E;
    }
  }
  return s;
}

__device__ __forceinline__ bool dropped(const Attention& a, std::int64_t batch, std::int64_t head, std::int64_t i,
                                        std::int64_t j) {
  const auto n = static_cast<std::uint64_t>(((batch * a.heads + head) * a.q_len + i) * a.k_len + j);
  const FirstDraw first = first_draw(a);
  return philox(first.seed, first.offset + n / 4).w[n % 4] < a.threshold;
}

__device__ __forceinline__ bool limited(const Attention& a) {
  return a.mask || a.before < kUnlimitedKeys || a.after < kUnlimitedKeys;
}

// 2^x by the special function unit, one instruction where math::exp2 takes more than twenty, which is more than the
// products of a score take. Off by up to 2 ULP, as much as the rounding of a score of 3 makes a weight; weights of
// 16-bit floats keep 8 or 11 of its 22 bits anyway. Subnormal results are 0.
__device__ __forceinline__ float exp2_approximately(float x) {
#if defined(PYDLX_CUDA_EMULATED)
  const float y = math::exp2(x);
  return y > 0x1p-126f ? __uint_as_float((__float_as_uint(y) + 2) & ~3u) : y;
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// The same number, as something that the compiler computes with later instead of keeping what follows from it.
__device__ __forceinline__ int once_more(int x) {
#if !defined(PYDLX_CUDA_EMULATED)
  asm volatile("" : "+r"(x));
#endif
  return x;
}

struct Range {
  std::int64_t begin, end;
};
// Keys that some of `queries` queries from q0 see, from a multiple of `step` on.
__device__ __forceinline__ Range seen_keys(const Attention& a, std::int64_t q0, int queries, int step) {
  const std::int64_t first = q0 - a.before, last = q0 + queries + a.after;
  return {first > 0 ? first / step * step : 0, last < a.k_len ? last : a.k_len};
}
// Queries that see some of `keys` keys from k0, from a multiple of `step` on.
__device__ __forceinline__ Range seeing_queries(const Attention& a, std::int64_t k0, int keys, int step) {
  const std::int64_t first = k0 - a.after, last = k0 + keys + a.before;
  return {first > 0 ? first / step * step : 0, last < a.q_len ? last : a.q_len};
}

struct Larger {
  __device__ float operator()(float a, float b) const { return b > a ? b : a; }
};

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
// In the results of matrix instructions the four threads that share a row are neighbours.
template <class Combine>
__device__ __forceinline__ float across_four(float v, Combine combine) {
  v = combine(v, __shfl_xor_sync(kFullMask, v, 1));
  return combine(v, __shfl_xor_sync(kFullMask, v, 2));
}

constexpr int kDeltaThreads = 256;

// delta[row] = dot(dout, out); one warp per row.
template <class T>
__global__ void __launch_bounds__(kDeltaThreads)
    attention_delta(const __grid_constant__ AttentionBackward w, float* delta) {
  const Attention& a = w.forward;
  const std::int64_t rows = a.batch * a.heads * a.q_len,
                     warps = static_cast<std::int64_t>(gridDim.x) * (kDeltaThreads / kWarp);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t r = static_cast<std::int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + threadIdx.x / kWarp; r < rows;
       r += warps) {
    const std::int64_t i = r % a.q_len, head = r / a.q_len % a.heads, batch = r / a.q_len / a.heads;
    const T *g = rows_at<T>(w.dout, batch, head) + i * w.dout.row, *y = rows_at<T>(a.out, batch, head) + i * a.out.row;
    float sum = 0;
    for (std::int64_t c = lane; c < a.value_dim; c += kWarp) sum += static_cast<float>(g[c]) * static_cast<float>(y[c]);
    for (int half = kWarp / 2; half > 0; half /= 2) sum += __shfl_xor_sync(kFullMask, sum, half);
    if (lane == 0) delta[r] = sum;
  }
}

template <class T>
void run_delta(const AttentionBackward& w, float* delta) {
  const std::int64_t rows = w.forward.batch * w.forward.heads * w.forward.q_len;
  launch(attention_delta<T>, grid_for(ceil_div(rows, kDeltaThreads / kWarp), 32), kDeltaThreads, 0, w, delta);
}

}  // namespace
}  // namespace pydlx::cuda
