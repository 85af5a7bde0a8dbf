// Depthwise convolution with the channels last. Threads side by side lie along the channels, 16 bytes each; a thread
// sums a patch of pixels, whose taps share what it has read, and whose rows are read by its neighbours in the block at
// the same time. Weights lie in shared memory, channel by channel for every tap. What is not unrolled is summed pixel
// by pixel over the taps that see an operand.
#include "core/verbose.h"
#include "cuda/conv/aligned.cuh"
#include "cuda/conv/conv_depthwise.h"
#include "cuda/conv/depthwise.cuh"
#include "cuda/pointwise/transpose.cuh"
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/rows.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kPixelThreads = 128;

// The patch of a thread. Two rows of 16-bit floats, eight channels a thread, or of many taps would take too many
// registers, and so would operands of several rows of taps that are on their way at a time.
template <class T, int K, int kStep, int kSpread>
struct Patch {
  static constexpr int kChannels = kPackOf<T>;
  static constexpr int kColumns = kStep == 1 ? 4 : 2;
  static constexpr int kRows = kSpread == 1 && (sizeof(T) == 2 || K * kStep >= (sizeof(T) == 4 ? 7 : 5)) ? 1 : 2;
  static constexpr int kUnrolled = kRows == 1 && K > 3 ? 1 : 2 * K;  // rows that are seen
  using Rows = Unrolled<K, kStep, kSpread, kRows>;
  using Columns = Unrolled<K, kStep, kSpread, kColumns>;
};

// How a block's threads lie over chunks of channels, and over patches along columns and rows. All are powers of two.
template <class T>
struct Pixels : DepthwiseSum<T> {
  int lanes, across, down;
  int first_row, first_column;        // of results, 0 or -1
  int rounds;                         // tiles that a block takes one after another, with the same weights
  std::int64_t tiles[3], chunk_sets;  // images, tiles along rows, along columns; blocks' worth of channels
  using DepthwiseSum<T>::DepthwiseSum;
  __host__ __device__ std::int64_t blocks() const {
    return (tiles[0] * tiles[1] * tiles[2] + rounds - 1) / rounds * chunk_sets;
  }
};

template <class P, class T>
void plan(Pixels<T>& p) {
  const DepthwiseAxis &y = p.axis[1], &x = p.axis[2];
  const std::int64_t chunks = p.c.shape.groups / P::kChannels;
  p.first_row = static_cast<int>(P::Rows::first(y));
  p.first_column = static_cast<int>(P::Columns::first(x));
  const std::int64_t rows = (y.out - p.first_row + P::kRows - 1) / P::kRows,
                     columns = (x.out - p.first_column + P::kColumns - 1) / P::kColumns;
  p.lanes = power_of_two_up_to(chunks, kWarp);
  const int patches = kPixelThreads / p.lanes;
  p.across = power_of_two_up_to(columns, patches);
  p.down = patches / p.across;
  // Rows next to each other share what they read.
  while (p.down < 4 && p.across > 1 && p.down < rows) p.across /= 2, p.down *= 2;
  p.tiles[0] = p.c.shape.batch;
  p.tiles[1] = (rows + p.down - 1) / p.down;
  p.tiles[2] = (columns + p.across - 1) / p.across;
  p.chunk_sets = (chunks + p.lanes - 1) / p.lanes;
  const std::int64_t all = p.tiles[0] * p.tiles[1] * p.tiles[2] * p.chunk_sets;
  p.rounds = 1;
  while (p.rounds < 8 && all / (p.rounds * 2) >= 2048) p.rounds *= 2;
}

