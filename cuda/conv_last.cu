// Convolution of 16-bit floats with the channels last as products that are never formed (implicit GEMM): rows and
// columns of both operands are runs of channels, so that panels come to shared memory by copies of 16 bytes that no
// register holds, two panels ahead of the one that the tensor cores multiply. What depends on a row alone is worked out
// once per tile. Groups are the batch; long sums with few tiles are split, and the parts are added in order.
//
//   forward       y[pixel, cout] = sum over (tap, cin) of x[pixel and tap, cin] w[cout, (tap, cin)]
//   input_grad    x[pixel, cin] = sum over (tap, cout) of y[pixel and tap, cout] w'[cin, (tap, cout)]
//   weight_grad   w[cout, (tap, cin)] = sum over pixels of y[pixel, cout] x[pixel and tap, cin]
#include "core/verbose.h"
#include "cuda/conv_last.h"
#include "cuda/conv_positions.cuh"
#include "cuda/gemm/warp_tile.cuh"
#include "cuda/libraries/cudnn.h"
#include "functors/types.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 3, kPanelChunks = kM * kK / kChunk, kEach = kPanelChunks / kThreads;
static_assert(kM == kN);

// A pixel, or what a tap adds to it, far outside where there is none. Elements are counted on an int throughout.
struct Place {
  int image;  // elements up to its first pixel and channel
  int at[3];
};
constexpr int kNone = -1;  // an element of zero that lies nowhere
constexpr int kNowhere = -(1 << 29);
__device__ __forceinline__ Place nowhere() { return {0, {kNowhere, kNowhere, kNowhere}}; }

// Operands of sums over channels: A finds its pixel from a row (outer) and a tap (depth); B is a matrix of weights with
// k along its lines.
struct Channels {
  Place tap;
  int channel;
};

// What the three passes have in common.
template <class T>
struct LastProblem {
  using Element = T;
  using Acc = float;
  Conv c;
  Volume in, out, kernel;
  FastDivisor stride[3], channels;  // of the operand that sums over channels read
  std::int64_t m, n, k, batch;
  int x_line, y_line, in_size[3], out_size[3], x_image, y_image;  // elements of a pixel, and of an image

  explicit LastProblem(const Conv& conv) : c(conv), batch(conv.shape.groups) {
    const ConvShape& s = conv.shape;
    const std::int64_t above = s.batch > s.cin ? s.batch : s.cin;
    in = Volume(s.in, above);
    out = Volume(s.out, above);
    kernel = Volume(s.kernel, above > s.cout ? above : s.cout);
    for (int d = 0; d < 3; ++d) stride[d] = FastDivisor(static_cast<std::uint32_t>(s.stride[d]));
    x_line = static_cast<int>(s.groups * s.cin);
    y_line = static_cast<int>(s.groups * s.cout);
    for (int d = 0; d < 3; ++d) {
      in_size[d] = static_cast<int>(s.in[d]);
      out_size[d] = static_cast<int>(s.out[d]);
    }
    x_image = static_cast<int>(in.count) * x_line;
    y_image = static_cast<int>(out.count) * y_line;
  }
  __device__ __forceinline__ const T* x() const { return static_cast<const T*>(c.x); }
  __device__ __forceinline__ const T* y() const { return static_cast<const T*>(c.y); }
  // The corner of the input that output pixel `i` looks at.
  __device__ __forceinline__ Place corner(std::int64_t i) const {
    const Position o = out.split(i);
    Place p;
    p.image = static_cast<int>(o.outer) * x_image;
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(o.at[d] * c.shape.stride[d] - c.shape.pad[d]);
    return p;
  }
  // How far a tap is from the corner.
  __device__ __forceinline__ Place reach(std::int64_t tap) const {
    const Position t = kernel.split(tap);
    Place p;
    p.image = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(t.at[d] * c.shape.dilation[d]);
    return p;
  }
  __device__ __forceinline__ Channels tap_and_channel(int k) const {
    const auto at = static_cast<std::uint32_t>(k);
    const std::uint32_t tap = channels.quotient(at);
    return {reach(tap), static_cast<int>(at - tap * channels.divisor)};
  }
  // The input pixel there, or kNone.
  __device__ __forceinline__ int input(const Place& from, const Place& by) const {
    std::uint32_t flat = 0;  // wraps around where the place does not matter
    bool inside = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const auto at = static_cast<std::uint32_t>(from.at[d] + by.at[d]), size = static_cast<std::uint32_t>(in_size[d]);
      inside = inside && at < size;
      flat = flat * size + at;
    }
    return inside ? from.image + static_cast<int>(flat) * x_line : kNone;
  }
};

