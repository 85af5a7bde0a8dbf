// Convolution with few channels in a group and the channels first. Blocks bring rows of some images into shared memory,
// with zeros where taps look outside, up to 16 bytes at a time; threads side by side along the rows walk over eight
// rows of results each, so that an element is read from shared memory once per column of taps. What is not unrolled is
// summed result by result over the taps that see an operand.
#include "core/verbose.h"
#include "cuda/conv/conv_depthwise.h"
#include "cuda/conv/depthwise.cuh"
#include "cuda/libraries/cudnn.h"
#include "cuda/runtime/each.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kStrip = 8;                    // rows of results that a thread sums together
constexpr std::int64_t kMostShared = 24576;  // bytes that a tile aims at, so that several blocks share a multiprocessor
constexpr std::int64_t kSharedLimit = 49152;  // more would have to be asked for

// A tile: some groups of images (whole images, if more than one), strips of rows and columns of each.
template <class T>
struct Tiles : DepthwiseSum<T> {
  int groups, strips, columns;
  int vector;             // operands that are read at a time
  int lead;               // columns of shared memory before the first one that a tap of the first result sees, at most
  int chunks, rows;       // of a plane in shared memory: chunks per row, rows
  int first_row;          // of results, 0 or -1
  std::int64_t tiles[3];  // along groups, rows, columns
  FastDivisor by_chunks, by_rows, by_columns, by_planes, by_results, by_groups;

  using DepthwiseSum<T>::DepthwiseSum;
  __host__ __device__ std::int64_t count() const { return tiles[0] * tiles[1] * tiles[2]; }
  std::int64_t shared() const {
    return std::int64_t{groups} * this->sources * rows * chunks * vector * this->axis[2].spread *
           static_cast<std::int64_t>(sizeof(typename DepthwiseSum<T>::Acc));
  }
};

// How elements are laid out to threads; false where a tile would not fit, or positions not an int.
template <class Rows, class T>
bool plan(Tiles<T>& t) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;
  const DepthwiseAxis &y = t.axis[1], &x = t.axis[2];
  if (!t.axis[0].absent() || t.in_count >= kMost || t.out_count >= kMost || t.c.shape.groups >= kMost ||
      std::abs(y.front) >= kMost || std::abs(x.front) >= kMost)
    return false;
  t.vector = kPackOf<T>;
  const void* const in = t.back ? t.c.y : t.c.x;
  while (x.in % t.vector != 0 || reinterpret_cast<std::uintptr_t>(in) % (t.vector * sizeof(T)) != 0) t.vector /= 2;
  t.first_row = static_cast<int>(Rows::first(y));
  const int unit = t.vector * static_cast<int>(x.spread);
  const std::int64_t all_strips = (y.out - t.first_row + kStrip - 1) / kStrip;
  const auto resize = [&] {
    t.rows = static_cast<int>((t.strips - 1) * kStrip * y.step / y.spread) + Rows::kSeen;
    t.chunks = static_cast<int>((unit - 1 + (t.columns - 1) * x.step + x.taps + unit - 1) / unit);
  };
  const auto items = [&] { return std::int64_t{t.groups} * t.results * t.strips * t.columns; };
  // Two rounds of all threads, where there is work for many blocks.
  const std::int64_t work = t.planes * t.results * all_strips * x.out,
                     wanted = kDepthwiseThreads * (work >> 19 ? 2 : 1);
  t.groups = t.strips = 1;
  for (std::int64_t parts = (x.out + kDepthwiseThreads - 1) / kDepthwiseThreads;; parts *= 2) {
    t.columns = static_cast<int>((x.out + parts - 1) / parts);
    resize();
    if (t.shared() <= kMostShared || t.columns <= 32) break;
  }
  if (t.shared() > kSharedLimit) return false;
  const auto grow = [&](int& what, std::int64_t most) {
    while (what < most) {
      ++what;
      resize();
      if (t.shared() <= kMostShared && items() <= wanted) continue;
      --what;
      break;
    }
    const std::int64_t parts = (most + what - 1) / what;
    what = static_cast<int>((most + parts - 1) / parts);  // of equal size
    resize();
  };
  grow(t.strips, all_strips);
  if (t.strips == all_strips && t.columns == x.out) grow(t.groups, t.planes);
  t.tiles[0] = (t.planes + t.groups - 1) / t.groups;
  t.tiles[1] = (all_strips + t.strips - 1) / t.strips;
  t.tiles[2] = (x.out + t.columns - 1) / t.columns;
  const auto divisor = [](std::int64_t d) { return FastDivisor(static_cast<std::uint32_t>(d)); };
  t.by_chunks = divisor(t.chunks);
  t.by_rows = divisor(t.rows);
  t.by_columns = divisor(t.columns);
  t.by_planes = divisor(t.groups * t.results);
  t.by_results = divisor(t.results);
  t.by_groups = divisor(t.c.shape.groups);
  return true;
}

