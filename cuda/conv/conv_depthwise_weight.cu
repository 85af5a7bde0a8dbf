// Gradient of the weight of convolutions whose groups have few channels: every weight is a sum over all images and
// pixels. Blocks take a part of it each, for the taps between two channels (channels first: threads side by side along
// rows, eight rows of results at a time) or of some chunks of channels (channels last: 16 bytes a thread, a row of taps
// each). Parts depend on the geometry alone and are added in order.
#include "core/verbose.h"
#include "cuda/conv/aligned.cuh"
#include "cuda/conv/conv_depthwise.h"
#include "cuda/conv/depthwise_weight.cuh"
#include "cuda/runtime/rows.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kPlaneThreads = 128;
// Rows of results that a thread has at a time, channels first.
template <class T, int K>
constexpr int kStrip = sizeof(T) == 8 && K == 7 ? 2 : 8;

// Taps of a block, where they are not unrolled, with the channels first and last.
constexpr int kTapsFirst = 9, kTapsLast = 4;

// ---- channels first -------------------------------------------------------------------------------------------------

// The two channels of a row of taps.
template <class T>
struct ChannelPair {
  const T *x, *y;  // of the first image
  __device__ __forceinline__ ChannelPair(const WeightSum<T>& s, std::int64_t row) {
    const auto [channel, source] = divide(row, s.sources);
    x = s.in() + (divide(channel, s.results).quotient * s.sources + source) * s.in_count;
    y = static_cast<const T*>(s.c.y) + channel * s.out_count;
  }
};

// Items are columns of kStrip results of a row each.
template <class T>
struct WeightPlanes : WeightSum<T> {
  FastDivisor by_columns, by_strips;
  using WeightSum<T>::WeightSum;
};

template <class T, int K, int kStep>
__global__ void __launch_bounds__(kPlaneThreads, K == 7 || (K == 5 && sizeof(T) == 8) ? 2 : 3)
    weight_planes(const __grid_constant__ WeightPlanes<T> p) {
  using Acc = typename WeightPlanes<T>::Acc;
  constexpr int kRows = kStrip<T, K>;
  using Rows = Unrolled<K, kStep, 1, kRows>;
  const int in_rows = static_cast<int>(p.axis[1].in), in_columns = static_cast<int>(p.axis[2].in),
            out_rows = static_cast<int>(p.axis[1].out), out_columns = static_cast<int>(p.axis[2].out);
  const std::int64_t x_image = p.c.shape.groups * p.sources * p.in_count,
                     y_image = p.c.shape.groups * p.results * p.out_count;
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const Share share(p, block);
    const ChannelPair<T> pair(p, share.set);
    Acc sum[K * K] = {};
    const auto end = static_cast<std::uint32_t>(share.end);
    for (std::uint32_t item = static_cast<std::uint32_t>(share.begin) + threadIdx.x; item < end; item += blockDim.x) {
      const std::uint32_t line = p.by_columns.quotient(item), image = p.by_strips.quotient(line);
      const int x = static_cast<int>(item - line * p.by_columns.divisor),
                y = static_cast<int>(line - image * p.by_strips.divisor) * kRows,
                x_in = x * kStep - static_cast<int>(p.axis[2].front),
                y_in = y * kStep - static_cast<int>(p.axis[1].front);
      const T* const result = pair.y + image * y_image + x;
      const T* const seen = pair.x + image * x_image + x_in;
      Acc grad[kRows];
      const int rows = out_rows - y;
#pragma unroll
      for (int j = 0; j < kRows; ++j) grad[j] = j < rows ? static_cast<Acc>(result[(y + j) * out_columns]) : Acc(0);
      bool inside[K];
#pragma unroll
      for (int k = 0; k < K; ++k) inside[k] = x_in + k >= 0 && x_in + k < in_columns;
#pragma unroll
      for (int i = 0; i < Rows::kSeen; ++i) {
        const bool there = y_in + i >= 0 && y_in + i < in_rows;
        Acc v[K];
#pragma unroll
        for (int k = 0; k < K; ++k)
          v[k] = there && inside[k] ? static_cast<Acc>(seen[(y_in + i) * in_columns + k]) : Acc(0);
#pragma unroll
        for (int j = 0; j < kRows; ++j)
#pragma unroll
          for (int ky = 0; ky < K; ++ky)
            if (Rows::slot(j, ky) == i && j < rows) {  // an infinite input must not meet the zero of no result
#pragma unroll
              for (int kx = 0; kx < K; ++kx) sum[ky * K + kx] += grad[j] * v[kx];
            }
      }
    }
    sum_of_threads(sum, [&](int tap, Acc v) { p.store(share.part, share.set * (K * K) + tap, v); });
  }
}