template <class T>
struct LastForward : LastProblem<T> {
  static constexpr bool kAlongK = true;
  using LastProblem<T>::c;
  explicit LastForward(const Conv& conv) : LastProblem<T>(conv) {
    this->m = conv.shape.batch * this->out.count;
    this->n = conv.shape.cout;
    this->k = conv.shape.cin * this->kernel.count;
    this->channels = FastDivisor(static_cast<std::uint32_t>(conv.shape.cin));
  }
  __device__ Place a_outer(std::int64_t group, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    Place p = this->corner(row);
    p.image += static_cast<int>(group * c.shape.cin);
    return p;
  }
  __device__ Channels depth(int at, int end) const {
    if (at >= end) return {nowhere(), 0};
    return this->tap_and_channel(at);
  }
  __device__ const T* a_data() const { return this->x(); }
  __device__ int a(const Place& from, const Channels& by) const {
    const int pixel = this->input(from, by.tap);
    return pixel == kNone ? kNone : pixel + by.channel;
  }
  __device__ void store(std::int64_t group, std::int64_t row, std::int64_t channel, float v) const {
    static_cast<T*>(c.y)[row * this->y_line + group * c.shape.cout + channel] =
        ended(v, group * c.shape.cout + channel);
  }
  __device__ __forceinline__ T ended(float v, std::int64_t channel) const {
    if (c.scale) v *= static_cast<float>(static_cast<const T*>(c.scale)[channel]);
    if (c.bias) v += static_cast<float>(static_cast<const T*>(c.bias)[channel]);
    return static_cast<T>(c.activation == Activation::relu && v < 0.0f ? 0.0f : v);
  }
};

template <class T>
struct LastInputGrad : LastProblem<T> {
  static constexpr bool kAlongK = true;
  using LastProblem<T>::c;
  explicit LastInputGrad(const Conv& conv) : LastProblem<T>(conv) {
    this->m = conv.shape.batch * this->in.count;
    this->n = conv.shape.cin;
    this->k = conv.shape.cout * this->kernel.count;
    this->channels = FastDivisor(static_cast<std::uint32_t>(conv.shape.cout));
  }
  __device__ Place a_outer(std::int64_t group, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    const Position i = this->in.split(row);
    Place p;
    p.image = static_cast<int>(i.outer) * this->y_image + static_cast<int>(group * c.shape.cout);
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(i.at[d] + c.shape.pad[d]);
    return p;
  }
  __device__ Channels depth(int at, int end) const {
    if (at >= end) return {{0, {-kNowhere, -kNowhere, -kNowhere}}, 0};
    return this->tap_and_channel(at);
  }
  __device__ const T* a_data() const { return this->y(); }
  // The output pixel that looks at this one through the tap, if there is one.
  __device__ int a(const Place& from, const Channels& by) const {
    std::uint32_t flat = 0;  // as in input()
    bool there = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const int distance = from.at[d] - by.tap.at[d];
      const auto ahead = static_cast<std::uint32_t>(distance < 0 ? 0 : distance), at = this->stride[d].quotient(ahead),
                 size = static_cast<std::uint32_t>(this->out_size[d]);
      there = there && distance >= 0 && at * this->stride[d].divisor == ahead && at < size;
      flat = flat * size + at;
    }
    return there ? from.image + static_cast<int>(flat) * this->y_line + by.channel : kNone;
  }
  __device__ void store(std::int64_t group, std::int64_t row, std::int64_t channel, float v) const {
    const std::int64_t to = group * c.shape.cin + channel;
    if (c.bias) v += static_cast<float>(static_cast<const T*>(c.bias)[to]);
    static_cast<T*>(c.x)[row * this->x_line + to] = static_cast<T>(v);
  }
};