// The operands that a tile sees into shared memory: `planes` of them from `in` on, rows from `row` on, columns from
// `column` on, which is a multiple of V or before the first.
template <int V, int kSpread, class T, class Acc>
__device__ __forceinline__ void bring(const Tiles<T>& t, const T* in, int planes, int row, int column, Acc* to) {
  constexpr int kBatch = 4;  // on their way at a time
  const int total = planes * t.rows * t.chunks, in_rows = static_cast<int>(t.axis[1].in),
            in_columns = static_cast<int>(t.axis[2].in);
  for (int first = static_cast<int>(threadIdx.x); first < total; first += kBatch * kDepthwiseThreads) {
    Pack<T, V> got[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const auto i = static_cast<std::uint32_t>(first + b * kDepthwiseThreads), line = t.by_chunks.quotient(i),
                 plane = t.by_rows.quotient(line);
      const int y = row + static_cast<int>(line - plane * t.by_rows.divisor),
                x = column + static_cast<int>(i - line * t.by_chunks.divisor) * V;
      got[b] = Pack<T, V>{};
      if (static_cast<int>(i) < total && y >= 0 && y < in_rows && x >= 0 && x < in_columns)
        got[b] = get<T, V>(in + plane * t.in_count + (y * in_columns + x));
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kDepthwiseThreads;
      Pack<Acc, V * kSpread> wide = {};
#pragma unroll
      for (int v = 0; v < V; ++v) wide.v[v * kSpread] = static_cast<Acc>(got[b].v[v]);
      if (i < total) put<Space::shared>(to + i * (V * kSpread), wide);
    }
  }
}

// Blocks that have to fit on a multiprocessor; left to itself the compiler aims at more, and spills.
template <class T, int K>
constexpr int kBlocks = sizeof(T) == 8 ? (K == 3 ? 3 : 1)
                                       : (K == 3   ? 4
                                          : K == 5 ? 3
                                                   : 2);

