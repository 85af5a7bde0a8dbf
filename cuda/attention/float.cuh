// What both directions of attention of float32 on the tensor cores are made of: products in parts (digits.cuh) of the
// warps' own rows, which lie in shared memory as the units want them, with tiles of the other operand.
//
// Special products of rows are replaced by plain sums at once. Where sums of values become special, the block goes over
// its tiles once more with sums by the ordinary units, which leave out what has no weight: values that nothing sees may
// be anything.
#pragma once
#include "core/precision.h"
#include "core/verbose.h"
#include "cuda/attention/warps.cuh"
#include "cuda/runtime/digits.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kPack = kChunkOf<float>;

// An operand's lines for one head. Addresses are computed again where they are used: sums need the registers.
struct Lines {
  const float* data;
  std::int64_t stride, count;
  int features;

  __device__ __forceinline__ Lines(const HeadRows& x, int batch, int head, std::int64_t lines, std::int64_t width)
      : data(rows_at<float>(x, once_more(batch), once_more(head))),
        stride(x.row),
        count(lines),
        features(static_cast<int>(width)) {}
};

// The 16 rows that a warp owns, as left operands of steps of eight features, from where they lie in memory.
template <Digits digits>
struct FarRows {
  static constexpr std::size_t kBytes = 0;
  const float* at;
  std::int64_t high;  // from a thread's one row to its other
  bool inside[2];
  int features;

  __device__ __forceinline__ explicit FarRows(float4*) {}
  __device__ __forceinline__ void bring(const Lines& from, std::int64_t first) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const std::int64_t row = first + first_row() + lane / 4;
    at = from.data + row * from.stride + lane % 4;
    high = 8 * from.stride;
    inside[0] = row < from.count;
    inside[1] = row + 8 < from.count;
    features = from.features - lane % 4;
  }
  __device__ __forceinline__ void read(float (&x)[4], int step) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int feature = step * 8 + e / 2 * 4;
      x[e] = inside[e % 2] && feature < features ? at[e % 2 * high + feature] : 0.0f;
    }
  }
  __device__ __forceinline__ void load(float (&x)[4], float (&rest)[4], int step) const {
    read(x, step);
#pragma unroll
    for (int e = 0; e < 4; ++e) split<digits>(x[e], rest[e]);
  }
};

// The same rows of D features in shared memory, where each thread keeps what it will multiply: taken apart once
// (kParts: 2), or, in half the memory, every time.
template <Digits digits, int D, int kParts>
struct NearRows {
  static_assert(digits == Digits::all || kParts == 1);
  static constexpr std::size_t kBytes = sizeof(float) * kParts * kRows * D;
  float4* data;

  __device__ __forceinline__ explicit NearRows(float4* to) : data(to) {}
  __device__ __forceinline__ void bring(const Lines& from, std::int64_t first) const {
    FarRows<digits> far(nullptr);
    far.bring(from, first);
#pragma unroll 4
    for (int step = 0; step < D / 8; ++step) {
      float x[4], rest[4];
      if constexpr (kParts == 2 || digits == Digits::eleven)
        far.load(x, rest, step);
      else
        far.read(x, step);
      place(step, 0) = {x[0], x[1], x[2], x[3]};
      if constexpr (kParts == 2) place(step, 1) = {rest[0], rest[1], rest[2], rest[3]};
    }
  }
  __device__ __forceinline__ void load(float (&x)[4], [[maybe_unused]] float (&rest)[4], int step) const {
    get(x, place(step, 0));
    if constexpr (kParts == 2) {
      get(rest, place(step, 1));
    } else if constexpr (digits == Digits::all) {
#pragma unroll
      for (int e = 0; e < 4; ++e) split<digits>(x[e], rest[e]);
    }
  }

 private:
  __device__ __forceinline__ float4& place(int step, int part) const {
    return data[(step * kParts + part) * kThreads + threadIdx.x];
  }
  __device__ __forceinline__ static void get(float (&x)[4], const float4& from) {
    x[0] = from.x;
    x[1] = from.y;
    x[2] = from.z;
    x[3] = from.w;
  }
};

// Lines of D features, zeros beyond the operand's. A chunk between lines lets those that are read together come from
// different banks.
template <int D, int lines>
struct FloatTile {
  static constexpr int kLines = lines, kWidth = D / kPack, kPitch = kWidth + 1, kChunks = lines * kPitch;
  static constexpr std::size_t kBytes = sizeof(float4) * kChunks;
  float4* data;