// kEach taps, one after another; items are results.
template <class T, int kEach>
struct WeightTaps : WeightSum<T> {
  Volume out, kernel;
  std::int64_t tap_sets, lanes;  // of kEach taps; chunks of channels of a block, with the channels last
  explicit WeightTaps(const Conv& c)
      : WeightSum<T>(c), out(c.shape.out, c.shape.batch), kernel(c.shape.kernel, 1), lanes(1) {
    tap_sets = (this->taps + kEach - 1) / kEach;
    this->items = c.shape.batch * this->out_count;
  }
  // Where the first tap of a result looks, or how far from there a tap does; in ints, where they are enough.
  template <class I>
  struct Reach {
    I at[3];
  };
  template <class I>
  __device__ __forceinline__ Reach<I> reach(std::int64_t tap) const {
    const Position p = kernel.split(tap);
    Reach<I> r;
#pragma unroll
    for (int d = 0; d < 3; ++d)
      r.at[d] = static_cast<I>(p.at[d]) * static_cast<I>(this->axis[d].dilation) - static_cast<I>(this->axis[d].front);
    return r;
  }
  template <class I>
  __device__ __forceinline__ Reach<I> start(const Position& o) const {
    Reach<I> r;
#pragma unroll
    for (int d = 0; d < 3; ++d) r.at[d] = static_cast<I>(o.at[d]) * static_cast<I>(this->axis[d].step);
    return r;
  }
  // The flat operand that is seen, or -1.
  template <class I>
  __device__ __forceinline__ I operand(const Reach<I>& start, const Reach<I>& reach) const {
    using U = std::make_unsigned_t<I>;
    I flat = 0;
    bool inside = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const I at = start.at[d] + reach.at[d], in = static_cast<I>(this->axis[d].in);
      inside = inside && static_cast<U>(at) < static_cast<U>(in);
      flat = flat * in + at;
    }
    return inside ? flat : -1;
  }
  bool small() const {
    constexpr std::int64_t kMost = std::int64_t{1} << 28;
    bool yes = this->in_count < kMost && this->out_count < kMost;
    for (const DepthwiseAxis& a : this->axis)
      yes = yes && std::abs(a.front) < kMost && a.taps * a.dilation < kMost && a.out * a.step < kMost;
    return yes;
  }
};

template <class T, class I>
__global__ void __launch_bounds__(kDepthwiseThreads) weight_taps(const __grid_constant__ WeightTaps<T, kTapsFirst> p) {
  using Acc = typename WeightTaps<T, kTapsFirst>::Acc;
  const std::int64_t x_image = p.c.shape.groups * p.sources * p.in_count,
                     y_image = p.c.shape.groups * p.results * p.out_count;
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const Share share(p, block);
    const auto [row, tap_set] = divide(share.set, p.tap_sets);
    const ChannelPair<T> pair(p, row);
    typename WeightTaps<T, kTapsFirst>::template Reach<I> reach[kTapsFirst];
#pragma unroll
    for (int k = 0; k < kTapsFirst; ++k) reach[k] = p.template reach<I>(tap_set * kTapsFirst + k);
    Acc sum[kTapsFirst] = {};
    for (std::int64_t at = share.begin + threadIdx.x; at < share.end; at += blockDim.x) {
      const Position o = p.out.split(at);
      const auto start = p.template start<I>(o);
      const auto grad = static_cast<Acc>(pair.y[o.outer * y_image + p.out.flat(o.at)]);
      const T* const x = pair.x + o.outer * x_image;
#pragma unroll
      for (int k = 0; k < kTapsFirst; ++k) {
        const I from = p.operand(start, reach[k]);
        if (from >= 0) sum[k] += grad * static_cast<Acc>(x[from]);
      }
    }
    sum_of_threads(sum, [&](int k, Acc v) {
      const std::int64_t tap = tap_set * kTapsFirst + k;
      if (tap < p.taps) p.store(share.part, row * p.taps + tap, v);
    });
  }
}