template <class T, int K, int kStep, int kSpread>
__global__ void __launch_bounds__(kDepthwiseThreads, kBlocks<T, K>)
    depthwise_planes(const __grid_constant__ Tiles<T> t) {
  using Acc = typename Tiles<T>::Acc;
  using Rows = Unrolled<K, kStep, kSpread, kStrip>;
  Acc* const tile = dynamic_shared<Acc>();
  const int unit = t.vector * kSpread, pitch = t.chunks * unit;
  const int out_rows = static_cast<int>(t.axis[1].out), out_columns = static_cast<int>(t.axis[2].out);
  for (std::int64_t number = blockIdx.x; number < t.count(); number += gridDim.x) {
    const auto [line, tile_x] = divide(number, t.tiles[2]);
    const auto [tile_group, tile_y] = divide(line, t.tiles[1]);
    const std::int64_t q0 = tile_group * t.groups;
    const int groups = static_cast<int>(t.planes - q0 < t.groups ? t.planes - q0 : t.groups);
    const int x0 = static_cast<int>(tile_x) * t.columns,
              y0 = static_cast<int>(tile_y) * t.strips * kStrip + t.first_row;
    // The first column that a tap sees, counted with the spread, and the multiple of a chunk before it.
    const int seen = x0 * kStep - static_cast<int>(t.axis[2].front);
    const int chunk = seen >= 0 ? seen / unit : -((unit - 1 - seen) / unit), lead = seen - chunk * unit;
    const int row = (y0 * kStep - static_cast<int>(t.axis[1].front)) / kSpread;
    const T* const in = t.in() + q0 * t.sources * t.in_count;
    const auto read = [&]<int V>() { bring<V, kSpread>(t, in, groups * t.sources, row, chunk * V, tile); };
    switch (t.vector) {
      case 1:
        read.template operator()<1>();
        break;
      case 2:
        read.template operator()<2>();
        break;
      case 4:
        if constexpr (sizeof(T) <= 4) read.template operator()<4>();
        break;
      default:
        if constexpr (sizeof(T) <= 2) read.template operator()<8>();
    }
    __syncthreads();

    const int items = t.columns * t.groups * t.results * t.strips;
    const auto g0 = static_cast<std::uint32_t>(divide(q0, t.c.shape.groups).rest);
    for (int item = static_cast<int>(threadIdx.x); item < items; item += kDepthwiseThreads) {
      const std::uint32_t rest = t.by_columns.quotient(static_cast<std::uint32_t>(item)),
                          strip = t.by_planes.quotient(rest), plane = rest - strip * t.by_planes.divisor,
                          q = t.by_results.quotient(plane);
      const int column = item - static_cast<int>(rest) * t.columns, x = x0 + column,
                result = static_cast<int>(plane - q * t.by_results.divisor);
      if (x >= out_columns || static_cast<int>(q) >= groups) continue;
      const std::uint32_t wrapped = g0 + q, g = wrapped - t.by_groups.quotient(wrapped) * t.by_groups.divisor;
      Acc sum[kStrip] = {};
      for (int source = 0; source < t.sources; ++source) {
        const T* const w = t.weights(g, source, result);
        Acc tap[K][K];
#pragma unroll
        for (int k = 0; k < K * K; ++k) tap[k / K][k % K] = static_cast<Acc>(w[t.back ? K * K - 1 - k : k]);
        const int first_line =
            (static_cast<int>(q) * t.sources + source) * t.rows + static_cast<int>(strip) * (kStrip * kStep / kSpread);
        const Acc* at = tile + first_line * pitch + lead + column * kStep;
#pragma unroll
        for (int i = 0; i < Rows::kSeen; ++i, at += pitch) {
          Acc v[K];
#pragma unroll
          for (int k = 0; k < K; ++k) v[k] = at[k];
#pragma unroll
          for (int j = 0; j < kStrip; ++j)
#pragma unroll
            for (int ky = 0; ky < K; ++ky)
              if (Rows::slot(j, ky) == i) {
#pragma unroll
                for (int kx = 0; kx < K; ++kx) sum[j] += tap[ky][kx] * v[kx];
              }
        }
      }
      const ChannelEnd<T> end(t.c, std::int64_t{g} * t.results + result);
      const int y = y0 + static_cast<int>(strip) * kStrip;
      T* const out = t.out() + ((q0 + q) * t.results + result) * t.out_count + x;
#pragma unroll
      for (int j = 0; j < kStrip; ++j)
        if (y + j >= 0 && y + j < out_rows) out[(y + j) * out_columns] = end(sum[j]);
    }
    __syncthreads();  // the next tile overwrites this one
  }
}

// One result, any geometry.
template <class T>
struct EachResult : DepthwiseSum<T> {
  using Acc = typename DepthwiseSum<T>::Acc;
  Volume volume;

