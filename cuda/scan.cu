// Scans along one axis. A block carries a line from tile to tile; inside a tile every thread takes some neighbouring
// elements, and their results are joined across the block in a fixed order. Many short or strided lines have a thread
// each.
#include "cuda/runtime/each.cuh"
#include "functors/scan.h"
#include "kernels/scan.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

constexpr int kScanItems = 4;

// A state from another lane, word by word.
template <class S>
__device__ __forceinline__ S from_earlier_lane(const S& s, unsigned by) {
  S out;
  constexpr int words = static_cast<int>(sizeof(S) / 4);
  static_assert(sizeof(S) % 4 == 0);
  std::uint32_t w[words];
  __builtin_memcpy(w, &s, sizeof s);
#pragma unroll
  for (int j = 0; j < words; ++j) w[j] = __shfl_up_sync(kFullMask, w[j], by);
  __builtin_memcpy(&out, w, sizeof out);
  return out;
}

// The states of all earlier threads, joined; and of all threads of the block.
template <class O>
__device__ __forceinline__ typename O::State join_earlier(typename O::State mine, typename O::State* slots,
                                                          typename O::State& total) {
  using State = typename O::State;
  const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  State s = mine;
  for (unsigned d = 1; d < kWarp; d *= 2) {
    State before = from_earlier_lane(s, d);
    if (lane >= d) {
      O::join(before, s);
      s = before;
    }
  }
  if (lane == kWarp - 1) slots[warp] = s;
  State before = from_earlier_lane(s, 1);
  if (lane == 0) before = O::init();
  __syncthreads();
  State earlier = O::init();
  total = O::init();
  for (unsigned w = 0; w < warps; ++w) {
    if (w == warp) earlier = total;
    O::join(total, slots[w]);
  }
  __syncthreads();
  O::join(earlier, before);
  return earlier;
}

template <class O, class T>
__global__ void __launch_bounds__(kEachThreads) scan_line(const __grid_constant__ Scan k) {
  using State = typename O::State;
  __shared__ State slots[kWarp];
  const int tile = static_cast<int>(blockDim.x) * kScanItems;
  for (std::int64_t line = blockIdx.x; line < k.outer * k.inner; line += gridDim.x) {
    const std::int64_t base = line / k.inner * k.n * k.inner + line % k.inner;
    const T* in = static_cast<const T*>(k.in) + base;
    T* out = static_cast<T*>(k.out) + base;
    State carry = O::init();
    for (std::int64_t first = 0; first < k.n; first += tile) {
      T x[kScanItems];
      State mine = O::init();
#pragma unroll
      for (int j = 0; j < kScanItems; ++j) {
        const std::int64_t step = first + threadIdx.x * kScanItems + j, i = k.reverse ? k.n - 1 - step : step;
        if (step >= k.n) continue;
        x[j] = in[i * k.inner];
        O::step(mine, x[j], i);
      }
      State total;
      State s = join_earlier<O>(mine, slots, total),
            start = carry;  // all elements are read: in and out may be the same
      O::join(start, s);
#pragma unroll
      for (int j = 0; j < kScanItems; ++j) {
        const std::int64_t step = first + threadIdx.x * kScanItems + j, i = k.reverse ? k.n - 1 - step : step;
        if (step >= k.n) continue;
        if (k.exclusive) out[i * k.inner] = O::value(start);
        O::step(start, x[j], i);
        if (!k.exclusive) out[i * k.inner] = O::value(start);
        if constexpr (O::indexed) k.index[base + i * k.inner] = start.at;
      }
      O::join(carry, total);
    }
  }
}

template <class O, class T>
struct WalkLine {
  Scan k;
  __device__ __forceinline__ void operator()(std::int64_t line) const {
    const auto [row, column] = divide(line, k.inner);
    const std::int64_t base = row * k.n * k.inner + column;
    const T* in = static_cast<const T*>(k.in) + base;
    T* out = static_cast<T*>(k.out) + base;
    typename O::State s = O::init();
    for (std::int64_t step = 0; step < k.n; ++step) {
      const std::int64_t i = k.reverse ? k.n - 1 - step : step;
      const T x = in[i * k.inner];
      if (k.exclusive) out[i * k.inner] = O::value(s);
      O::step(s, x, i);
      if (!k.exclusive) out[i * k.inner] = O::value(s);
      if constexpr (O::indexed) k.index[base + i * k.inner] = s.at;
    }
  }
};

template <class O, class T>
void scan(const Scan& k) {
  const std::int64_t lines = k.outer * k.inner;
  if (lines <= 0 || k.n <= 0) return;
  // Threads of neighbouring columns read neighbouring elements; rows are worth a thread only when they are tiny.
  const bool walk = k.inner >= kWarp ? lines >= std::int64_t{256} * multiprocessors() || k.n <= 64 : k.n <= 8;
  if (walk) return for_each(lines, WalkLine<O, T>{k});
  const std::int64_t threads = ceil_div(k.n, std::int64_t{kScanItems} * kWarp) * kWarp;
  launch(scan_line<O, T>, grid_for(lines, 32), threads < kEachThreads ? static_cast<unsigned>(threads) : kEachThreads,
         0, k);
}

template <ScanOp op, class T, class O>
void add(ScanKernels& k) {
  k.scan[static_cast<int>(op)][static_cast<int>(DTypeOf<T>::value)] = scan<O, T>;
}
template <class T>
void add_order(ScanKernels& k) {
  add<ScanOp::max, T, CumExtremum<true, T>>(k);
  add<ScanOp::min, T, CumExtremum<false, T>>(k);
}
}  // namespace

void register_scan(KernelTable& t) {
  ScanKernels& k = family<ScanKernels>(t);
  add<ScanOp::sum, std::int64_t, CumSum<std::int64_t>>(k);
  add<ScanOp::prod, std::int64_t, CumProd<std::int64_t>>(k);
  add_order<std::uint8_t>(k);
  add_order<std::int8_t>(k);
  add_order<std::int16_t>(k);
  add_order<std::int32_t>(k);
  add_order<std::int64_t>(k);
  each_type(FloatTypes{}, [&]<class T>() {
    add<ScanOp::sum, T, CumSum<T>>(k);
    add<ScanOp::prod, T, CumProd<T>>(k);
    add<ScanOp::logsumexp, T, LogCumSumExp<T>>(k);
    add_order<T>(k);
  });
  for (const ScanOp op : {ScanOp::max, ScanOp::min}) {  // a bool is a byte holding 0 or 1
    ScanFn* row = k.scan[static_cast<int>(op)];
    row[static_cast<int>(DType::Bool)] = row[static_cast<int>(DType::UInt8)];
  }
}

}  // namespace pydlx::cuda
