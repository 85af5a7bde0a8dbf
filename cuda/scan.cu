// Scans along one axis. Dense lines: neighbouring lanes take neighbouring runs of elements, packs where they can, and
// join their results in a fixed order; a line longer than its lanes is carried from tile to tile. Others: a thread per
// line, or per V lines that are neighbours in memory. Lines are cut into parts, as the geometry alone has it, where
// there are few of them: a kernel finds what every part comes to, another one scans the parts, each from what those
// before it came to.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/rows.cuh"
#include "functors/scan.h"
#include "kernels/scan.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

// A state from another lane, word by word.
template <class S, class Move>
__device__ __forceinline__ S moved(const S& s, const Move& move) {
  S out;
  constexpr int words = static_cast<int>(sizeof(S) / 4);
  static_assert(sizeof(S) % 4 == 0);
  std::uint32_t w[words];
  __builtin_memcpy(w, &s, sizeof s);
#pragma unroll
  for (int j = 0; j < words; ++j) w[j] = move(w[j]);
  __builtin_memcpy(&out, w, sizeof out);
  return out;
}
template <class S>
__device__ __forceinline__ S from_earlier_lane(const S& s, int by) {
  return moved(s, [=](std::uint32_t w) { return __shfl_up_sync(kFullMask, w, static_cast<unsigned>(by)); });
}

// Of the `lanes` threads that share a line: the states of all earlier ones, joined; and of all. Powers of two.
template <class O>
__device__ __forceinline__ typename O::State join_earlier(typename O::State mine, typename O::State* slots,
                                                          typename O::State& total, int lanes) {
  using State = typename O::State;
  const int width = lanes < kWarp ? lanes : kWarp, thread = static_cast<int>(threadIdx.x), lane = thread % width;
  State s = mine;
  for (int d = 1; d < width; d *= 2) {
    State before = from_earlier_lane(s, d);
    if (lane >= d) {
      O::join(before, s);
      s = before;
    }
  }
  State before = from_earlier_lane(s, 1);
  if (lane == 0) before = O::init();
  const int last = thread % kWarp - lane + width - 1;
  total = moved(s, [=](std::uint32_t w) { return __shfl_sync(kFullMask, w, last); });
  if (lanes <= kWarp) return before;
  const int warp = thread / kWarp, warps = lanes / kWarp, first = warp / warps * warps;
  if (lane == kWarp - 1) slots[warp] = s;
  __syncthreads();
  State earlier = O::init();
  total = O::init();
  for (int w = first; w < first + warps; ++w) {
    if (w == warp) earlier = total;
    O::join(total, slots[w]);
  }
  __syncthreads();
  O::join(earlier, before);
  return earlier;
}

// ---- dense lines ----------------------------------------------------------------------------------------------------

template <class T>
inline constexpr int kScanItems = kPackOf<T> > 4 ? kPackOf<T> : 4;  // neighbours that a thread takes

struct DenseParts {
  // Lines that keep the device busy, and how long a part is at least, in tiles.
  static constexpr std::int64_t kEnough = 264, kWanted = 1056, kLeastTiles = 4;
  int lanes;
  std::int64_t part, count;
  DenseParts(std::int64_t lines, std::int64_t n, int items) {
    lanes = power_of_two_up_to((n + items - 1) / items, kRowThreads);
    const std::int64_t tile = std::int64_t{lanes} * items, tiles = (n + tile - 1) / tile;
    std::int64_t parts = lines < kEnough ? (kWanted + lines - 1) / lines : 1;
    if (parts > tiles / kLeastTiles) parts = tiles / kLeastTiles;
    if (parts < 1) parts = 1;
    part = (tiles + parts - 1) / parts * tile;
    count = (n + part - 1) / part;
  }
};

