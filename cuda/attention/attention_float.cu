// Scaled dot-product attention of float32 on the ordinary units, for what attention_float_tensor.cu does not take:
// plain products, and more than 256 features. Tiles of 64 queries by 64 keys; memory is linear in the sequence length
// (Dao et al. 2022, "FlashAttention", with the online softmax of Milakov and Gimelshein 2018). Scores are kept in units
// of log2(e).
//
// A block owns 64 columns of one result and 64 of its rows, and computes the scores it needs itself: nothing is shared
// between blocks, so there are no atomics and sums have one order. Scores are computed again for every further 64
// columns of the result.
#include "cuda/attention/float_tensor.h"
#include "cuda/attention/scores.cuh"
#include "cuda/runtime/rows.cuh"
#include "cuda/runtime/scratch.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kTile = 64, kSide = 16, kEach = kTile / kSide;  // threads form a square; each holds 4 x 4 values
constexpr int kThreads = kSide * kSide;
constexpr int kDepth = 32;         // features per panel of a product of rows
constexpr int kPitch = kTile + 4;  // keeps float4 alignment and spreads columns over banks

struct Square {
  float v[kEach][kEach] = {};
};

// A thread's rows are neighbours, its columns kSide apart.
__device__ __forceinline__ int row_of(int i) { return static_cast<int>(threadIdx.x) / kSide * kEach + i; }
__device__ __forceinline__ int column_of(int j) { return static_cast<int>(threadIdx.x) % kSide + j * kSide; }

struct Shared {
  float panel[2 * kDepth * kPitch];  // two panels of rows, or one tile of values
  float weights[kTile * kPitch];
};

// Products of rows [a0, a0 + 64) of a with rows [b0, b0 + 64) of b over `dim` features; rows beyond the end are zero.
__device__ __forceinline__ void row_products(Square& sum, Shared& s, const float* a, std::int64_t a_row,
                                             std::int64_t a0, std::int64_t a_rows, const float* b, std::int64_t b_row,
                                             std::int64_t b0, std::int64_t b_rows, std::int64_t dim) {
  float *pa = s.panel, *pb = s.panel + kDepth * kPitch;
  for (std::int64_t d0 = 0; d0 < dim; d0 += kDepth) {
    for (int e = static_cast<int>(threadIdx.x); e < kTile * kDepth; e += kThreads) {
      const int r = e / kDepth, d = e % kDepth;
      const bool inside = d0 + d < dim;
      pa[d * kPitch + r] = inside && a0 + r < a_rows ? a[(a0 + r) * a_row + d0 + d] : 0.0f;
      pb[d * kPitch + r] = inside && b0 + r < b_rows ? b[(b0 + r) * b_row + d0 + d] : 0.0f;
    }
    __syncthreads();
#pragma unroll 4
    for (int d = 0; d < kDepth; ++d) {
      float x[kEach], y[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) x[i] = pa[d * kPitch + row_of(i)];
#pragma unroll
      for (int j = 0; j < kEach; ++j) y[j] = pb[d * kPitch + column_of(j)];
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) sum.v[i][j] += x[i] * y[j];
    }
    __syncthreads();
  }
}

// sum += weights (64 x 64, in shared memory, already written by all threads) times rows [b0, b0 + 64), columns
// [c0, c0 + 64) of b. With `guarded`, a zero weight means "absent": what stands behind a mask cannot leak as NaN.
__device__ __forceinline__ void add_weighted(Square& sum, Shared& s, const float* b, std::int64_t b_row,
                                             std::int64_t b0, std::int64_t b_rows, std::int64_t c0,
                                             std::int64_t columns, bool guarded) {
  for (int e = static_cast<int>(threadIdx.x); e < kTile * kTile; e += kThreads) {
    const int r = e / kTile, c = e % kTile;
    s.panel[r * kPitch + c] = b0 + r < b_rows && c0 + c < columns ? b[(b0 + r) * b_row + c0 + c] : 0.0f;
  }
  __syncthreads();
  for (int k = 0; k < kTile; ++k) {
    float x[kEach], y[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = s.weights[row_of(i) * kPitch + k];
#pragma unroll
    for (int j = 0; j < kEach; ++j) y[j] = s.panel[k * kPitch + column_of(j)];
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (!guarded || x[i] != 0) sum.v[i][j] += x[i] * y[j];
  }
  __syncthreads();
}
static_assert(kTile * kPitch <= 2 * kDepth * kPitch);

// The 16 threads that share rows are neighbours in one warp.
template <class Combine>
__device__ __forceinline__ float across(float v, Combine combine) {
  for (int w = kSide / 2; w > 0; w /= 2) v = combine(v, __shfl_xor_sync(kFullMask, v, w));
  return v;
}
// Grid: blocks of queries, batch * heads, blocks of 64 result columns.
__global__ void __launch_bounds__(kThreads) attention_forward(const __grid_constant__ Attention a) {
  __shared__ Shared s;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kTile,
                     c0 = static_cast<std::int64_t>(blockIdx.z) * kTile;
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    const float *q = rows_at<float>(a.q, batch, head), *k = rows_at<float>(a.k, batch, kv),
                *v = rows_at<float>(a.v, batch, kv);
    Square out;
    float top[kEach], total[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) top[i] = -math::kInfinity<float>, total[i] = 0;
    const Range keys = seen_keys(a, q0, kTile, kTile);
    for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kTile) {
      Square p;
      row_products(p, s, q, a.q.row, q0, a.q_len, k, a.k.row, k0, a.k_len, a.head_dim);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const std::int64_t row = q0 + row_of(i);
        float largest = top[i];
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          p.v[i][j] = score(a, batch, head, row, k0 + column_of(j), p.v[i][j]);
          largest = p.v[i][j] > largest ? p.v[i][j] : largest;
        }
        largest = across(largest, Larger());
        const float shift = largest == -math::kInfinity<float> ? 0.0f : largest;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          p.v[i][j] = math::exp2(p.v[i][j] - shift);
          sum += p.v[i][j];
        }
        const float kept = math::exp2(top[i] - shift);
        total[i] = total[i] * kept + across(sum, Adder());
        top[i] = largest;
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          out.v[i][j] *= kept;
          float w = p.v[i][j];
          if (a.threshold)  // dropped after the sum: the softmax itself is whole
            w = row < a.q_len && k0 + column_of(j) < a.k_len && dropped(a, batch, head, row, k0 + column_of(j))
                    ? 0.0f
                    : w * static_cast<float>(a.keep_scale);
          s.weights[row_of(i) * kPitch + column_of(j)] = w;
        }
      }
      add_weighted(out, s, v, a.v.row, k0, a.k_len, c0, a.value_dim, limited(a));
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const std::int64_t row = q0 + row_of(i);
      if (row >= a.q_len) continue;
      const float inverse = total[i] == 0 ? 0.0f : 1.0f / total[i];
      float* y = static_cast<float*>(a.out.data) + batch * a.out.batch + head * a.out.head + row * a.out.row;