// ---- channels last --------------------------------------------------------------------------------------------------

// Adds the values of threads that lie `width` apart, `groups` (a power of two) of them, in the first of them.
template <int N, class Acc>
__device__ __forceinline__ void sum_of_groups(Acc (&v)[N], Acc* shared, int width, int groups) {
  const int at = static_cast<int>(threadIdx.x) % width, group = static_cast<int>(threadIdx.x) / width;
  for (int half = groups / 2; half > 0; half /= 2) {
    if (group >= half && group < 2 * half)
#pragma unroll
      for (int i = 0; i < N; ++i) shared[(i * half + group - half) * width + at] = v[i];
    __syncthreads();
    if (group < half)
#pragma unroll
      for (int i = 0; i < N; ++i) v[i] += shared[(i * half + group) * width + at];
    __syncthreads();
  }
}

// Columns of results that a thread has at a time. Wider ones of 16-bit floats would take too many registers.
template <class T, int K>
constexpr int kAcross = sizeof(T) == 2 && K > 3 ? 2 : 4;

// Items are kAcross columns of a row.
template <class T>
struct WeightPixels : WeightSum<T> {
  FastDivisor by_columns, by_rows;
  int lanes, groups;  // of a block: chunks of channels; groups of K such rows of threads
  using WeightSum<T>::WeightSum;
};

template <class T, int K, int kStep>
__global__ void __launch_bounds__(kDepthwiseThreads, 1) weight_pixels(const __grid_constant__ WeightPixels<T> p) {
  using Acc = typename WeightPixels<T>::Acc;
  constexpr int V = kPackOf<T>, P = kAcross<T, K>;
  using Columns = Unrolled<K, kStep, 1, P>;
  const int lane = static_cast<int>(threadIdx.x) % p.lanes, rest = static_cast<int>(threadIdx.x) / p.lanes,
            ky = rest % K, group = rest / K;
  const int channels = static_cast<int>(p.c.shape.groups);
  const int in_rows = static_cast<int>(p.axis[1].in), in_columns = static_cast<int>(p.axis[2].in),
            out_columns = static_cast<int>(p.axis[2].out);
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const Share share(p, block);
    const int channel = (static_cast<int>(share.set) * p.lanes + lane) * V;
    Acc sum[K * V] = {};
    for (std::int64_t at = share.begin + group; at < share.end && channel < channels; at += p.groups) {
      const auto item = static_cast<std::uint32_t>(at), line = p.by_columns.quotient(item),
                 image = p.by_rows.quotient(line);
      const int x = static_cast<int>(item - line * p.by_columns.divisor) * P,
                y_in =
                    static_cast<int>(line - image * p.by_rows.divisor) * kStep + ky - static_cast<int>(p.axis[1].front),
                x_in = x * kStep - static_cast<int>(p.axis[2].front);
      if (y_in < 0 || y_in >= in_rows) continue;
      const T* const grads = static_cast<const T*>(p.c.y) + (std::int64_t{line} * out_columns + x) * channels + channel;
      const T* const in = p.in() + (image * p.in_count + std::int64_t{y_in} * in_columns) * channels + channel;
      const int columns = out_columns - x;
      uint4 grad[P], seen[Columns::kSeen];
#pragma unroll
      for (int q = 0; q < P; ++q) {
        grad[q] = uint4{};
        if (q < columns) grad[q] = *reinterpret_cast<const uint4*>(grads + q * channels);
      }
#pragma unroll
      for (int j = 0; j < Columns::kSeen; ++j) {
        seen[j] = uint4{};
        if (x_in + j >= 0 && x_in + j < in_columns)
          seen[j] = *reinterpret_cast<const uint4*>(in + (x_in + j) * channels);
      }
      Pack<Acc, V> wide[P];
#pragma unroll
      for (int q = 0; q < P; ++q) wide[q] = widened<T>(grad[q]);
#pragma unroll
      for (int j = 0; j < Columns::kSeen; ++j) {
        const Pack<Acc, V> at = widened<T>(seen[j]);
#pragma unroll
        for (int q = 0; q < P; ++q)
#pragma unroll
          for (int k = 0; k < K; ++k)
            if (Columns::slot(q, k) == j && q < columns) {  // as above
#pragma unroll
              for (int v = 0; v < V; ++v) sum[k * V + v] += wide[q].v[v] * at.v[v];
            }
      }
    }
    sum_of_groups(sum, dynamic_shared<Acc>(), p.lanes * K, p.groups);
    if (group == 0 && channel < channels)
#pragma unroll
      for (int v = 0; v < V; ++v)
#pragma unroll
        for (int k = 0; k < K; ++k)
          p.store(share.part, (std::int64_t{channel} + v) * (K * K) + ky * K + k, sum[k * V + v]);
  }
}

