// Stable radix sort of (key, position) pairs, eight bits a pass, for any number of rows of equal length (Satish, Harris
// and Garland 2009, "Designing efficient sorting algorithms for manycore GPUs").
#pragma once
#include "cuda/runtime/each.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kRadixItems = 8, kRadixWarps = kEachThreads / kWarp, kRadixTile = kEachThreads * kRadixItems;
constexpr int kDigits = 256;
static_assert(kDigits == kEachThreads);

template <class K>
__device__ __forceinline__ unsigned digit_of(K key, int shift) {
  return static_cast<unsigned>(key >> shift) & (kDigits - 1);
}

// counts[row][digit][tile]; summed up in this order they are the places where digits of tiles go.
template <class K>
__global__ void __launch_bounds__(kEachThreads)
    count_digits(const K* keys, std::int64_t n, std::int64_t tiles, int shift, std::int64_t* counts) {
  __shared__ unsigned count[kDigits];
  const std::int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  count[threadIdx.x] = 0;
  __syncthreads();
  for (int j = 0; j < kRadixItems; ++j) {
    const std::int64_t i = tile * kRadixTile + j * kEachThreads + threadIdx.x;
    if (i < n) atomicAdd(&count[digit_of(keys[row * n + i], shift)], 1u);
  }
  __syncthreads();
  counts[(row * kDigits + threadIdx.x) * tiles + tile] = count[threadIdx.x];
}

// Every warp owns consecutive items of the tile. A lane's rank among its warp's items of the same digit comes from
// matching digits across the warp, so equal digits keep their order.
template <class K>
__global__ void __launch_bounds__(kEachThreads)
    move_digits(const K* keys, const std::uint32_t* at, std::int64_t n, std::int64_t tiles, int shift,
                const std::int64_t* places, K* keys_out, std::uint32_t* at_out) {
  __shared__ unsigned count[kRadixWarps][kDigits];
  __shared__ std::int64_t place[kDigits];
  const std::int64_t row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const std::int64_t first = tile * kRadixTile + warp * (kWarp * kRadixItems) + lane;
  for (int w = 0; w < kRadixWarps; ++w) count[w][threadIdx.x] = 0;
  place[threadIdx.x] = places[(row * kDigits + threadIdx.x) * tiles + tile];
  __syncthreads();
  K key[kRadixItems];
  unsigned rank[kRadixItems];
#pragma unroll
  for (int j = 0; j < kRadixItems; ++j) {
    const std::int64_t i = first + j * kWarp;
    key[j] = i < n ? keys[row * n + i] : K(0);
    const unsigned digit = i < n ? digit_of(key[j], shift) : kDigits;  // what lies beyond the row matches nothing
    const unsigned same = __match_any_sync(kFullMask, digit), earlier = same & ((1u << lane) - 1);
    const unsigned before = i < n ? count[warp][digit] : 0;
    __syncwarp();
    if (i < n && earlier == 0) count[warp][digit] = before + static_cast<unsigned>(__popc(same));
    __syncwarp();
    rank[j] = before + static_cast<unsigned>(__popc(earlier));
  }
  __syncthreads();
  unsigned sum = 0;  // this thread's digit: counts of warps become sums over earlier warps
  for (int w = 0; w < kRadixWarps; ++w) {
    const unsigned c = count[w][threadIdx.x];
    count[w][threadIdx.x] = sum;
    sum += c;
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < kRadixItems; ++j) {
    const std::int64_t i = first + j * kWarp;
    if (i >= n) continue;
    const unsigned digit = digit_of(key[j], shift);
    const std::int64_t to = place[digit] + count[warp][digit] + rank[j];
    keys_out[to] = key[j];
    at_out[to] = at ? at[row * n + i] : static_cast<std::uint32_t>(i);
  }
}

// The pairs of a sort and the room to move them. Rows have fewer than 2^32 elements; positions count within the row.
template <class K>
class RadixSort {
 public:
  RadixSort(std::int64_t rows, std::int64_t n)
      : rows_(rows),
        n_(n),
        tiles_(ceil_div(n, kRadixTile)),
        keys_a_(rows * n),
        keys_b_(rows * n),
        at_a_(rows * n),
        at_b_(rows * n),
        counts_(rows * kDigits * tiles_) {}

  K* keys() const { return flipped_ ? keys_b_.get() : keys_a_.get(); }  // [rows, n]: fill, run(), read
  const std::uint32_t* at() const { return flipped_ ? at_b_.get() : at_a_.get(); }

  // Orders by the low `bits` of the keys.
  void run(int bits) {
    for (int shift = 0; shift == 0 || shift < bits; shift += 8) {
      const unsigned blocks = static_cast<unsigned>(rows_ * tiles_);
      const K* keys = this->keys();
      const std::uint32_t* positions = shift == 0 ? nullptr : at();
      launch(count_digits<K>, blocks, kEachThreads, 0, keys, n_, tiles_, shift, counts_.get());
      exclusive_sums(counts_.get(), counts_.get(), rows_ * kDigits * tiles_, nullptr);
      launch(move_digits<K>, blocks, kEachThreads, 0, keys, positions, n_, tiles_, shift,
             static_cast<const std::int64_t*>(counts_.get()), flipped_ ? keys_a_.get() : keys_b_.get(),
             flipped_ ? at_a_.get() : at_b_.get());
      flipped_ = !flipped_;
    }
  }

 private:
  const std::int64_t rows_, n_, tiles_;
  const Scratch<K> keys_a_, keys_b_;
  const Scratch<std::uint32_t> at_a_, at_b_;
  const Scratch<std::int64_t> counts_;
  bool flipped_ = false;
};

// Bits of the numbers below n.
[[maybe_unused]] int bits_below(std::int64_t n) {
  int bits = 1;
  while (bits < 63 && (std::int64_t{1} << bits) < n) ++bits;
  return bits;
}

}  // namespace
}  // namespace pydlx::cuda