#pragma unroll
      for (int j = 0; j < kEach; ++j)
        if (c0 + column_of(j) < a.value_dim) y[c0 + column_of(j)] = out.v[i][j] * inverse;
      if (c0 == 0 && column_of(0) == 0) {
        static_cast<float*>(a.top)[bh * a.q_len + row] = top[i];
        static_cast<float*>(a.inverse)[bh * a.q_len + row] = inverse;
      }
    }
  }
}

// ---- backward -------------------------------------------------------------------------------------------------------
//
// With D = rowsum(dout * out): dV = P^T dout, dS = scale P (dout V^T - D), dQ = dS K, dK = dS^T Q. With dropout P in dV
// and dout V^T carry the mask.

// P (with dropout) or dS of a tile, into `weights`, transposed when the result's rows are keys. dmask: the gradient of
// the head's mask, or null.
__device__ __forceinline__ void tile_weights(Shared& s, const AttentionBackward& w, std::int64_t batch,
                                             std::int64_t head, std::int64_t kv, std::int64_t q0, std::int64_t k0,
                                             const float* delta, bool slopes, bool transposed, float* dmask) {
  const Attention& a = w.forward;
  Square p, d;
  row_products(p, s, rows_at<float>(a.q, batch, head), a.q.row, q0, a.q_len, rows_at<float>(a.k, batch, kv), a.k.row,
               k0, a.k_len, a.head_dim);
  if (slopes)
    row_products(d, s, rows_at<float>(w.dout, batch, head), w.dout.row, q0, a.q_len, rows_at<float>(a.v, batch, kv),
                 a.v.row, k0, a.k_len, a.value_dim);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const std::int64_t row = q0 + row_of(i), at = (batch * a.heads + head) * a.q_len + row;
    const bool inside = row < a.q_len;
    const float top = inside ? static_cast<const float*>(a.top)[at] : 0.0f;
    const float inverse = inside ? static_cast<const float*>(a.inverse)[at] : 0.0f;
    const float shift = top == -math::kInfinity<float> ? 0.0f : top, minus = inside && slopes ? delta[at] : 0.0f;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t key = k0 + column_of(j);
      const float e = math::exp2(score(a, batch, head, row, key, p.v[i][j]) - shift) * inverse;
      const bool gone = a.threshold && inside && key < a.k_len && dropped(a, batch, head, row, key);
      const float keep = a.threshold ? static_cast<float>(a.keep_scale) : 1.0f;
      float x;
      if (!slopes) {
        x = gone ? 0.0f : e * keep;
      } else {  // what stands behind the mask does not matter, whatever it is
        x = e == 0 ? 0.0f : e * ((gone ? 0.0f : d.v[i][j] * keep) - minus);
        if (dmask && inside && key < a.k_len) dmask[row * a.k_len + key] = x;
        x *= static_cast<float>(a.scale);
      }
      s.weights[transposed ? column_of(j) * kPitch + row_of(i) : row_of(i) * kPitch + column_of(j)] = x;
    }
  }
}