  // `whole`: chunks of 16 bytes lie at multiples of 16.
  __device__ __forceinline__ void fetch(const Lines& from, std::int64_t first, bool whole) const {
    constexpr int kStep = kThreads / kWidth;  // lines that threads copy at a time, one chunk each
    static_assert(kThreads % kWidth == 0 && lines % kStep == 0);
    const int thread = static_cast<int>(threadIdx.x), line = thread / kWidth, feature = thread % kWidth * kPack;
    const std::int64_t left = from.count - first - line;
    const int valid = feature >= from.features ? 0 : left < lines ? static_cast<int>(left) : lines;
    const float* at = from.data + (first + line) * from.stride + feature;
    float4* const to = data + line * kPitch + thread % kWidth;
    if (whole) {
#pragma unroll
      for (int i = 0; i < lines; i += kStep, at += kStep * from.stride) cp_async_16(to + i * kPitch, at, i < valid);
    } else {
#pragma unroll 1
      for (int i = 0; i < lines; i += kStep, at += kStep * from.stride)
#pragma unroll 1
        for (int j = 0; j < kPack; ++j)
          cp_async_4(reinterpret_cast<float*>(to + i * kPitch) + j, at + j, i < valid && feature + j < from.features);
    }
  }
  // Right operands of two steps of eight features with eight lines, which sum over features.
  __device__ __forceinline__ void load_lines(float (&y)[4], int line, int step) const {
    std::uint32_t r[4];
    ldmatrix_x4<false>(r, data + (line + lane() % 8) * kPitch + step * 2 + lane() / 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = __uint_as_float(r[i]);
  }
  // Right operands of four products that sum over eight lines, with eight features each of 32. Lines are taken in the
  // order in which weights lie in a thread's registers, features so that a thread reads and has neighbours.
  __device__ __forceinline__ void load_summed(float (&y)[4][2], int line, int feature) const {
    const float4* const at = data + (line + lane() % 4 * 2) * kPitch + feature / kPack + lane() / 4;
    const float4 low = at[0], high = at[kPitch];
    y[0][0] = low.x, y[1][0] = low.y, y[2][0] = low.z, y[3][0] = low.w;
    y[0][1] = high.x, y[1][1] = high.y, y[2][1] = high.z, y[3][1] = high.w;
  }
  __device__ __forceinline__ float element(int line, int feature) const {
    return reinterpret_cast<const float*>(data + line * kPitch)[feature];
  }

 private:
  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
};
// The feature of value e of sum n, see load_summed().
__device__ __forceinline__ int feature_of(int n, int e) { return n / 4 * 32 + column_of(e) * 4 + n % 4; }

// The warp's rows times the lines of b. `x_first`: see add_eight().
template <Digits digits, bool x_first, int N, class Rows, class Tile>
__device__ __forceinline__ void row_products(float (&s)[N][4], const Rows& a, const Tile& b, int features) {
  static_assert(N * 8 == Tile::kLines);
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = 0;
  const int steps = (features + 7) / 8;
#pragma unroll 1  // all of it would bring operands in long before their use
  for (int step = 0; step < steps; step += 2) {
    float y[2][N][2], y_rest[2][N][2];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float two[4];
      b.load_lines(two, n * 8, step);
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i / 2][n][i % 2] = two[i];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float x[4], x_rest[4];
      a.load(x, x_rest, step + half);
#pragma unroll
      for (int i = 0; i < 2 * N; ++i) split<digits>(y[half][i / 2][i % 2], y_rest[half][i / 2][i % 2]);
      add_eight<digits, x_first>(s, 0, x, x_rest, y[half], y_rest[half]);
    }
  }
}

__device__ __forceinline__ float plain_product(const float* x, const float* y, int features) {
  float sum = 0;
#pragma unroll 1
  for (int i = 0; i < features; ++i) sum += x[i] * y[i];
  return sum;
}

// Plain sums where products are special. left(n, e) and right(n, e) are the lines of left_of() and right_of() that
// value n, e is a product of.
template <int N, class LeftOf, class RightOf, class Left, class Right>
__device__ __forceinline__ void replace_special(float (&s)[N][4], float* slots, const LeftOf& left_of,
                                                const RightOf& right_of, const Left& left, const Right& right) {
  bool special = false;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) special = special || is_special(s[n][e]);
  if (!special) return;  // slots are a thread's own
  float* const mine = to_slots(s, slots);
  const Lines a = left_of(), b = right_of();
