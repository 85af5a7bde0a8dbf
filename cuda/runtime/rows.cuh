// Blocks that work on rows: how threads are laid over rows and positions, and how they combine what they found.
#pragma once
#include <type_traits>

#include "cuda/runtime/launch.h"
#include "cuda/runtime/pack.cuh"

namespace pydlx::cuda {

inline constexpr int kRowThreads = 256;

inline int power_of_two_up_to(std::int64_t n, int most) {
  int p = 1;
  while (p < most && p < n) p *= 2;
  return p;
}

// `lanes` threads share a row; the block has kRowThreads / lanes rows. Consecutive threads lie along the rows'
// positions, or across rows when neighbouring rows are neighbours in memory.
struct RowLayout {
  int lanes = 1;
  bool across = false;

  // Rows of n positions whose elements are adjacent in memory.
  static RowLayout along(std::int64_t n) { return {power_of_two_up_to((n + 3) / 4, kRowThreads), false}; }
  // `rows` adjacent rows: a warp reads 32 of them side by side.
  static RowLayout side_by_side(std::int64_t n, std::int64_t rows) {
    const int columns = power_of_two_up_to(rows, 32);
    const int lanes = power_of_two_up_to(n, kRowThreads / columns);
    return {lanes, true};
  }
  __host__ __device__ int rows() const { return kRowThreads / lanes; }
  unsigned grid(std::int64_t total_rows) const { return grid_for((total_rows + rows() - 1) / rows(), 32); }
};

#if defined(__CUDACC__) || defined(PYDLX_CUDA_EMULATED)

// The value of the lane whose number differs in `bits`, for types of any number of words.
template <class V>
__device__ V shuffle_xor(V v, int bits) {
  if constexpr (std::is_arithmetic_v<V>) {
    return __shfl_xor_sync(kFullMask, v, bits);
  } else {
    static_assert(sizeof(V) % 4 == 0);
    unsigned words[sizeof(V) / 4];
    __builtin_memcpy(words, &v, sizeof v);
#pragma unroll
    for (unsigned& w : words) w = __shfl_xor_sync(kFullMask, w, bits);
    __builtin_memcpy(&v, words, sizeof v);
    return v;
  }
}

// A thread's place. All threads of a block pass through the same collectives; those without a row contribute nothing.
struct RowThread {
  int lanes, rows, lane, row;
  bool across;

  __device__ explicit RowThread(RowLayout l) : lanes(l.lanes), rows(l.rows()), across(l.across) {
    const int t = static_cast<int>(threadIdx.x);
    lane = across ? t / rows : t % lanes;
    row = across ? t % rows : t / lanes;
  }

  // The combination of all lanes' values in every lane, in an order that depends on the layout alone. `shared` has room
  // for kRowThreads values; combine must not care which argument comes first.
  template <class V, class Combine>
  __device__ V all(V v, V* shared, Combine combine) const {
    if (!across && lanes <= kWarp) {
      for (int w = lanes / 2; w > 0; w /= 2) v = combine(v, shuffle_xor(v, w));
      return v;
    }
    if (!across) {
      for (int w = kWarp / 2; w > 0; w /= 2) v = combine(v, shuffle_xor(v, w));
      const int warp = static_cast<int>(threadIdx.x) / kWarp, warps = lanes / kWarp, first = row * warps;
      if (threadIdx.x % kWarp == 0) shared[warp] = v;
      __syncthreads();
      v = shared[first];
      for (int k = 1; k < warps; ++k) v = combine(v, shared[first + k]);
      __syncthreads();
      return v;
    }
    shared[lane * rows + row] = v;
    __syncthreads();
    for (int half = lanes / 2; half > 0; half /= 2) {
      if (lane < half)
        shared[lane * rows + row] = combine(shared[lane * rows + row], shared[(lane + half) * rows + row]);
      __syncthreads();
    }
    v = shared[row];
    __syncthreads();
    return v;
  }
};

// Packs of a row that a thread keeps in registers, and the longest row that is kept by a block.
inline constexpr int kKeptPacks = 4;
inline bool is_kept(std::int64_t packs) { return packs <= std::int64_t{kKeptPacks} * kRowThreads; }

// f(k, i) for every pack of V elements of a row of n that is this thread's, i being its first element and k the
// register that it is kept in: always 0 where rows are too long for that.
template <int V, bool kept, class F>
__device__ __forceinline__ void each_pack(const RowThread& at, std::int64_t n, const F& f) {
  if constexpr (kept) {
#pragma unroll
    for (int k = 0; k < kKeptPacks; ++k) {
      const int i = (at.lane + k * at.lanes) * V;
      if (i < static_cast<int>(n)) f(k, i);
    }
  } else {
    for (std::int64_t i = std::int64_t{at.lane} * V; i < n; i += std::int64_t{at.lanes} * V) f(0, i);
  }
}

// The packs of a row that are kept, or the one that was read last.
template <class T, int V, bool kept>
struct RowPacks {
  Pack<T, V> x[kept ? kKeptPacks : 1];
  __device__ __forceinline__ void read(const T* row, int k, std::int64_t i) { x[k] = get<T, V>(row + i); }
};

// f.operator()<V, kept>(layout) as suits rows of n elements, which begin where packs can if `packs` and n allow it.
template <class T, class F>
void for_rows_of(std::int64_t n, bool packs, const F& f) {
  constexpr int V = kPackOf<T>;
  const bool wide = packs && n % V == 0;
  const std::int64_t count = wide ? n / V : n;
  const RowLayout layout = RowLayout::along(count);
  if (wide && is_kept(count)) return f.template operator()<V, true>(layout);
  if (wide) return f.template operator()<V, false>(layout);
  if (is_kept(count)) return f.template operator()<1, true>(layout);
  f.template operator()<1, false>(layout);
}

struct Adder {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};

#endif

}  // namespace pydlx::cuda