// Sums over pixels: both operands have them as lines, with channels along.
template <class T>
struct LastWeightGrad : LastProblem<T> {
  static constexpr bool kAlongK = false;
  using LastProblem<T>::c;
  explicit LastWeightGrad(const Conv& conv) : LastProblem<T>(conv) {
    this->m = conv.shape.cout;
    this->n = conv.shape.cin * this->kernel.count;
    this->k = conv.shape.batch * this->out.count;
  }
  struct Pixel {
    Place corner;
    int line;  // kNone: beyond the sum
  };
  struct Taps {
    Place tap;
    int channel;
  };
  __device__ const T* a_data() const { return this->y(); }
  __device__ const T* b_data() const { return this->x(); }
  __device__ int a_outer(std::int64_t group, std::int64_t channel) const {
    return channel < this->m ? static_cast<int>(group * c.shape.cout + channel) : kNone;
  }
  __device__ Taps b_outer(std::int64_t group, std::int64_t column) const {
    if (column >= this->n) return {nowhere(), 0};
    return {this->reach(column / c.shape.cin), static_cast<int>(group * c.shape.cin + column % c.shape.cin)};
  }
  __device__ Pixel depth(int at, int end) const {
    if (at >= end) return {nowhere(), kNone};
    return {this->corner(at), at * this->y_line};
  }
  __device__ int a(int channel, const Pixel& at) const {
    return channel == kNone || at.line == kNone ? kNone : at.line + channel;
  }
  __device__ int b(const Taps& outer, const Pixel& at) const {
    const int pixel = this->input(at.corner, outer.tap);
    return pixel == kNone ? kNone : pixel + outer.channel;
  }
  __device__ void store(std::int64_t group, std::int64_t channel, std::int64_t column, float v) const {
    static_cast<T*>(c.w)[(group * c.shape.cout + channel) * this->n + column] = static_cast<T>(v);
  }
};

// Weights as lines of k: [group and row, tap and channel of the other side].
template <class T, class P>
struct WithWeights : P {
  const T* lines;
  WithWeights(const Conv& c, const T* weights) : P(c), lines(weights) {}
  __device__ const T* b_data() const { return lines; }
  __device__ int b_outer(std::int64_t group, std::int64_t row) const {
    return row < this->n ? static_cast<int>((group * this->n + row) * this->k) : kNone;
  }
  __device__ int b(int line, int at, int end) const { return line == kNone || at >= end ? kNone : line + at; }
};