template <class T, int K, int kStep, int kSpread>
__global__ void __launch_bounds__(kPixelThreads, K == 3 && sizeof(T) < 8 ? 3 : 2)
    depthwise_pixels(const __grid_constant__ Pixels<T> p) {
  using Acc = typename Pixels<T>::Acc;
  using P = Patch<T, K, kStep, kSpread>;
  constexpr int V = P::kChannels;
  T* const weights = dynamic_shared<T>();
  const int channels = static_cast<int>(p.c.shape.groups), set = p.lanes * V;
  const int pitch = set + V;  // between taps, so that threads that store neighbouring taps meet other banks
  const int lane = static_cast<int>(threadIdx.x) & (p.lanes - 1), patch = static_cast<int>(threadIdx.x) / p.lanes;
  const int in_rows = static_cast<int>(p.axis[1].in), in_columns = static_cast<int>(p.axis[2].in),
            out_rows = static_cast<int>(p.axis[1].out), out_columns = static_cast<int>(p.axis[2].out);
  const std::int64_t tiles = p.tiles[0] * p.tiles[1] * p.tiles[2];
  for (std::int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const auto [turn, channel_set] = divide(block, p.chunk_sets);
    const int c0 = static_cast<int>(channel_set) * set, held = channels - c0 < set ? channels - c0 : set;
    const T* const w = static_cast<const T*>(p.c.w) + static_cast<std::int64_t>(c0) * (K * K);
    for (int i = static_cast<int>(threadIdx.x); i < held * (K * K); i += kPixelThreads) {
      const int channel = i / (K * K), tap = i % (K * K);
      weights[(p.back ? K * K - 1 - tap : tap) * pitch + channel] = w[i];
    }
    __syncthreads();
    const int channel = c0 + lane * V;
    for (int round = 0; round < p.rounds && channel < channels; ++round) {
      const std::int64_t tile = turn * p.rounds + round;
      if (tile >= tiles) break;
      const auto [line, tile_x] = divide(tile, p.tiles[2]);
      const auto [image, tile_y] = divide(line, p.tiles[1]);
      const int x = (static_cast<int>(tile_x) * p.across + (patch & (p.across - 1))) * P::kColumns + p.first_column,
                y = (static_cast<int>(tile_y) * p.down + patch / p.across) * P::kRows + p.first_row;
      if (x >= out_columns || y >= out_rows) continue;
      const int x_in = (x * kStep - static_cast<int>(p.axis[2].front)) / kSpread,
                y_in = (y * kStep - static_cast<int>(p.axis[1].front)) / kSpread;
      const T* const in = p.in() + image * p.in_count * channels + channel;
      Acc sum[P::kRows][P::kColumns][V] = {};
#pragma unroll(P::kUnrolled)
      for (int i = 0; i < P::Rows::kSeen; ++i) {
        Pack<Acc, V> seen[P::Columns::kSeen];
        const bool inside = y_in + i >= 0 && y_in + i < in_rows;
        const T* const row = in + static_cast<std::int64_t>(y_in + i) * in_columns * channels;
#pragma unroll
        for (int j = 0; j < P::Columns::kSeen; ++j) {
          uint4 got = {};
          if (inside && x_in + j >= 0 && x_in + j < in_columns)
            got = *reinterpret_cast<const uint4*>(row + (x_in + j) * channels);
          seen[j] = widened<T>(got);
        }
#pragma unroll
        for (int r = 0; r < P::kRows; ++r)
#pragma unroll
          for (int ky = 0; ky < K; ++ky) {
            if (P::kRows == 1 ? ky > 0 : P::Rows::slot(r, ky) != i) continue;
            const int first = (P::kRows == 1 ? i : ky) * K;
#pragma unroll
            for (int kx = 0; kx < K; ++kx) {
              const Pack<Acc, V> tap =
                  widened<T>(*reinterpret_cast<const uint4*>(weights + (first + kx) * pitch + lane * V));
#pragma unroll
              for (int q = 0; q < P::kColumns; ++q) {
                const int slot = P::Columns::slot(q, kx);
                if (slot < 0) continue;
#pragma unroll
                for (int v = 0; v < V; ++v) sum[r][q][v] += tap.v[v] * seen[slot].v[v];
              }
            }
          }
      }
      T* const out = p.out() + image * p.out_count * channels + channel;
      Pack<T, V> results[P::kRows][P::kColumns];
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const ChannelEnd<T> end(p.c, channel + v);
#pragma unroll
        for (int r = 0; r < P::kRows; ++r)
#pragma unroll
          for (int q = 0; q < P::kColumns; ++q) results[r][q].v[v] = end(sum[r][q][v]);
      }
#pragma unroll
      for (int r = 0; r < P::kRows; ++r)
#pragma unroll
        for (int q = 0; q < P::kColumns; ++q)
          if (y + r >= 0 && y + r < out_rows && x + q >= 0 && x + q < out_columns)
            put(out + ((y + r) * out_columns + x + q) * channels, results[r][q]);
    }
    __syncthreads();  // the next channels' weights overwrite these
  }
}

// A chunk of one pixel, any geometry. Weights are [tap, channel].
template <class T>
struct EachPixel : DepthwiseSum<T> {
  using Acc = typename DepthwiseSum<T>::Acc;
  static constexpr int V = kPackOf<T>;
  const T* weights;
  std::int64_t chunks;
  Volume volume;