// sums: what every part of a line comes to goes to totals[line][parts]. Otherwise it is scanned from what the totals of
// earlier parts come to, if there are any.
template <class O, class T, bool packs, bool sums>
__global__ void __launch_bounds__(kRowThreads, kScanItems<T> > 8 ? 1 : 2)
    scan_dense(const __grid_constant__ Scan k, const __grid_constant__ DenseParts p, typename O::State* totals) {
  using State = typename O::State;
  constexpr int kItems = kScanItems<T>;
  __shared__ State slots[kRowThreads / kWarp];
  const int thread = static_cast<int>(threadIdx.x), rows = kRowThreads / p.lanes, lane = thread % p.lanes;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * p.part,
                     end = begin + p.part < k.n ? begin + p.part : k.n, tile = std::int64_t{p.lanes} * kItems;
  for (std::int64_t first_line = static_cast<std::int64_t>(blockIdx.x) * rows; first_line < k.outer;
       first_line += static_cast<std::int64_t>(gridDim.x) * rows) {
    const std::int64_t line = first_line + thread / p.lanes, stop = line < k.outer ? end : begin;
    const T* in = static_cast<const T*>(k.in) + line * k.n;
    T* out = static_cast<T*>(k.out) + line * k.n;
    // Element j of the run that begins at `step`, counted from where the scan begins.
    const auto place = [&](std::int64_t step, int j) { return k.reverse ? k.n - 1 - step - j : step + j; };
    const auto start_of = [&](std::int64_t step) { return k.reverse ? k.n - step - kItems : step; };
    const auto read = [&](std::int64_t step, T(&x)[kItems]) {
      if constexpr (packs) {
        if (step >= stop) return;
        const Pack<T, kItems> run = get<T, kItems>(in + start_of(step));
#pragma unroll
        for (int j = 0; j < kItems; ++j) x[j] = k.reverse ? run.v[kItems - 1 - j] : run.v[j];
      } else {
#pragma unroll
        for (int j = 0; j < kItems; ++j)
          if (step + j < stop) x[j] = in[place(step, j)];
      }
    };
    State carry = O::init();
    if (!sums && totals) {
      const std::int64_t each = (p.count + kRowThreads - 1) / kRowThreads, here = blockIdx.y;
      State mine = O::init();
      for (std::int64_t q = thread * each; q < (thread + 1) * each && q < here; ++q)
        O::join(mine, totals[line * p.count + q]);
      join_earlier<O>(mine, slots, carry, kRowThreads);
    }
    T next[kItems];
    read(begin + lane * kItems, next);
    for (std::int64_t first = begin; first < end; first += tile) {
      const std::int64_t step = first + lane * kItems;
      T x[kItems];
      State mine = O::init();
#pragma unroll
      for (int j = 0; j < kItems; ++j) {
        x[j] = next[j];
        if (step + j < stop) O::step(mine, x[j], place(step, j));
      }
      read(step + tile, next);  // all elements are read before they are written: in and out may be the same
      State total;
      const State s = join_earlier<O>(mine, slots, total, p.lanes);
      if constexpr (!sums) {
        State start = carry;
        O::join(start, s);
        Pack<T, kItems> y;
        Pack<std::int64_t, kItems> at;
#pragma unroll
        for (int j = 0; j < kItems; ++j) {
          if (step + j >= stop) break;
          const T before = O::value(start);
          O::step(start, x[j], place(step, j));
          const T v = k.exclusive ? before : O::value(start);
          if constexpr (packs) {
            (k.reverse ? y.v[kItems - 1 - j] : y.v[j]) = v;
            if constexpr (O::indexed) (k.reverse ? at.v[kItems - 1 - j] : at.v[j]) = start.at;
          } else {
            out[place(step, j)] = v;
            if constexpr (O::indexed) k.index[line * k.n + place(step, j)] = start.at;
          }
        }
        if (packs && step < stop) {
          put(out + start_of(step), y);
          if constexpr (O::indexed) put(k.index + line * k.n + start_of(step), at);
        }
      }
      O::join(carry, total);
    }
    if (sums && lane == 0 && line < k.outer) totals[line * p.count + blockIdx.y] = carry;
  }
}

template <class O, class T>
void scan_rows(const Scan& k) {
  using State = typename O::State;
  const DenseParts p(k.outer, k.n, kScanItems<T>);
  const bool packs = packs_begin(k.in, k.out, k.index) && k.n % kScanItems<T> == 0;
  const dim3 grid(grid_for((k.outer + kRowThreads / p.lanes - 1) / (kRowThreads / p.lanes), 32),
                  static_cast<unsigned>(p.count));
  if (p.count == 1)
    return launch(packs ? scan_dense<O, T, true, false> : scan_dense<O, T, false, false>, grid, kRowThreads, 0, k, p,
                  static_cast<State*>(nullptr));
  const Scratch<State> totals(k.outer * p.count);
  launch(packs ? scan_dense<O, T, true, true> : scan_dense<O, T, false, true>, grid, kRowThreads, 0, k, p,
         totals.get());
  launch(packs ? scan_dense<O, T, true, false> : scan_dense<O, T, false, false>, grid, kRowThreads, 0, k, p,
         totals.get());
}