__device__ __forceinline__ void store_tile(const Square& sum, const HeadRows& to, std::int64_t batch, std::int64_t head,
                                           std::int64_t r0, std::int64_t rows, std::int64_t c0, std::int64_t columns) {
  float* y = static_cast<float*>(to.data) + batch * to.batch + head * to.head;
#pragma unroll
  for (int i = 0; i < kEach; ++i)
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (r0 + row_of(i) < rows && c0 + column_of(j) < columns)
        y[(r0 + row_of(i)) * to.row + c0 + column_of(j)] = sum.v[i][j];
}

// Grid: blocks of queries, batch * heads, blocks of 64 features.
__global__ void __launch_bounds__(kThreads)
    attention_dq(const __grid_constant__ AttentionBackward w, const float* delta) {
  __shared__ Shared s;
  const Attention& a = w.forward;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kTile,
                     c0 = static_cast<std::int64_t>(blockIdx.z) * kTile;
  for (std::int64_t bh = blockIdx.y; bh < a.batch * a.heads; bh += gridDim.y) {
    const std::int64_t batch = bh / a.heads, head = bh % a.heads, kv = head / (a.heads / a.kv_heads);
    Square dq;
    // The first columns' block stands for all of a tile's scores.
    float* const dmask = w.dmask && c0 == 0 ? static_cast<float*>(w.dmask) + bh * a.q_len * a.k_len : nullptr;
    const Range keys = seen_keys(a, q0, kTile, kTile);
    for (std::int64_t k0 = keys.begin; k0 < keys.end; k0 += kTile) {
      tile_weights(s, w, batch, head, kv, q0, k0, delta, true, false, dmask);
      add_weighted(dq, s, rows_at<float>(a.k, batch, kv), a.k.row, k0, a.k_len, c0, a.head_dim, limited(a));
    }
    store_tile(dq, w.dq, batch, head, q0, a.q_len, c0, a.head_dim);
  }
}

// Grid: blocks of keys, batch * kv_heads, blocks of 64 columns: first those of dk, then those of dv.
__global__ void __launch_bounds__(kThreads)
    attention_dkv(const __grid_constant__ AttentionBackward w, const float* delta) {
  __shared__ Shared s;
  const Attention& a = w.forward;
  const std::int64_t k0 = static_cast<std::int64_t>(blockIdx.x) * kTile, dk_blocks = (a.head_dim + kTile - 1) / kTile;
  const bool keys = blockIdx.z < dk_blocks;
  const std::int64_t c0 = (static_cast<std::int64_t>(blockIdx.z) - (keys ? 0 : dk_blocks)) * kTile;
  const std::int64_t group = a.heads / a.kv_heads;
  for (std::int64_t bk = blockIdx.y; bk < a.batch * a.kv_heads; bk += gridDim.y) {
    const std::int64_t batch = bk / a.kv_heads, kv = bk % a.kv_heads;
    Square sum;
    const Range queries = seeing_queries(a, k0, kTile, kTile);
    for (std::int64_t head = kv * group; head < (kv + 1) * group; ++head)
      for (std::int64_t q0 = queries.begin; q0 < queries.end; q0 += kTile) {
        tile_weights(s, w, batch, head, kv, q0, k0, delta, keys, true, nullptr);
        const HeadRows& x = keys ? a.q : w.dout;
        add_weighted(sum, s, rows_at<float>(x, batch, head), x.row, q0, a.q_len, c0, keys ? a.head_dim : a.value_dim,
                     limited(a));
      }
    store_tile(sum, keys ? w.dk : w.dv, batch, kv, k0, a.k_len, c0, keys ? a.head_dim : a.value_dim);
  }
}

dim3 tiles(std::int64_t rows, std::int64_t heads, std::int64_t column_blocks) {
  return {ceil_div(rows, kTile), static_cast<unsigned>(heads < 65535 ? heads : 65535),
          static_cast<unsigned>(column_blocks)};
}

bool forward(const Attention& a) {
  if (a.batch * a.heads * a.q_len == 0 || attention_forward_tensor(a)) return true;
  launch(attention_forward, tiles(a.q_len, a.batch * a.heads, ceil_div(a.value_dim, kTile)), kThreads, 0, a);
  return true;
}

bool backward(const AttentionBackward& w) {
  const Attention& a = w.forward;
  const std::int64_t rows = a.batch * a.heads * a.q_len;
  const Scratch<float> delta(rows);
  if (rows > 0) run_delta<float>(w, delta.get());
  if (attention_backward_tensor(w, delta.get())) return true;
  if (rows > 0)
    launch(attention_dq, tiles(a.q_len, a.batch * a.heads, ceil_div(a.head_dim, kTile)), kThreads, 0, w, delta.get());
  if (a.batch * a.kv_heads * a.k_len > 0)
    launch(attention_dkv,
           tiles(a.k_len, a.batch * a.kv_heads, ceil_div(a.head_dim, kTile) + ceil_div(a.value_dim, kTile)), kThreads,
           0, w, delta.get());
  return true;
}

}  // namespace

void register_attention_float(KernelTable& t) {
  AttentionKernels& k = family<AttentionKernels>(t);
  k.forward[static_cast<int>(DType::Float32)] = forward;
  k.backward[static_cast<int>(DType::Float32)] = backward;
  k.gives_dmask[static_cast<int>(DType::Float32)] = true;
}

}  // namespace pydlx::cuda
