// Random numbers: the bits of the CPU's, because both use functors/distributions.h on the same counters.
#include "cuda/runtime/draws.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/runtime/pack.cuh"
#include "cuda/sort/rows.cuh"
#include "functors/distributions.h"
#include "functors/types.h"
#include "kernels/random.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

// ---- one counter block per thread -----------------------------------------------------------------------------------

bool is_aligned(const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

__device__ __forceinline__ std::uint64_t pair_of(const PhiloxWords& p, int j) {
  return std::uint64_t{p.w[2 * j]} << 32 | p.w[2 * j + 1];
}

template <RandomOp op, class T>
struct Fill {
  static constexpr int V = 16 / static_cast<int>(sizeof(T));  // values of a block: four floats or two doubles
  RandomFill k;
  bool aligned;
  __device__ __forceinline__ void operator()(std::int64_t b) const {
    const FirstDraw first = first_draw(k);
    const PhiloxWords p = philox(first.seed, first.offset + static_cast<std::uint64_t>(b));
    typename RandomBits<T>::type r[V];
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if constexpr (V == 4)
        r[j] = p.w[j];
      else
        r[j] = pair_of(p, j);
    }
    const DrawParams<T> params(k);
    Pack<T, V> y;
    if constexpr (op == RandomOp::normal) {
#pragma unroll
      for (int j = 0; j < V; j += 2) draw_normal(r[j], r[j + 1], params, y.v[j], y.v[j + 1]);
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) y.v[j] = draw<op>(r[j], params);
    }
    store<T, V>(static_cast<T*>(k.out), b * V, k.n, aligned, y);
  }
};
template <RandomOp op, class T>
void fill(const RandomFill& k) {
  constexpr int V = Fill<op, T>::V;
  for_each((k.n + V - 1) / V, Fill<op, T>{k, is_aligned(k.out, 16)});
}

struct Integers {
  RandomFill k;
  bool aligned;
  __device__ __forceinline__ void operator()(std::int64_t b) const {
    const FirstDraw first = first_draw(k);
    const PhiloxWords p = philox(first.seed, first.offset + static_cast<std::uint64_t>(b));
    Pack<std::int64_t, 2> y;
#pragma unroll
    for (int j = 0; j < 2; ++j) y.v[j] = draw_integer(pair_of(p, j), static_cast<std::uint64_t>(k.low), k.range);
    store<std::int64_t, 2>(static_cast<std::int64_t*>(k.out), b * 2, k.n, aligned, y);
  }
};
void integers(const RandomFill& k) { for_each((k.n + 1) / 2, Integers{k, is_aligned(k.out, 16)}); }

template <class T>
struct Bernoulli {
  RandomFill k;
  bool aligned;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t b) const {
    const FirstDraw first = first_draw(k);
    const PhiloxWords r = philox(first.seed, first.offset + static_cast<std::uint64_t>(b));
    const T* p = static_cast<const T*>(k.input);
    const auto threshold = static_cast<std::uint64_t>(k.a * 0x1p32);
    Pack<bool, 4> y;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (p) {
        const double q = b * 4 + j < k.n ? static_cast<double>(static_cast<compute_t<T>>(p[b * 4 + j])) : 0;
        if (!(q >= 0 && q <= 1)) report(faults, Fault::probability, b * 4 + j);
        y.v[j] = static_cast<double>(r.w[j]) < q * 0x1p32;
      } else {
        y.v[j] = r.w[j] < threshold;
      }
    }
    store<bool, 4>(static_cast<bool*>(k.out), b * 4, k.n, aligned, y);
  }
};
template <class T>
std::int64_t bernoulli(const RandomFill& k) {
  for_each((k.n + 3) / 4, Bernoulli<T>{k, is_aligned(k.out, 4), fault_report()});
  return -1;
}