// ---- other lines ----------------------------------------------------------------------------------------------------

struct ColumnParts {
  static constexpr std::int64_t kEnough = 1 << 15, kWanted = 1 << 17, kLeast = 32, kMost = 64;
  std::int64_t packs, part, count;  // of lines; of a line
  Divider across, outer;
  ColumnParts(const Scan& k, int v) : packs(k.outer * (k.inner / v)) {
    std::int64_t parts = packs < kEnough ? (kWanted + packs - 1) / packs : 1;
    for (const std::int64_t most : {k.n / kLeast, kMost}) parts = parts < most ? parts : most;
    if (parts < 1) parts = 1;
    part = (k.n + parts - 1) / parts;
    count = (k.n + part - 1) / part;
    across = Divider(k.inner / v, packs * count);
    outer = Divider(k.outer, packs * count);
  }
};

// A thread scans a part of V neighbouring lines; totals[parts][outer][inner].
template <class O, class T, int V, bool sums>
struct ScanColumns {
  using State = typename O::State;
  Scan k;
  ColumnParts p;
  State* totals;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    constexpr int kAhead = 4;
    const Quotient lines = p.across(e), place = p.outer(lines.quotient);  // e = (part, outer, pack of columns)
    const std::int64_t begin = place.quotient * p.part, end = begin + p.part < k.n ? begin + p.part : k.n;
    const std::int64_t column = lines.rest * V, base = place.rest * k.n * k.inner + column;
    const std::int64_t line = place.rest * k.inner + column, all = k.outer * k.inner;
    const T* in = static_cast<const T*>(k.in) + base;
    T* out = static_cast<T*>(k.out) + base;
    State s[V];
#pragma unroll
    for (int j = 0; j < V; ++j) s[j] = O::init();
    if (!sums && totals)
      for (std::int64_t q = 0; q < place.quotient; ++q)
#pragma unroll
        for (int j = 0; j < V; ++j) O::join(s[j], totals[q * all + line + j]);
    for (std::int64_t first = begin; first < end; first += kAhead) {
      Pack<T, V> x[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a)
        if (first + a < end) x[a] = get<T, V>(in + (k.reverse ? k.n - 1 - first - a : first + a) * k.inner);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (first + a >= end) break;
        const std::int64_t i = k.reverse ? k.n - 1 - first - a : first + a;
        Pack<T, V> y;
        Pack<std::int64_t, V> at;
#pragma unroll
        for (int j = 0; j < V; ++j) {
          if (k.exclusive) y.v[j] = O::value(s[j]);
          O::step(s[j], x[a].v[j], i);
          if (!k.exclusive) y.v[j] = O::value(s[j]);
          if constexpr (O::indexed) at.v[j] = s[j].at;
        }
        if constexpr (sums) continue;
        put(out + i * k.inner, y);
        if constexpr (O::indexed) put(k.index + base + i * k.inner, at);
      }
    }
    if constexpr (sums) {
#pragma unroll
      for (int j = 0; j < V; ++j) totals[place.quotient * all + line + j] = s[j];
    }
  }
};

template <class O, class T, int V>
void scan_columns(const Scan& k) {
  using State = typename O::State;
  const ColumnParts p(k, V);
  const std::int64_t n = p.packs * p.count;
  if (p.count == 1) return for_each(n, ScanColumns<O, T, V, false>{k, p, nullptr});
  const Scratch<State> totals(k.outer * k.inner * p.count);
  for_each(n, ScanColumns<O, T, V, true>{k, p, totals.get()});
  for_each(n, ScanColumns<O, T, V, false>{k, p, totals.get()});
}

template <class O, class T>
void scan(const Scan& k) {
  if (k.outer * k.inner <= 0 || k.n <= 0) return;
  if (k.inner == 1) return scan_rows<O, T>(k);
  constexpr int V = kPackOf<T> < 8 ? kPackOf<T> : 8;
  if (packs_begin(k.in, k.out, k.index) && k.inner % V == 0) return scan_columns<O, T, V>(k);
  scan_columns<O, T, 1>(k);
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