  EachResult(const Conv& c, ConvPass pass) : DepthwiseSum<T>(c, pass) {
    const std::int64_t sizes[3] = {this->axis[0].out, this->axis[1].out, this->axis[2].out};
    volume = Volume(sizes, this->planes * this->results);
  }
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const Position o = volume.split(i);
    const auto [q, result] = divide(o.outer, this->results);
    const std::int64_t group = divide(q, this->c.shape.groups).rest;
    const DepthwiseAxis &z = this->axis[0], &y = this->axis[1], &x = this->axis[2];
    const SeenTaps sz = z.absent() ? SeenTaps{0, 0, 1} : seen_taps(z, o.at[0]),
                   sy = y.absent() ? SeenTaps{0, 0, 1} : seen_taps(y, o.at[1]), sx = seen_taps(x, o.at[2]);
    const std::int64_t tap_step = this->back ? -x.tap_step : x.tap_step;
    Acc sum = 0;
    for (int source = 0; source < this->sources; ++source) {
      const T* const in = this->in() + (q * this->sources + source) * this->in_count;
      const T* const w = this->weights(group, source, static_cast<int>(result));
      for (std::int64_t a = 0; a < sz.count; ++a)
        for (std::int64_t b = 0; b < sy.count; ++b) {
          const std::int64_t line = (sz.at + a * z.at_step) * y.in + sy.at + b * y.at_step,
                             tap = ((sz.tap + a * z.tap_step) * y.taps + sy.tap + b * y.tap_step) * x.taps + sx.tap;
          const T *at = in + line * x.in + sx.at, *weight = w + (this->back ? this->taps - 1 - tap : tap);
#pragma unroll 4
          for (int k = 0; k < static_cast<int>(sx.count); ++k, at += x.at_step, weight += tap_step)
            sum += static_cast<Acc>(*weight) * static_cast<Acc>(*at);
        }
    }
    this->out()[i] = ChannelEnd<T>(this->c, group * this->results + result)(sum);
  }
};

// Some results of a plane, tap by tap, that share the weights: any stride and dilation, none of whose results skip
// taps.
template <class T>
struct FewResults : DepthwiseSum<T> {
  using Acc = typename DepthwiseSum<T>::Acc;
  static constexpr int kResults = sizeof(T) == 8 ? 2 : 4;
  std::int64_t quarter;  // results of a thread lie so far apart
  FastDivisor by_quarter, by_columns, by_rows, by_results, by_groups;

  FewResults(const Conv& c, ConvPass pass) : DepthwiseSum<T>(c, pass) {
    quarter = (this->out_count + kResults - 1) / kResults;
    if (!serves()) return;
    const auto divisor = [](std::int64_t d) { return FastDivisor(static_cast<std::uint32_t>(d)); };
    by_quarter = divisor(quarter);
    by_columns = divisor(this->axis[2].out);
    by_rows = divisor(this->axis[1].out);
    by_results = divisor(this->results);
    by_groups = divisor(this->c.shape.groups);
  }
  std::int64_t count() const { return this->planes * this->results * quarter; }
  // Positions and distances are ints.
  bool serves() const {
    constexpr std::int64_t kMost = std::int64_t{1} << 28;
    bool small = count() < kMost * 8 && this->in_count < kMost && this->out_count < kMost && this->taps < kMost;
    for (const DepthwiseAxis& a : this->axis)
      small =
          small && a.spread == 1 && std::abs(a.front) < kMost && a.taps * a.dilation < kMost && a.out * a.step < kMost;
    return small && count() > 0;
  }
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const auto item = static_cast<std::uint32_t>(i), plane = by_quarter.quotient(item), q = by_results.quotient(plane);
    const int result = static_cast<int>(plane - q * by_results.divisor);
    const std::uint32_t group = q - by_groups.quotient(q) * by_groups.divisor;
    const int first = static_cast<int>(item - plane * by_quarter.divisor), each = static_cast<int>(quarter),
              size[3] = {static_cast<int>(this->axis[0].in), static_cast<int>(this->axis[1].in),
                         static_cast<int>(this->axis[2].in)};
    int at[kResults][3];  // what the first tap of each axis sees
    bool there[kResults];
#pragma unroll
    for (int r = 0; r < kResults; ++r) {
      const std::uint32_t flat = static_cast<std::uint32_t>(first + r * each), line = by_columns.quotient(flat),
                          z = by_rows.quotient(line),
                          o[3] = {z, line - z * by_rows.divisor, flat - line * by_columns.divisor};
      there[r] = flat < static_cast<std::uint32_t>(this->out_count);
#pragma unroll
      for (int d = 0; d < 3; ++d)
        at[r][d] =
            static_cast<int>(o[d]) * static_cast<int>(this->axis[d].step) - static_cast<int>(this->axis[d].front);
    }
    const auto inside = [&](int d, int p) { return static_cast<unsigned>(p) < static_cast<unsigned>(size[d]); };
    Acc sum[kResults] = {};
    for (int source = 0; source < this->sources; ++source) {
      const T* const in = this->in() + (static_cast<std::int64_t>(q) * this->sources + source) * this->in_count;
      const T* weight = this->weights(group, source, result) + (this->back ? this->taps - 1 : 0);
      const int next = this->back ? -1 : 1, dilation = static_cast<int>(this->axis[2].dilation),
                columns = static_cast<int>(this->axis[2].taps);
      for (int a = 0; a < static_cast<int>(this->axis[0].taps); ++a)
        for (int b = 0; b < static_cast<int>(this->axis[1].taps); ++b) {
          const T* from[kResults];
          int x[kResults];
#pragma unroll
          for (int r = 0; r < kResults; ++r) {
            const int z = at[r][0] + a * static_cast<int>(this->axis[0].dilation),
                      y = at[r][1] + b * static_cast<int>(this->axis[1].dilation);
            from[r] = in + ((z * size[1] + y) * size[2] + at[r][2]);
            x[r] = there[r] && inside(0, z) && inside(1, y) ? at[r][2] : -(1 << 30);
          }
#pragma unroll 2
          for (int k = 0; k < columns; ++k, weight += next) {
            const Acc w = static_cast<Acc>(*weight);
#pragma unroll
            for (int r = 0; r < kResults; ++r) {
              if (inside(2, x[r])) sum[r] += w * static_cast<Acc>(*from[r]);
              x[r] += dilation;
              from[r] += dilation;
            }
          }
        }
    }
    const ChannelEnd<T> end(this->c, std::int64_t{group} * this->results + result);
    T* const out = this->out() + static_cast<std::int64_t>(plane) * this->out_count + first;
#pragma unroll
    for (int r = 0; r < kResults; ++r)
      if (there[r]) out[r * each] = end(sum[r]);
  }
};