template <class P>
__global__ void __launch_bounds__(kThreads)
    conv_last_product(const __grid_constant__ P p, std::int64_t split, float* partial) {
  constexpr bool along_k = P::kAlongK;
  // Chunks per line of a panel: lines are rows of A or columns of B with k along them, or positions of k.
  constexpr int kWidth = (along_k ? kK : kM) / kChunk;
  __shared__ uint4 as[kStages][kPanelChunks], bs[kStages][kPanelChunks];
  const std::int64_t tiles_n = (p.n + kN - 1) / kN;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kM;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kN;
  const int k_begin = static_cast<int>(blockIdx.y * split),
            k_end = static_cast<int>(k_begin + split < p.k ? k_begin + split : p.k);
  const int chunk = static_cast<int>(threadIdx.x) % kWidth, first_line = static_cast<int>(threadIdx.x) / kWidth;
  constexpr int kStep = kThreads / kWidth;  // between a thread's lines
  const auto copy = [](uint4* to, const typename P::Element* data, int element) {
    cp_async_16(to, element == kNone ? data : data + element, element != kNone);
  };

  for (int batch = static_cast<int>(blockIdx.z); batch < p.batch; batch += static_cast<int>(gridDim.z)) {
    WarpSums sum = {};
    const auto run = [&](const auto& start) {
#pragma unroll
      for (int stage = 0; stage < kStages - 1; ++stage) {
        if (const int k0 = k_begin + stage * kK; k0 < k_end) start(k0, stage);
        cp_async_commit();  // also when empty, so that the count of groups stays that of panels
      }
      int stage = 0, ahead = kStages - 1;
      for (int k0 = k_begin; k0 < k_end; k0 += kK) {
        cp_async_wait<kStages - 2>();
        __syncthreads();  // this panel is there for all, and nobody reads the one before any more
        if (const int next = k0 + (kStages - 1) * kK; next < k_end) start(next, ahead);
        cp_async_commit();
        add_panel<typename P::Element, along_k, along_k>(sum, as[stage], bs[stage]);
        stage = stage + 1 == kStages ? 0 : stage + 1;
        ahead = ahead + 1 == kStages ? 0 : ahead + 1;
      }
    };
    if constexpr (along_k) {
      decltype(p.a_outer(0, 0)) a[kEach];
      decltype(p.b_outer(0, 0)) b[kEach];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        a[j] = p.a_outer(batch, m0 + first_line + j * kStep);
        b[j] = p.b_outer(batch, n0 + first_line + j * kStep);
      }
      run([&](int k0, int stage) {
        const int at = k0 + chunk * kChunk;
        const auto depth = p.depth(at, k_end);
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          const int place = chunk_at<kWidth>(first_line + j * kStep, chunk);
          copy(&as[stage][place], p.a_data(), p.a(a[j], depth));
          copy(&bs[stage][place], p.b_data(), p.b(b[j], at, k_end));
        }
      });
    } else {
      const auto a = p.a_outer(batch, m0 + chunk * kChunk);
      const auto b = p.b_outer(batch, n0 + chunk * kChunk);
      run([&](int k0, int stage) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          const int line = first_line + j * kStep, place = chunk_at<kWidth>(line, chunk);
          const auto depth = p.depth(k0 + line, k_end);
          copy(&as[stage][place], p.a_data(), p.a(a, depth));
          copy(&bs[stage][place], p.b_data(), p.b(b, depth));
        }
      });
    }
    store_sums(p, batch, m0, n0, sum, partial);
    cp_async_wait<0>();
    __syncthreads();  // the next group overwrites the panels
  }
}

// ---- weights as lines -----------------------------------------------------------------------------------------------

struct WeightOrder {
  std::int64_t rows, taps, channels;      // of the result: [group and row, tap, channel]
  std::int64_t group, row, tap, channel;  // distances in what is given
  std::int64_t count;
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    conv_last_weights(const T* given, T* lines, const __grid_constant__ WeightOrder o) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < o.count; i += step) {
    const std::int64_t channel = i % o.channels, tap = i / o.channels % o.taps, row = i / o.channels / o.taps;
    lines[i] = given[row / o.rows * o.group + row % o.rows * o.row + tap * o.tap + channel * o.channel];
  }
}

// How the weights of a pass lie, and how it wants them.
WeightOrder weight_order(const ConvShape& s, ConvPass pass, std::int64_t taps) {
  const std::int64_t cout = s.cin * taps, tap = s.weights_last ? s.cin : 1, cin = s.weights_last ? 1 : taps;
  const std::int64_t count = s.groups * s.cout * s.cin * taps;
  if (pass == ConvPass::forward) return {s.cout, taps, s.cin, s.cout * cout, cout, tap, cin, count};
  return {s.cin, taps, s.cout, s.cout * cout, cin, tap, cout, count};
}

template <class P>
void run_last(const P& p) {
  const Split s = split_of("conv", p, kM, kN, kK);
  constexpr auto kernel = conv_last_product<P>;
  if (s.parts == 1) return launch(kernel, s.grid, kThreads, 0, p, s.length, static_cast<float*>(nullptr));
  const Scratch<float> partial(s.parts * p.batch * p.m * p.n);
  launch(kernel, s.grid, kThreads, 0, p, s.length, partial.get());
  run_add_parts(p, partial.get(), s.parts);
}