// Draws come by fours: one or two blocks of counters for a pack.
template <class T>
struct DropOut {
  static constexpr int V = sizeof(T) == 2 ? 8 : 4;
  Dropout k;
  bool aligned;
  __device__ __forceinline__ void operator()(std::int64_t b) const {
    using A = compute_t<T>;
    const A scale = static_cast<A>(k.scale), shift = static_cast<A>(k.shift), dropped = static_cast<A>(k.dropped);
    const FirstDraw first = first_draw(k);
    const Pack<T, V> x = load<T, V>(static_cast<const T*>(k.in), b * V, k.n, aligned);
    Pack<T, V> y;
#pragma unroll
    for (int q = 0; q < V / 4; ++q) {
      const PhiloxWords r = philox(first.seed, first.offset + static_cast<std::uint64_t>(b * (V / 4) + q));
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // the threshold is at most 2^32, which drops everything
        const A v = static_cast<A>(x.v[4 * q + j]) * scale + shift;
        y.v[4 * q + j] = static_cast<T>(r.w[j] >= k.threshold ? v : dropped);
      }
    }
    store<T, V>(static_cast<T*>(k.out), b * V, k.n, aligned, y);
  }
};
template <class T>
void dropout(const Dropout& k) {
  constexpr int V = DropOut<T>::V;
  const bool aligned = is_aligned(k.in, V * sizeof(T)) && is_aligned(k.out, V * sizeof(T));
  for_each((k.n + V - 1) / V, DropOut<T>{k, aligned});
}

template <class T>
struct Poisson {
  RandomFill k;
  FaultReport* faults;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const double rate = static_cast<double>(static_cast<const T*>(k.input)[i]);
    T& out = static_cast<T*>(k.out)[i];
    if (rate >= 0 && rate <= 0x1p53) {
      const FirstDraw first = first_draw(k);
      out = static_cast<T>(draw_poisson(rate, {first.seed, first.offset + static_cast<std::uint64_t>(i)}));
    } else {
      report(faults, Fault::probability, i);
      out = T(0);
    }
  }
};
template <class T>
std::int64_t poisson(const RandomFill& k) {
  for_each(k.n, Poisson<T>{k, fault_report()});
  return -1;
}

// ---- permutations ---------------------------------------------------------------------------------------------------
// The shuffle of Fisher and Yates, whose steps i = 0, 1, .. exchange places i and partner(i), is run in rounds: every
// step that remains reserves its two places for the earliest bidder, and steps that hold both exchange them. The result
// is that of the sequential loop; O(log n) rounds suffice with high probability (Shun, Gu, Blelloch, Fineman and
// Gibbons 2015, "Sequential random permutation, list contraction and tree contraction are highly parallel").

struct Shuffle {
  std::int64_t* out;
  unsigned long long* bid;  // per place: the round, counting down, above the step; earlier rounds' bids are larger
  std::uint8_t* done;
  std::uint64_t seed, offset;
  const std::uint64_t* base;
  std::int64_t n;
  unsigned long long round;  // counting down from kRounds
  static constexpr int kStepBits = 44;
  static constexpr unsigned long long kRounds = 1ull << 19;

  __device__ __forceinline__ std::int64_t partner(std::int64_t i) const {
    const FirstDraw first = first_draw(*this);
    return shuffle_partner(word64(first.seed, first.offset, i), i, n);
  }
  __device__ __forceinline__ unsigned long long bid_of(std::int64_t i) const {
    return round << kStepBits | static_cast<unsigned long long>(i);
  }
  __device__ __forceinline__ void start(std::int64_t i) const {
    out[i] = i;
    bid[i] = ~0ull;
    done[i] = i + 1 >= n;
  }
  __device__ __forceinline__ void reserve(std::int64_t i) const {
    if (done[i]) return;
    atomicMin(bid + i, bid_of(i));
    atomicMin(bid + partner(i), bid_of(i));
  }
  __device__ __forceinline__ void exchange(std::int64_t i) const {
    if (done[i]) return;
    const std::int64_t j = partner(i);
    if (bid[i] != bid_of(i) || bid[j] != bid_of(i)) return;
    const std::int64_t v = out[i];
    out[i] = out[j];
    out[j] = v;
    done[i] = 1;
  }
};
struct StartShuffle {
  Shuffle s;
  __device__ __forceinline__ void operator()(std::int64_t i) const { s.start(i); }
};
struct Reserve {
  Shuffle s;
  __device__ __forceinline__ void operator()(std::int64_t i) const { s.reserve(i); }
};
struct Exchange {
  Shuffle s;
  __device__ __forceinline__ void operator()(std::int64_t i) const { s.exchange(i); }
};