template <class T>
void run_first(const Conv& c, ConvPass pass) {
  Tiles<T> t(c, pass);
  bool done = false;
  unrolled_taps(t.axis[1], t.axis[2], [&]<int K, int kStep, int kSpread>() {
    if (!plan<Unrolled<K, kStep, kSpread, kStrip>>(t)) return;
    launch(depthwise_planes<T, K, kStep, kSpread>, grid_for(t.count(), 64), kDepthwiseThreads,
           static_cast<std::size_t>(t.shared()), t);
    done = true;
  });
  if (verbose_on) verbose_note(done ? "; few channels, rows in shared memory" : "; few channels, tap by tap");
  if (done) return;
  if (const FewResults<T> few(c, pass); few.serves())
    for_each(few.count(), few);
  else
    for_each(t.planes * t.results * t.out_count, EachResult<T>(c, pass));
}

}  // namespace

bool conv_depthwise_serves(const ConvShape& s) { return (s.cin <= 4 && s.cout <= 4) || (s.cin == 1 && s.cout <= 8); }

bool conv_depthwise_last_serves(const ConvShape& s, int chunk) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;  // coordinates and distances in an image fit an int
  const std::int64_t in = s.in[0] * s.in[1] * s.in[2], out = s.out[0] * s.out[1] * s.out[2];
  for (int d = 0; d < 3; ++d)
    if (s.pad[d] > kMost || s.kernel[d] * s.dilation[d] > kMost) return false;
  return !convolutions_by_library() && s.cin == 1 && s.cout == 1 && s.groups % chunk == 0 && in <= kMost &&
         out <= kMost && s.groups <= kMost && in * s.groups <= kMost * 4 && out * s.groups <= kMost * 4;
}

template <class T>
void run_conv_depthwise(const Conv& c, ConvPass pass) {
  if (!c.shape.channels_last && run_conv_depthwise_line<T>(c, pass)) return;
  if (pass == ConvPass::weight_grad)
    run_conv_depthwise_weight<T>(c);
  else if (c.shape.channels_last)
    run_conv_depthwise_last<T>(c, pass);
  else
    run_first<T>(c, pass);
}
template void run_conv_depthwise<float>(const Conv&, ConvPass);
template void run_conv_depthwise<double>(const Conv&, ConvPass);
template void run_conv_depthwise<Half>(const Conv&, ConvPass);
template void run_conv_depthwise<BFloat16>(const Conv&, ConvPass);

void register_conv_depthwise(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