template <class T, class P>
void run_with_weights(const Conv& c, ConvPass pass) {
  const WeightOrder order = weight_order(c.shape, pass, c.shape.kernel[0] * c.shape.kernel[1] * c.shape.kernel[2]);
  const T* const given = static_cast<const T*>(c.w);
  const bool in_order = pass == ConvPass::forward && (c.shape.weights_last || order.taps == 1);
  if (in_order && reinterpret_cast<std::uintptr_t>(given) % 16 == 0) return run_last(WithWeights<T, P>(c, given));
  const Scratch<T> lines(order.count);
  launch(conv_last_weights<T>, grid_for(ceil_div(order.count, kThreads)), kThreads, 0, given, lines.get(), order);
  run_last(WithWeights<T, P>(c, lines.get()));
}

// An operand that begins at a multiple of 16 bytes: the given one, or a copy of it.
template <class T>
class Aligned {
 public:
  Aligned(void*& operand, std::int64_t count) : copy_(reinterpret_cast<std::uintptr_t>(operand) % 16 ? count : 0) {
    if (reinterpret_cast<std::uintptr_t>(operand) % 16 == 0) return;
    check(cudaMemcpyAsync(copy_.get(), operand, static_cast<std::size_t>(count) * sizeof(T), cudaMemcpyDeviceToDevice,
                          current_stream().handle),
          "cudaMemcpyAsync");
    operand = copy_.get();
  }

 private:
  Scratch<T> copy_;
};

}  // namespace

bool conv_last_serves(const ConvShape& s, ConvPass pass) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;  // coordinates and distances fit an int
  if (convolutions_by_library() || s.cin % kChunk != 0 || s.cout % kChunk != 0) return false;
  for (int d = 0; d < 3; ++d)
    if (s.in[d] > kMost || s.out[d] > kMost || s.pad[d] > kMost || s.stride[d] > kMost ||
        s.kernel[d] * s.dilation[d] > kMost || s.out[d] * s.stride[d] > kMost)
      return false;
  const std::int64_t pixels = s.out[0] * s.out[1] * s.out[2] * s.batch, inputs = s.in[0] * s.in[1] * s.in[2] * s.batch,
                     taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
  constexpr std::int64_t kMostElements = (std::int64_t{1} << 31) - 1;
  if (s.cin * taps > kMost || s.cout * taps > kMost || inputs * s.groups * s.cin > kMostElements ||
      pixels * s.groups * s.cout > kMostElements || s.groups * s.cout * s.cin * taps > kMostElements)
    return false;
  switch (pass) {
    case ConvPass::forward:
      return s.cout >= 32 && pixels >= 32 && s.cin * taps >= 16;
    case ConvPass::input_grad:
      return s.cin >= 32 && inputs >= 32 && s.cout * taps >= 16;
    default:
      return s.cout >= 32 && s.cin * taps >= 32 && pixels >= 16;
  }
}

template <class T>
void run_conv_last(const Conv& given, ConvPass pass) {
  Conv c = given;
  const ConvShape& s = c.shape;
  const std::int64_t x_count = s.batch * s.in[0] * s.in[1] * s.in[2] * s.groups * s.cin,
                     y_count = s.batch * s.out[0] * s.out[1] * s.out[2] * s.groups * s.cout;
  if (verbose_on) verbose_note("; channels last, panels of 16-byte copies");
  if (pass == ConvPass::forward) {
    const Aligned<T> x(c.x, x_count);
    run_with_weights<T, LastForward<T>>(c, pass);
  } else if (pass == ConvPass::input_grad) {
    const Aligned<T> y(c.y, y_count);
    run_with_weights<T, LastInputGrad<T>>(c, pass);
  } else {
    const Aligned<T> x(c.x, x_count), y(c.y, y_count);
    run_last(LastWeightGrad<T>(c));
  }
}
template void run_conv_last<Half>(const Conv&, ConvPass);
template void run_conv_last<BFloat16>(const Conv&, ConvPass);

void register_conv_last(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