template <class T, class I>
__global__ void __launch_bounds__(kDepthwiseThreads)
    weight_taps_last(const __grid_constant__ WeightTaps<T, kTapsLast> p) {
  using Acc = typename WeightTaps<T, kTapsLast>::Acc;
  constexpr int V = kPackOf<T>;
  const int lanes = static_cast<int>(p.lanes), groups = kDepthwiseThreads / lanes,
            lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes;
  const std::int64_t channels = p.c.shape.groups;
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const Share share(p, block);
    const auto [channel_set, tap_set] = divide(share.set, p.tap_sets);
    const std::int64_t channel = (channel_set * lanes + lane) * V;
    typename WeightTaps<T, kTapsLast>::template Reach<I> reach[kTapsLast];
#pragma unroll
    for (int k = 0; k < kTapsLast; ++k) reach[k] = p.template reach<I>(tap_set * kTapsLast + k);
    Acc sum[kTapsLast * V] = {};
    for (std::int64_t at = share.begin + group; at < share.end && channel < channels; at += groups) {
      const Position o = p.out.split(at);
      const auto start = p.template start<I>(o);
      const auto grad =
          widened<T>(*reinterpret_cast<const uint4*>(static_cast<const T*>(p.c.y) + at * channels + channel));
      const T* const x = p.in() + o.outer * p.in_count * channels + channel;
#pragma unroll
      for (int k = 0; k < kTapsLast; ++k) {
        const I from = p.operand(start, reach[k]);
        if (from < 0) continue;
        const auto seen = widened<T>(*reinterpret_cast<const uint4*>(x + static_cast<std::int64_t>(from) * channels));
#pragma unroll
        for (int v = 0; v < V; ++v) sum[k * V + v] += grad.v[v] * seen.v[v];
      }
    }
    sum_of_groups(sum, dynamic_shared<Acc>(), lanes, groups);
    if (group == 0 && channel < channels)
#pragma unroll
      for (int k = 0; k < kTapsLast; ++k)
#pragma unroll
        for (int v = 0; v < V; ++v)
          if (const std::int64_t tap = tap_set * kTapsLast + k; tap < p.taps)
            p.store(share.part, (channel + v) * p.taps + tap, sum[k * V + v]);
  }
}

// ---- choice ---------------------------------------------------------------------------------------------------------

FastDivisor divisor(std::int64_t d) { return FastDivisor(static_cast<std::uint32_t>(d)); }
constexpr std::int64_t kMostItems = std::int64_t{1} << 31;