#pragma unroll 1
  for (int i = 0; i < N * 4; ++i) {
    const std::int64_t x = left(i / 4, i % 4), y = right(i / 4, i % 4);
    if (is_special(mine[i * kWarp]))
      mine[i * kWarp] =
          x < a.count && y < b.count ? plain_product(a.data + x * a.stride, b.data + y * b.stride, a.features) : 0.0f;
  }
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] = mine[(n * 4 + e) * kWarp];
}

// sum += w b over the lines of b. Blocks of features that b does not have are left out.
template <Digits digits, int D, int N, class Tile>
__device__ __forceinline__ void add_weighted(float (&sum)[D / 8][4], const float (&w)[N][4], const Tile& b,
                                             int features) {
  static_assert(N * 8 == Tile::kLines);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    float x[4] = {w[k][0], w[k][2], w[k][1], w[k][3]}, x_rest[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) split<digits>(x[e], x_rest[e]);
#pragma unroll
    for (int first = 0; first < D; first += 32) {
      if (first > 0 && first >= features) break;
      float y[4][2], y_rest[4][2];
      b.load_summed(y, k * 8, first);
#pragma unroll
      for (int i = 0; i < 8; ++i) split<digits>(y[i / 2][i % 2], y_rest[i / 2][i % 2]);
      add_eight<digits>(sum, first / 8, x, x_rest, y, y_rest);
    }
  }
}

// The same on the ordinary units. `guarded`: a weight of zero means "absent", and products with it are left out.
template <int D, int N, class Tile>
__device__ __forceinline__ void add_plainly(float (&sum)[D / 8][4], const float (&w)[N][4], const Tile& b, bool guarded,
                                            float* weights) {
  constexpr int kLines = Tile::kLines;
  float* const mine = weights + first_row() * kLines;
  __syncwarp();  // scores were in the same memory
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) mine[row_of(e) * kLines + n * 8 + column_of(e)] = w[n][e];
  __syncwarp();
  // Rolled, over a copy in local memory: unrolled this would take all registers.
  float copy[D / 2];
#pragma unroll
  for (int i = 0; i < D / 2; ++i) copy[i] = sum[i / 4][i % 4];
#pragma unroll 1
  for (int i = 0; i < D / 2; ++i) {
    const int row = row_of(i % 4) * kLines, feature = feature_of(i / 4, i % 4);
    float x = copy[i];
#pragma unroll 1
    for (int line = 0; line < kLines; ++line)
      if (const float u = mine[row + line]; !guarded || u != 0) x += u * b.element(line, feature);
    copy[i] = x;
  }
#pragma unroll
  for (int i = 0; i < D / 2; ++i) sum[i / 4][i % 4] = copy[i];
  __syncwarp();
}

template <int N>
__device__ __forceinline__ bool any_special(const float (&sum)[N][4]) {
  bool mine = false;
#pragma unroll
  for (int n = 0; n < N; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) mine = mine || is_special(sum[n][e]);
  return mine;
}

// The warp's rows of the result from `first` on, times their factors.
template <int N>
__device__ __forceinline__ void store(const float (&sum)[N][4], const HeadRows& to, std::int64_t batch,
                                      std::int64_t head, std::int64_t first, std::int64_t rows, std::int64_t features,
                                      bool whole, float scale_low = 1, float scale_high = 1) {
  float* const y = static_cast<float*>(to.data) + batch * to.batch + head * to.head;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t row = first + row_of(2 * half);
    if (row >= rows) continue;
    const float scale = half ? scale_high : scale_low;
#pragma unroll
    for (int n = 0; n < N; n += 4)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) {
        const int feature = feature_of(n, e);
        if (feature >= features) continue;
        float* const at = y + row * to.row + feature;
        const float v[4] = {sum[n][e] * scale, sum[n + 1][e] * scale, sum[n + 2][e] * scale, sum[n + 3][e] * scale};
        if (whole) {
          *reinterpret_cast<float4*>(at) = {v[0], v[1], v[2], v[3]};
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            if (feature + i < features) at[i] = v[i];
        }
      }
  }
}

// A lone key has weight 1: the result is its value and the gradients of its score are zero, to the last bit only where
// no operand is split into digits.
inline bool takes_tensor_cores(const Attention& a) {
  return matmul_precision() != MatmulPrecision::highest && a.head_dim <= kMostFeatures &&
         a.value_dim <= kMostFeatures && a.k_len > 1;
}

// Whether an operand's lines consist of chunks of 16 bytes at multiples of 16.
inline bool in_chunks(const HeadRows& x, std::int64_t features) {
  return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0 && features % kPack == 0 && x.batch % kPack == 0 &&
         x.head % kPack == 0 && x.row % kPack == 0;
}

}  // namespace
}  // namespace pydlx::cuda
