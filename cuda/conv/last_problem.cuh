// Convolution of 16-bit floats with the channels last as products that are never formed (implicit GEMM): rows and
// columns of both operands are runs of channels, chunks of 16 bytes. What depends on a row alone is worked out once per
// tile. Groups are the batch.
//
//   forward       y[pixel, cout] = sum over (tap, cin) of x[pixel and tap, cin] w[cout, (tap, cin)]
//   input_grad    x[pixel, cin] = sum over (tap, cout) of y[pixel and tap, cout] w'[cin, (tap, cout)]
//   weight_grad   w[cout, (tap, cin)] = sum over pixels of y[pixel, cout] x[pixel and tap, cin]
#pragma once
#include "cuda/conv/problem.cuh"

namespace pydlx::cuda {
namespace {

// A pixel, or what a tap adds to it, far outside where there is none. Elements are counted on an int throughout.
struct Place {
  int image;  // elements up to its first pixel and channel
  int at[3];
};
constexpr int kNone = -1;  // an element of zero that lies nowhere
constexpr int kNowhere = -(1 << 29);
__device__ __forceinline__ Place nowhere() { return {0, {kNowhere, kNowhere, kNowhere}}; }

// A tap's distance, and a channel.
struct Tap {
  Place by;
  int channel;
};

// What the three passes have in common.
template <class T>
struct LastProblem : ConvProblem<T> {
  using ConvProblem<T>::c;
  FastDivisor stride[3];
  int x_line, y_line, in_size[3], out_size[3], x_image, y_image;  // elements of a pixel, and of an image