template <class T>
void run_first(const Conv& c) {
  WeightPlanes<T> p(c);
  const DepthwiseAxis &y = p.axis[1], &x = p.axis[2];
  constexpr std::int64_t kMost = std::int64_t{1} << 28;  // positions in a plane are ints
  p.sets = p.rows;
  const auto threads_for = [](std::int64_t items, int most) {
    const int threads = power_of_two_up_to(items, most);
    return threads < kWarp ? kWarp : threads;
  };
  bool done = false;
  if (p.axis[0].absent() && c.shape.batch * p.out_count <= kMostItems && p.in_count < kMost && p.out_count < kMost &&
      x.front < kMost && y.front < kMost)
    unrolled_taps(y, x, [&]<int K, int kStep, int kSpread>() {
      if constexpr (kSpread == 1) {
        const std::int64_t strips = (y.out + kStrip<T, K> - 1) / kStrip<T, K>;
        p.items = c.shape.batch * strips * x.out;
        p.by_columns = divisor(x.out);
        p.by_strips = divisor(strips);
        p.cut(4 * kPlaneThreads);
        run_sum<T>(weight_planes<T, K, kStep>, p, threads_for(p.length, kPlaneThreads), 0);
        done = true;
      }
    });
  if (verbose_on) verbose_note(done ? "; few channels, rows" : "; few channels, tap by tap");
  if (done) return;
  WeightTaps<T, kTapsFirst> taps(c);
  taps.sets = taps.rows * taps.tap_sets;
  taps.cut(8 * kDepthwiseThreads);
  void (*const kernel)(WeightTaps<T, kTapsFirst>) = taps.small() ? weight_taps<T, int> : weight_taps<T, std::int64_t>;
  run_sum<T>(kernel, taps, threads_for(taps.length, kDepthwiseThreads), 0);
}

template <class T>
void run_last(const Conv& given) {
  using Acc = typename WeightSum<T>::Acc;
  constexpr int V = kPackOf<T>;
  Conv c = given;
  const std::int64_t chunks = c.shape.groups / V;
  WeightPixels<T> p(c);
  const Aligned<T> in(c.x, c.shape.batch * p.in_count * c.shape.groups, true),
      grad(c.y, c.shape.batch * p.out_count * c.shape.groups, true);
  p.c = c;
  const DepthwiseAxis &y = p.axis[1], &x = p.axis[2];
  bool done = false;
  if (p.axis[0].absent() && c.shape.batch * y.out * x.out <= kMostItems)
    unrolled_taps(y, x, [&]<int K, int kStep, int kSpread>() {
      if constexpr (kSpread == 1) {
        constexpr int P = kAcross<T, K>;
        const std::int64_t columns = (x.out + P - 1) / P;
        p.lanes = power_of_two_up_to(chunks, kWarp);
        p.groups = 1;
        while (p.lanes * K * p.groups * 2 <= kDepthwiseThreads) p.groups *= 2;
        p.items = c.shape.batch * y.out * columns;
        p.sets = (chunks + p.lanes - 1) / p.lanes;
        p.by_columns = divisor(columns);
        p.by_rows = divisor(y.out);
        p.cut(8 * p.groups);
        const int threads = p.lanes * K * p.groups;
        const std::size_t shared = sizeof(Acc) * K * V * static_cast<std::size_t>(threads) / 2;
        run_sum<T>(weight_pixels<T, K, kStep>, p, threads, shared);
        done = true;
      }
    });
  if (verbose_on)
    verbose_note(done ? "; depthwise, channels last, rows of taps" : "; depthwise, channels last, tap by tap");
  if (done) return;
  WeightTaps<T, kTapsLast> taps(c);
  taps.lanes = power_of_two_up_to(chunks, kWarp);
  taps.sets = (chunks + taps.lanes - 1) / taps.lanes * taps.tap_sets;
  taps.cut(8 * (kDepthwiseThreads / taps.lanes));
  void (*const kernel)(WeightTaps<T, kTapsLast>) =
      taps.small() ? weight_taps_last<T, int> : weight_taps_last<T, std::int64_t>;
  run_sum<T>(kernel, taps, kDepthwiseThreads, sizeof(Acc) * kTapsLast * V * kDepthwiseThreads / 2);
}

}  // namespace

template <class T>
void run_conv_depthwise_weight(const Conv& c) {
  if (c.shape.channels_last)
    run_last<T>(c);
  else
    run_first<T>(c);
}
template void run_conv_depthwise_weight<float>(const Conv&);
template void run_conv_depthwise_weight<double>(const Conv&);
template void run_conv_depthwise_weight<Half>(const Conv&);
template void run_conv_depthwise_weight<BFloat16>(const Conv&);

void register_conv_depthwise_weight(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