  EachPixel(const Conv& c, ConvPass pass, const T* w)
      : DepthwiseSum<T>(c, pass), weights(w), chunks(c.shape.groups / V) {
    const std::int64_t sizes[3] = {this->axis[0].out, this->axis[1].out, this->axis[2].out};
    volume = Volume(sizes, c.shape.batch);
  }
  std::int64_t count() const { return this->c.shape.batch * this->out_count * chunks; }
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const auto [pixel, chunk] = divide(i, chunks);
    const Position o = volume.split(pixel);
    const std::int64_t channels = this->c.shape.groups, channel = chunk * V;
    const DepthwiseAxis &z = this->axis[0], &y = this->axis[1], &x = this->axis[2];
    const SeenTaps sz = z.absent() ? SeenTaps{0, 0, 1} : seen_taps(z, o.at[0]), sy = seen_taps(y, o.at[1]),
                   sx = seen_taps(x, o.at[2]);
    const std::int64_t at_step = x.at_step * channels, tap_step = (this->back ? -x.tap_step : x.tap_step) * channels;
    const T* const in = this->in() + o.outer * this->in_count * channels + channel;
    Acc sum[V] = {};
    for (std::int64_t a = 0; a < sz.count; ++a)
      for (std::int64_t b = 0; b < sy.count; ++b) {
        const std::int64_t line = (sz.at + a * z.at_step) * y.in + sy.at + b * y.at_step,
                           tap = ((sz.tap + a * z.tap_step) * y.taps + sy.tap + b * y.tap_step) * x.taps + sx.tap;
        const T *at = in + (line * x.in + sx.at) * channels,
                *weight = weights + (this->back ? this->taps - 1 - tap : tap) * channels + channel;
#pragma unroll 4
        for (int k = 0; k < static_cast<int>(sx.count); ++k, at += at_step, weight += tap_step) {
          const auto p = widened<T>(*reinterpret_cast<const uint4*>(at)),
                     w = widened<T>(*reinterpret_cast<const uint4*>(weight));
#pragma unroll
          for (int v = 0; v < V; ++v) sum[v] += w.v[v] * p.v[v];
        }
      }
    Pack<T, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) result.v[v] = ChannelEnd<T>(this->c, channel + v)(sum[v]);
    put(this->out() + pixel * channels + channel, result);
  }
};

}  // namespace

template <class T>
void run_conv_depthwise_last(const Conv& given, ConvPass pass) {
  Conv c = given;
  const ConvShape& s = c.shape;
  const DepthwiseSum<T> sum(c, pass);
  const Aligned<T> in(sum.back ? c.y : c.x, s.batch * sum.in_count * s.groups, true);
  Pixels<T> p(c, pass);
  const bool plane = p.axis[0].absent();
  if (plane && unrolled_taps(p.axis[1], p.axis[2], [&]<int K, int kStep, int kSpread>() {
        using P = Patch<T, K, kStep, kSpread>;
        plan<P>(p);
        const std::size_t shared = std::size_t{16} * K * K * static_cast<std::size_t>(p.lanes + 1);
        if (verbose_on) verbose_note("; depthwise, channels last, patches of pixels");
        launch(depthwise_pixels<T, K, kStep, kSpread>, grid_for(p.blocks(), 64), kPixelThreads, shared, p);
      }))
    return;
  if (verbose_on) verbose_note("; depthwise, channels last, tap by tap");
  const bool in_order = p.taps == 1;
  const Aligned<T> w(c.w, s.groups, in_order);
  const Scratch<T> reordered(in_order ? 0 : s.groups * p.taps);
  if (!in_order) {
    Transpose t;
    t.out = reordered.get();
    t.in = c.w;
    t.rows = t.in_col = p.taps;
    t.cols = t.out_row = s.groups;
    run_transpose<functors::word_t<T>>(t);
  }
  const EachPixel<T> each(c, pass, in_order ? static_cast<const T*>(c.w) : reordered.get());
  for_each(each.count(), each);
}
template void run_conv_depthwise_last<float>(const Conv&, ConvPass);
template void run_conv_depthwise_last<double>(const Conv&, ConvPass);
template void run_conv_depthwise_last<Half>(const Conv&, ConvPass);
template void run_conv_depthwise_last<BFloat16>(const Conv&, ConvPass);

void register_conv_depthwise_last(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