// Further rounds by one block until nothing remains.
__global__ void __launch_bounds__(1024) finish_shuffle(Shuffle s) {
  __shared__ unsigned remaining;
  for (;;) {
    if (threadIdx.x == 0) remaining = 0;
    __syncthreads();
    unsigned mine = 0;
    for (std::int64_t i = threadIdx.x; i < s.n; i += blockDim.x) mine += !s.done[i];
    if (mine > 0) atomicAdd(&remaining, 1u);
    __syncthreads();
    const bool finished = remaining == 0;
    if (finished) return;
    for (std::int64_t i = threadIdx.x; i < s.n; i += blockDim.x) s.reserve(i);
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < s.n; i += blockDim.x) s.exchange(i);
    __syncthreads();
    --s.round;
  }
}

void permutation(const RandomFill& k) {
  if (k.n <= 0) return;
  const Scratch<unsigned long long> bid(k.n);
  const Scratch<std::uint8_t> done(k.n);
  Shuffle s{static_cast<std::int64_t*>(k.out), bid.get(), done.get(), k.seed, k.offset, k.base, k.n, Shuffle::kRounds};
  for_each(k.n, StartShuffle{s});
  if (k.n > 8192)  // rounds of the whole device; the last block finds few steps left or none
    for (int round = 0; round < 2 * bits_below(k.n) + 8; ++round) {
      for_each(k.n, Reserve{s});
      for_each(k.n, Exchange{s});
      --s.round;
    }
  launch(finish_shuffle, 1, k.n >= 1024 ? 1024 : ceil_div(k.n, kWarp) * kWarp, 0, s);
}

// ---- weighted sampling ----------------------------------------------------------------------------------------------

constexpr int kSumStage = 1024;

