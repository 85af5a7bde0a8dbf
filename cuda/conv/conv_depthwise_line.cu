// Depthwise convolution along one axis, as audio and sequence models have it: any number of taps up to kMostTaps, side
// by side, with a stride of 1. Blocks bring parts of some rows into shared memory, with zeros where taps look outside;
// a thread has a run of eight results, whose operands slide through its registers four at a time.
#include "core/verbose.h"
#include "cuda/conv/conv_depthwise.h"
#include "cuda/conv/depthwise_weight.cuh"
#include "cuda/runtime/rows.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kRun = 8, kMostTaps = 32;

// A tile: runs of results of some rows (the whole rows, if more than one). Each of them has as many operands, and the
// taps less one more, in shared memory.
struct LineTile {
  int runs, rows, pitch;  // runs and operands of a row
  std::int64_t tiles[2];  // along all rows, along a row
  FastDivisor by_runs, by_pitch;

  // For `lines` rows of `out` results. Two tiles, or one and its taps, fit into 48 KiB.
  LineTile(std::int64_t lines, std::int64_t out, std::int64_t taps, std::size_t operand_bytes) {
    constexpr std::int64_t kMostShared = 46 * 1024;
    const std::int64_t all = out > 0 ? (out + kRun - 1) / kRun : 1;
    tiles[1] = (all + kDepthwiseThreads - 1) / kDepthwiseThreads;
    runs = static_cast<int>((all + tiles[1] - 1) / tiles[1]);
    pitch = (runs * kRun + static_cast<int>(taps) + 6) / 8 * 8;  // packs of results keep together
    const std::int64_t row_bytes = (pitch * 9 / 4 + kMostTaps) * static_cast<std::int64_t>(operand_bytes),
                       fit = kMostShared / row_bytes, wanted = kDepthwiseThreads / runs,
                       most = std::max<std::int64_t>(1, std::min(fit, wanted));
    tiles[0] = (lines + most - 1) / most;
    rows = tiles[0] > 0 ? static_cast<int>((lines + tiles[0] - 1) / tiles[0]) : 1;
    by_runs = FastDivisor(static_cast<std::uint32_t>(runs));
    by_pitch = FastDivisor(static_cast<std::uint32_t>(pitch));
  }
  __host__ __device__ std::int64_t count() const { return tiles[0] * tiles[1]; }
  __host__ __device__ int operands() const { return (place(rows * pitch + 31) + 3) / 4 * 4; }

  // Where an operand lies. Runs begin 32 bytes apart (float): a chunk between every eight of them has eight threads
  // that read chunks of 16 bytes meet all banks.
  __host__ __device__ static constexpr int place(int i) { return i + i / 32 * 4; }
};

