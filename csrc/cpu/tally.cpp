// Counting integers. Threads count into tables of their own, which are added in the end: integers, so that the order
// does not matter.
#include "cpu/isa.h"
#include "kernels/sort.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kTallyGrain = 32768;
constexpr std::int64_t kTallyBlock = 1024;
// Runs of equal values would wait for the previous increment of the same counter; four neighbours therefore have a
// table each, while those fit in the caches.
constexpr std::int64_t kFourTables = 4096;

PYDLX_HD std::int64_t tables_of(std::int64_t bins) { return bins <= kFourTables ? 4 : 1; }

std::int64_t tally_bytes(std::int64_t bins) { return 4 * tables_of(bins) * bins * num_threads(); }

// The bins of a block, and its range. Bins that do not exist become 0: what is counted are these copies, whatever other
// threads do to the input meanwhile.
struct Block {
  std::int64_t low, high;
  bool inside;
  alignas(64) std::uint32_t bin[kTallyBlock];
};
template <class T>
__attribute__((noinline)) void read_block(const T* x, std::int64_t n, std::uint64_t from, std::uint64_t bins,
                                          Block& b) {
  T low = x[0], high = x[0];
  std::uint64_t outside = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(| : outside)
  for (std::int64_t i = 0; i < n; ++i) {
    const T v = x[i];
    const std::uint64_t k = static_cast<std::uint64_t>(static_cast<std::int64_t>(v)) - from;
    low = v < low ? v : low;
    high = v > high ? v : high;
    outside |= k < bins ? 0 : 1;
    b.bin[i] = static_cast<std::uint32_t>(k < bins ? k : 0);
  }
  b.low = low;
  b.high = high;
  b.inside = outside == 0;
}

// Element 4 i + k counts in table k of four, or all of them in one.
__attribute__((noinline)) void count_block(const std::uint32_t* bin, std::int64_t n, std::int64_t bins,
                                           std::uint32_t* table) {
  std::int64_t i = 0;
  if (tables_of(bins) == 4) {
    std::uint32_t *t1 = table + bins, *t2 = t1 + bins, *t3 = t2 + bins;
    for (; i + 4 <= n; i += 4) {
      ++table[bin[i]];
      ++t1[bin[i + 1]];
      ++t2[bin[i + 2]];
      ++t3[bin[i + 3]];
    }
  }
  for (; i < n; ++i) ++table[bin[i]];
}

template <class T>
void tally(Tally& t) {
  const T* in = static_cast<const T*>(t.in);
  const std::int64_t words = tables_of(t.bins) * t.bins, chunks = (t.n - 1) / kTallyGrain + 1;
  const std::int64_t threads = chunks < num_threads() ? chunks : num_threads();
  std::uint32_t* tables = static_cast<std::uint32_t*>(t.workspace);
  std::memset(tables, 0, static_cast<std::size_t>(threads * words) * sizeof *tables);
  const auto from = static_cast<std::uint64_t>(t.from), bins = static_cast<std::uint64_t>(t.bins);
  std::int64_t least = INT64_MAX, greatest = INT64_MIN;
  bool outside = false;
  parallel_for(t.n, kTallyGrain, [&](std::int64_t begin, std::int64_t end) {
    std::uint32_t* table = tables + (threads > 1 ? thread_index() : 0) * words;
    std::int64_t low = INT64_MAX, high = INT64_MIN;
    bool count = !__atomic_load_n(&outside, __ATOMIC_RELAXED);
    for (std::int64_t i = begin; i < end; i += kTallyBlock) {
      const std::int64_t n = end - i < kTallyBlock ? end - i : kTallyBlock;
      Block b;
      read_block(in + i, n, from, bins, b);
      low = b.low < low ? b.low : low;
      high = b.high > high ? b.high : high;
      count = count && b.inside;
      if (count) count_block(b.bin, n, t.bins, table);
    }
    if (!count) __atomic_store_n(&outside, true, __ATOMIC_RELAXED);
    std::int64_t seen = __atomic_load_n(&least, __ATOMIC_RELAXED);
    while (low < seen && !__atomic_compare_exchange_n(&least, &seen, low, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    seen = __atomic_load_n(&greatest, __ATOMIC_RELAXED);
    while (high > seen &&
           !__atomic_compare_exchange_n(&greatest, &seen, high, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  });
  t.least = least;
  t.greatest = greatest;
  t.counted = !outside;
  if (!t.counted) return;
  for (std::int64_t i = 0; i < t.bins; ++i) t.out[i] = tables[i];
  for (std::int64_t k = t.bins; k < threads * words; k += t.bins)
    for (std::int64_t i = 0; i < t.bins; ++i) t.out[i] += tables[k + i];
}

// Sequential: bins are few and random, and weights must be added in input order.
template <class W>
std::int64_t bincount(const Bincount& b) {
  for (std::int64_t i = 0; i < b.n; ++i) {
    if (b.in[i] < 0 || b.in[i] >= b.bins) return i;
    if constexpr (__is_same(W, void))
      ++static_cast<std::int64_t*>(b.out)[b.in[i]];
    else
      static_cast<W*>(b.out)[b.in[i]] += static_cast<const W*>(b.weights)[i];
  }
  return -1;
}

}  // namespace

void register_tally(KernelTable& t) {
  SortKernels& s = family<SortKernels>(t);
  s.count = bincount<void>;
  s.weigh[static_cast<int>(DType::Float32)] = bincount<float>;
  s.weigh[static_cast<int>(DType::Float64)] = bincount<double>;
  s.tally_bytes = tally_bytes;
  s.tally[static_cast<int>(DType::UInt8)] = tally<std::uint8_t>;
  s.tally[static_cast<int>(DType::Int8)] = tally<std::int8_t>;
  s.tally[static_cast<int>(DType::Int16)] = tally<std::int16_t>;
  s.tally[static_cast<int>(DType::Int32)] = tally<std::int32_t>;
  s.tally[static_cast<int>(DType::Int64)] = tally<std::int64_t>;
}

}  // namespace pydlx::PYDLX_ISA