// Checks a row; with replacement it also becomes its cumulative sums, added as on the CPU, and samples are drawn. One
// block per row, in turns.
__device__ void draw_one(const Multinomial& k, std::int64_t row, FaultReport* faults) {
  __shared__ int slots[kWarp];
  __shared__ double stage[kSumStage];
  __shared__ double total;
  __shared__ long long last;
  const FirstDraw first = first_draw(k);
  const double* p = k.weights + row * k.cols;
  double* s = k.scratch + row * k.cols;
  std::int64_t* out = k.out + row * k.samples;
  if (threadIdx.x == 0) {
    total = 0;
    last = -1;
  }
  __syncthreads();
  int bad = 0;
  long long positive = 0, mine = -1;
  for (std::int64_t j = threadIdx.x; j < k.cols; j += kEachThreads) {
    if (!(p[j] >= 0 && p[j] <= 0x1.fffffffffffffp1023)) {
      bad = 1;
      report(faults, Fault::weight, row * k.cols + j);
    } else if (p[j] > 0) {
      ++positive;
      mine = j;
    }
  }
  atomicMax(&last, mine);
  int any_bad, count;
  exclusive_sum(bad, slots, any_bad);
  exclusive_sum(static_cast<int>(positive > 0x7fffff ? 0x7fffff : positive), slots, count);
  const std::int64_t wanted = k.replacement ? 1 : k.samples;
  if (any_bad || count < wanted) {
    if (!any_bad && threadIdx.x == 0) report(faults, Fault::weight, row * k.cols);
    for (std::int64_t i = threadIdx.x; i < k.samples; i += kEachThreads) out[i] = 0;
    if (!k.replacement)
      for (std::int64_t j = threadIdx.x; j < k.cols; j += kEachThreads) s[j] = static_cast<double>(j);
    return;
  }
  if (!k.replacement) {
    for (std::int64_t j = threadIdx.x; j < k.cols; j += kEachThreads)  // zero weights come last
      s[j] = p[j] > 0 ? race_time(word64(first.seed, first.offset, row * k.cols + j), p[j])
                      : bit_cast<double>(std::uint64_t{0x7ff8000000000000});
    return;
  }
  const std::int64_t chunks = (k.cols + kWeightChunk - 1) / kWeightChunk;
  const auto chunk_end = [&](std::int64_t c) {
    return (c + 1) * kWeightChunk < k.cols ? (c + 1) * kWeightChunk : k.cols;
  };
  for (std::int64_t c = threadIdx.x; c < chunks; c += kEachThreads) {
    double sum = 0;
    for (std::int64_t j = c * kWeightChunk; j < chunk_end(c); ++j) s[j] = sum += p[j];
  }
  __syncthreads();
  for (std::int64_t from = 0; from < chunks; from += kSumStage) {
    const int n = static_cast<int>(chunks - from < kSumStage ? chunks - from : kSumStage);
    for (int c = static_cast<int>(threadIdx.x); c < n; c += kEachThreads) stage[c] = s[chunk_end(from + c) - 1];
    __syncthreads();
    if (threadIdx.x == 0) {
      double sum = total;
      for (int c = 0; c < n; ++c) {
        const double chunk = stage[c];
        stage[c] = sum;
        sum += chunk;
      }
      total = sum;
    }
    __syncthreads();
    for (std::int64_t j = from * kWeightChunk + threadIdx.x; j < chunk_end(from + n - 1); j += kEachThreads)
      s[j] += stage[j / kWeightChunk - from];
    __syncthreads();
  }
  for (std::int64_t i = threadIdx.x; i < k.samples; i += kEachThreads)
    out[i] = draw_weighted(word64(first.seed, first.offset, row * k.samples + i), s, total, last);
}
__global__ void __launch_bounds__(kEachThreads) draw_rows(const __grid_constant__ Multinomial k, FaultReport* faults) {
  for (std::int64_t row = blockIdx.x; row < k.rows; row += gridDim.x) {
    draw_one(k, row, faults);
    __syncthreads();  // before the next row takes the shared variables
  }
}

std::int64_t multinomial(const Multinomial& k) {
  if (k.rows <= 0) return -1;
  launch(draw_rows, grid_for(k.rows, 32), kEachThreads, 0, k, fault_report());
  if (!k.replacement)  // the shortest times, in order; what a row with too few weights gives has been reported
    topk_rows(RowsToSort<double>{k.scratch, nullptr, k.rows, k.cols, k.cols, k.samples, false, nullptr, k.out});
  return -1;
}

// ---- table ----------------------------------------------------------------------------------------------------------

}  // namespace

void register_random(KernelTable& t) {
  RandomKernels& k = family<RandomKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.fill[static_cast<int>(RandomOp::uniform)][idx<T>] = fill<RandomOp::uniform, T>;
    k.fill[static_cast<int>(RandomOp::normal)][idx<T>] = fill<RandomOp::normal, T>;
    k.fill[static_cast<int>(RandomOp::exponential)][idx<T>] = fill<RandomOp::exponential, T>;
    k.fill[static_cast<int>(RandomOp::geometric)][idx<T>] = fill<RandomOp::geometric, T>;
    k.fill[static_cast<int>(RandomOp::cauchy)][idx<T>] = fill<RandomOp::cauchy, T>;
  });
  each_type(FloatTypes{}, [&]<class T>() {
    k.bernoulli[idx<T>] = bernoulli<T>;
    k.dropout[idx<T>] = dropout<T>;
  });
  k.integers = integers;
  k.permutation = permutation;
  k.multinomial = multinomial;
  k.poisson[static_cast<int>(DType::Float32)] = poisson<float>;
  k.poisson[static_cast<int>(DType::Float64)] = poisson<double>;
}

}  // namespace pydlx::cuda