// Operands from `from` on of `there` rows, `step` apart, that have `size`.
template <class T, class Acc>
__device__ __forceinline__ void bring_rows(const LineTile& t, const T* in, std::int64_t step, int there, int from,
                                           int size, Acc* to) {
  constexpr int kBatch = 8;  // on their way at a time
  const int total = t.rows * t.pitch;
  for (int first = static_cast<int>(threadIdx.x); first < total; first += kBatch * kDepthwiseThreads) {
    T got[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = first + b * kDepthwiseThreads, row = static_cast<int>(t.by_pitch.quotient(i)),
                x = from + i - row * t.pitch;
      got[b] = T{};
      if (i < total && row < there && x >= 0 && x < size) got[b] = in[row * step + x];
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (const int i = first + b * kDepthwiseThreads; i < total) to[LineTile::place(i)] = static_cast<Acc>(got[b]);
  }
}

// The four operands from i on, which is a multiple of four.
template <class Acc>
__device__ __forceinline__ void read_four(const Acc* tile, int i, Acc* v) {
  const Pack<Acc, 4> x = get<Acc, 4>(tile + LineTile::place(i));
#pragma unroll
  for (int k = 0; k < 4; ++k) v[k] = x.v[k];
}

// f(tap, window) for all taps, where window[j] is the operand that result j of the run at `first` sees.
template <int kTaps, class Acc, class F>
__device__ __forceinline__ void slide(const Acc* tile, int first, int taps, const F& f) {
  Acc window[kRun + 4];
#pragma unroll
  for (int k = 0; k < kRun; k += 4) read_four(tile, first + k, window + k);
#pragma unroll
  for (int tap = 0; tap < kTaps; tap += 4) {
    if (tap < taps) {
      read_four(tile, first + kRun + tap, window + kRun);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (tap + k < taps) f(tap + k, window + k);
#pragma unroll
      for (int k = 0; k < kRun; ++k) window[k] = window[k + 4];
    }
  }
}

// ---- forward, and the gradient of the input -------------------------------------------------------------------------

template <class T>
struct Lines : DepthwiseSum<T> {
  using Acc = typename DepthwiseSum<T>::Acc;
  LineTile tile;
  int front, size, results_size;
  bool packs;  // results are stored 16 bytes at a time
  FastDivisor by_stored, by_channels;

  Lines(const Conv& c, ConvPass pass)
      : DepthwiseSum<T>(c, pass),
        tile(this->planes, this->axis[2].out, this->axis[2].taps, sizeof(Acc)),
        front(static_cast<int>(this->axis[2].front)),
        size(static_cast<int>(this->axis[2].in)),
        results_size(static_cast<int>(this->axis[2].out)),
        packs(this->axis[2].out % kPackOf<T> == 0 && packs_begin(this->out())) {
    by_stored = FastDivisor(static_cast<std::uint32_t>(tile.runs * kRun / (packs ? kPackOf<T> : 1)));
    by_channels = FastDivisor(static_cast<std::uint32_t>(c.shape.groups));
  }
  std::size_t shared() const { return static_cast<std::size_t>(tile.operands() + tile.rows * kMostTaps) * sizeof(Acc); }
  __device__ __forceinline__ int channel(std::int64_t row) const {
    return static_cast<int>(divide(row, this->c.shape.groups).rest);
  }
};

// Results of a tile from shared memory to where they belong.
template <int V, class T, class Acc>
__device__ __forceinline__ void store_lines(const Lines<T>& p, const Acc* tile, T* out, int there, int first) {
  const int each = p.tile.runs * kRun / V;
  for (int i = static_cast<int>(threadIdx.x); i < p.tile.rows * each; i += kDepthwiseThreads) {
    const int row = static_cast<int>(p.by_stored.quotient(i)), at = (i - row * each) * V;
    if (row >= there || first + at >= p.results_size) continue;
    Pack<T, V> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y.v[v] = static_cast<T>(tile[LineTile::place(row * p.tile.pitch + at) + v]);
    put(out + row * p.out_count + first + at, y);
  }
}

template <class T, int kTaps>
__global__ void __launch_bounds__(kDepthwiseThreads, 3) depthwise_lines(const __grid_constant__ Lines<T> p) {
  using Acc = typename Lines<T>::Acc;
  Acc* const tile = dynamic_shared<Acc>();
  Acc* const weights = tile + p.tile.operands();
  const int taps = static_cast<int>(p.taps), thread = static_cast<int>(threadIdx.x),
            row = static_cast<int>(p.tile.by_runs.quotient(threadIdx.x)), run = thread - row * p.tile.runs;
  for (std::int64_t work = blockIdx.x; work < p.tile.count(); work += gridDim.x) {
    const auto [group, part] = divide(work, p.tile.tiles[1]);
    const std::int64_t line = group * p.tile.rows;
    const int there = static_cast<int>(p.planes - line < p.tile.rows ? p.planes - line : p.tile.rows),
              first = static_cast<int>(part) * p.tile.runs * kRun;
    bring_rows(p.tile, p.in() + line * p.in_count, p.in_count, there, first - p.front, p.size, tile);
    for (int i = thread; i < there * kTaps; i += kDepthwiseThreads) {
      const int tap = i % kTaps;
      if (tap < taps)
        weights[i] = static_cast<Acc>(p.weights(p.channel(line + i / kTaps), 0, 0)[p.back ? taps - 1 - tap : tap]);
    }
    __syncthreads();
    Acc sum[kRun] = {};
    if (row < there)
      slide<kTaps>(tile, row * p.tile.pitch + run * kRun, taps, [&](int tap, const Acc* window) {
        const Acc weight = weights[row * kTaps + tap];
#pragma unroll
        for (int j = 0; j < kRun; ++j) sum[j] += weight * window[j];
      });
    __syncthreads();  // results take the places of operands
    if (row < there) {
      const ChannelEnd<T> end(p.c, p.channel(line + row));
#pragma unroll
      for (int j = 0; j < kRun; ++j)
        tile[LineTile::place(row * p.tile.pitch + run * kRun + j)] = static_cast<Acc>(end(sum[j]));
    }
    __syncthreads();
    T* const out = p.out() + line * p.out_count;
    if (p.packs)
      store_lines<kPackOf<T>>(p, tile, out, there, first);
    else
      store_lines<1>(p, tile, out, there, first);
    __syncthreads();  // the next tile overwrites this one
  }
}

// ---- gradient of the weight -----------------------------------------------------------------------------------------

// Items are tiles of a channel's rows, one of every image.
template <class T>
struct WeightLines : WeightSum<T> {
  using Acc = typename WeightSum<T>::Acc;
  LineTile tile;
  int front, size, results_size;

  explicit WeightLines(const Conv& c)
      : WeightSum<T>(c),
        tile(c.shape.batch, this->axis[2].out, this->axis[2].taps, sizeof(Acc)),
        front(static_cast<int>(this->axis[2].front)),
        size(static_cast<int>(this->axis[2].in)),
        results_size(static_cast<int>(this->axis[2].out)) {
    this->items = tile.count();
    this->sets = c.shape.groups;
    this->cut(4);
  }
  std::size_t shared() const { return static_cast<std::size_t>(2 * tile.operands()) * sizeof(Acc); }
};

template <class T, int kTaps>
__global__ void __launch_bounds__(kDepthwiseThreads, sizeof(T) == 8 && kTaps > 16 ? 1 : 2)
    line_weights(const __grid_constant__ WeightLines<T> p) {
  using Acc = typename WeightLines<T>::Acc;
  Acc* const seen = dynamic_shared<Acc>();
  Acc* const grads = seen + p.tile.operands();
  const int taps = static_cast<int>(p.taps), row = static_cast<int>(p.tile.by_runs.quotient(threadIdx.x)),
            run = static_cast<int>(threadIdx.x) - row * p.tile.runs;
  const std::int64_t x_image = p.c.shape.groups * p.in_count, y_image = p.c.shape.groups * p.out_count;
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const Share share(p, block);
    Acc sum[kTaps] = {};
    for (std::int64_t item = share.begin; item < share.end; ++item) {
      const auto [group, part] = divide(item, p.tile.tiles[1]);
      const std::int64_t image = group * p.tile.rows;
      const int there = static_cast<int>(p.c.shape.batch - image < p.tile.rows ? p.c.shape.batch - image : p.tile.rows),
                first = static_cast<int>(part) * p.tile.runs * kRun;
      bring_rows(p.tile, p.in() + image * x_image + share.set * p.in_count, x_image, there, first - p.front, p.size,
                 seen);
      bring_rows(p.tile, static_cast<const T*>(p.c.y) + image * y_image + share.set * p.out_count, y_image, there,
                 first, p.results_size, grads);
      __syncthreads();
      const int results = p.results_size - first - run * kRun;
      if (row < there && results > 0) {
        const int at = row * p.tile.pitch + run * kRun;
        Acc grad[kRun];
#pragma unroll
        for (int j = 0; j < kRun; j += 4) read_four(grads, at + j, grad + j);
        slide<kTaps>(seen, at, taps, [&](int tap, const Acc* window) {
#pragma unroll
          for (int j = 0; j < kRun; ++j)
            if (j < results) sum[tap] += grad[j] * window[j];  // an infinite input must not meet the zero of no result
        });
      }
      __syncthreads();  // the next tile overwrites this one
    }
    sum_of_threads(sum, [&](int tap, Acc v) {
      if (tap < taps) p.store(share.part, share.set * taps + tap, v);
    });
  }
}