  explicit LastProblem(const Conv& conv) : ConvProblem<T>(conv) {
    const ConvShape& s = conv.shape;
    for (int d = 0; d < 3; ++d) stride[d] = FastDivisor(static_cast<std::uint32_t>(s.stride[d]));
    x_line = static_cast<int>(s.groups * s.cin);
    y_line = static_cast<int>(s.groups * s.cout);
    for (int d = 0; d < 3; ++d) {
      in_size[d] = static_cast<int>(s.in[d]);
      out_size[d] = static_cast<int>(s.out[d]);
    }
    x_image = static_cast<int>(this->in.count) * x_line;
    y_image = static_cast<int>(this->out.count) * y_line;
  }
  __device__ __forceinline__ const T* x() const { return static_cast<const T*>(c.x); }
  __device__ __forceinline__ const T* y() const { return static_cast<const T*>(c.y); }
  // The corner of the input that output pixel `i` looks at.
  __device__ __forceinline__ Place corner(std::int64_t i) const {
    const Position o = this->out.split(i);
    Place p;
    p.image = static_cast<int>(o.outer) * x_image;
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(o.at[d] * c.shape.stride[d] - c.shape.pad[d]);
    return p;
  }
  // How far a tap is from the corner.
  __device__ __forceinline__ Place reach(std::int64_t tap) const {
    const Position t = this->kernel.split(tap);
    Place p;
    p.image = 0;
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(t.at[d] * c.shape.dilation[d]);
    return p;
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

// Sums over channels and taps: A finds its pixel from a row (outer) and a tap (depth); B is a matrix of weights with k
// along its lines.
template <class T>
struct LastOverChannels : LastProblem<T> {
  static constexpr bool kAlongK = true;
  FastDivisor channels;  // of the operand that is read

  LastOverChannels(const Conv& conv, const Volume ConvProblem<T>::* pixels, std::int64_t written, std::int64_t read)
      : LastProblem<T>(conv), channels(static_cast<std::uint32_t>(read)) {
    this->m = conv.shape.batch * (this->*pixels).count;
    this->n = written;
    this->k = read * this->kernel.count;
  }
  __device__ __forceinline__ Tap tap_and_channel(int k) const {
    const auto at = static_cast<std::uint32_t>(k);
    const std::uint32_t tap = channels.quotient(at);
    return {this->reach(tap), static_cast<int>(at - tap * channels.divisor)};
  }
};

template <class T>
struct LastForward : LastOverChannels<T> {
  using LastProblem<T>::c;
  explicit LastForward(const Conv& conv)
      : LastOverChannels<T>(conv, &ConvProblem<T>::out, conv.shape.cout, conv.shape.cin) {}
  __device__ Place a_outer(std::int64_t group, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    Place p = this->corner(row);
    p.image += static_cast<int>(group * c.shape.cin);
    return p;
  }
  __device__ Tap depth(int at, int end) const {
    if (at >= end) return {nowhere(), 0};
    return this->tap_and_channel(at);
  }
  __device__ const T* a_data() const { return this->x(); }
  __device__ int a(const Place& from, const Tap& tap) const {
    const int pixel = this->input(from, tap.by);
    return pixel == kNone ? kNone : pixel + tap.channel;
  }
  __device__ T* line(std::int64_t group, std::int64_t row) const {
    return static_cast<T*>(c.y) + row * this->y_line + group * c.shape.cout;
  }
  __device__ T finished(float v, std::int64_t group, std::int64_t channel) const {
    return this->ended(v, group * c.shape.cout + channel);
  }
  __device__ void store(std::int64_t group, std::int64_t row, std::int64_t channel, float v) const {
    line(group, row)[channel] = finished(v, group, channel);
  }
};

template <class T>
struct LastInputGrad : LastOverChannels<T> {
  using LastProblem<T>::c;
  explicit LastInputGrad(const Conv& conv)
      : LastOverChannels<T>(conv, &ConvProblem<T>::in, conv.shape.cin, conv.shape.cout) {}
  __device__ Place a_outer(std::int64_t group, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    const Position i = this->in.split(row);
    Place p;
    p.image = static_cast<int>(i.outer) * this->y_image + static_cast<int>(group * c.shape.cout);
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(i.at[d] + c.shape.pad[d]);
    return p;
  }
  __device__ Tap depth(int at, int end) const {
    if (at >= end) return {{0, {-kNowhere, -kNowhere, -kNowhere}}, 0};
    return this->tap_and_channel(at);
  }
  __device__ const T* a_data() const { return this->y(); }
  // The output pixel that looks at this one through the tap, if there is one.
  __device__ int a(const Place& from, const Tap& tap) const {
    std::uint32_t flat = 0;  // as in input()
    bool there = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const int distance = from.at[d] - tap.by.at[d];
      const auto ahead = static_cast<std::uint32_t>(distance < 0 ? 0 : distance), at = this->stride[d].quotient(ahead),
                 size = static_cast<std::uint32_t>(this->out_size[d]);
      there = there && distance >= 0 && at * this->stride[d].divisor == ahead && at < size;
      flat = flat * size + at;
    }
    return there ? from.image + static_cast<int>(flat) * this->y_line + tap.channel : kNone;
  }
  __device__ T* line(std::int64_t group, std::int64_t row) const {
    return static_cast<T*>(c.x) + row * this->x_line + group * c.shape.cin;
  }
  __device__ T finished(float v, std::int64_t group, std::int64_t channel) const {
    return this->with_bias(v, group * c.shape.cin + channel);
  }
  __device__ void store(std::int64_t group, std::int64_t row, std::int64_t channel, float v) const {
    line(group, row)[channel] = finished(v, group, channel);
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
  __device__ const T* a_data() const { return this->y(); }
  __device__ const T* b_data() const { return this->x(); }
  __device__ int a_outer(std::int64_t group, std::int64_t channel) const {
    return channel < this->m ? static_cast<int>(group * c.shape.cout + channel) : kNone;
  }
  __device__ Tap b_outer(std::int64_t group, std::int64_t column) const {
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
  __device__ int b(const Tap& tap, const Pixel& at) const {
    const int pixel = this->input(at.corner, tap.by);
    return pixel == kNone ? kNone : pixel + tap.channel;
  }
  __device__ T* line(std::int64_t group, std::int64_t channel) const {
    return static_cast<T*>(c.w) + (group * c.shape.cout + channel) * this->n;
  }
  __device__ T finished(float v, std::int64_t, std::int64_t) const { return static_cast<T>(v); }
  __device__ void store(std::int64_t group, std::int64_t channel, std::int64_t column, float v) const {
    line(group, channel)[column] = finished(v, group, column);
  }
};

}  // namespace
}  // namespace pydlx::cuda