// f.operator()<kTaps>() with the least number of unrolled taps.
template <class F>
void with_taps(std::int64_t taps, const F& f) {
  if (taps <= 4) return f.template operator()<4>();
  if (taps <= 8) return f.template operator()<8>();
  if (taps <= 16) return f.template operator()<16>();
  f.template operator()<32>();
}

}  // namespace

template <class T>
bool run_conv_depthwise_line(const Conv& c, ConvPass pass) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;  // positions in a row are ints
  const DepthwiseSum<T> s(c, pass);
  const DepthwiseAxis& x = s.axis[2];
  if (!s.axis[0].absent() || !s.axis[1].absent() || s.sources != 1 || s.results != 1 || x.taps > kMostTaps ||
      x.dilation != 1 || x.step != 1 || x.spread != 1 || x.in >= kMost || x.out >= kMost ||
      std::abs(x.front) >= kMost || c.shape.groups >= kMost)
    return false;
  if (verbose_on) verbose_note("; depthwise, rows along one axis");
  with_taps(x.taps, [&]<int kTaps>() {
    if (pass == ConvPass::weight_grad) {
      const WeightLines<T> p(c);
      run_sum<T>(line_weights<T, kTaps>, p, kDepthwiseThreads, p.shared());
    } else {
      const Lines<T> p(c, pass);
      if (p.tile.count() > 0)
        launch(depthwise_lines<T, kTaps>, grid_for(p.tile.count(), 64), kDepthwiseThreads, p.shared(), p);
    }
  });
  return true;
}
template bool run_conv_depthwise_line<float>(const Conv&, ConvPass);
template bool run_conv_depthwise_line<double>(const Conv&, ConvPass);
template bool run_conv_depthwise_line<Half>(const Conv&, ConvPass);
template bool run_conv_depthwise_line<BFloat16>(const Conv&, ConvPass);

void register_conv_depthwise_line(KernelTable&) {}  // conv_depthwise.cu asks for it

}  // namespace pydlx::cuda
