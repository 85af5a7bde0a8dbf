// Convolution with the channels last as products that are never formed (implicit GEMM): rows and
// columns of both operands are runs of channels, chunks of 16 bytes. What depends on a row alone is worked out once per
// tile. Groups are the batch.
//
//   forward       y[pixel, cout] = sum over (tap, cin) of x[pixel and tap, cin] w[cout, (tap, cin)]
//   input_grad    x[pixel, cin] = sum over (tap, cout) of y[pixel and tap, cout] w'[cin, (tap, cout)]
//   weight_grad   w[cout, (tap, cin)] = sum over pixels of y[pixel, cout] x[pixel and tap, cin]
//
// A pass says what the sums of a group run over (terms), what depends on a row, a column or a place in the sum alone
// (a_outer, b_outer, depth), and from these where a chunk of A and B lies. line() is where a row of the result begins,
// null for a row that does not exist.
#pragma once
#include <numeric>
#include <utility>

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

// What the sums of a group run over.
struct Terms {
  int count, group;
};
// A place in sums over channels and taps: where A finds its pixel, and how far along a line of weights it is.
struct Depth {
  Tap tap;
  int in_line;
};

// What the three passes have in common.
template <class T>
struct LastProblem : ConvProblem<T> {
  using ConvProblem<T>::c;
  int x_line, y_line, in_size[3], out_size[3], x_image, y_image;  // elements of a pixel, and of an image

  explicit LastProblem(const Conv& conv) : ConvProblem<T>(conv) {
    const ConvShape& s = conv.shape;
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
struct LastForward : LastProblem<T> {
  static constexpr bool kAlongK = true;
  using LastProblem<T>::c;
  FastDivisor channels;
  std::int64_t weights_line;  // elements of a line of weights
  explicit LastForward(const Conv& conv) : LastProblem<T>(conv), channels(static_cast<std::uint32_t>(conv.shape.cin)) {
    this->m = conv.shape.batch * this->out.count;
    this->n = conv.shape.cout;
    this->k = weights_line = conv.shape.cin * this->kernel.count;
  }
  __device__ Terms terms(std::int64_t group) const { return {static_cast<int>(this->k), static_cast<int>(group)}; }
  __device__ Place a_outer(const Terms& t, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    Place p = this->corner(row);
    p.image += static_cast<int>(t.group * c.shape.cin);
    return p;
  }
  __device__ Depth depth(const Terms&, int at, int end) const {
    if (at >= end) return {{nowhere(), 0}, kNone};
    const std::uint32_t tap = channels.quotient(static_cast<std::uint32_t>(at));
    return {{this->reach(tap), static_cast<int>(static_cast<std::uint32_t>(at) - tap * channels.divisor)}, at};
  }
  __device__ const T* a_data() const { return this->x(); }
  __device__ int a(const Place& from, const Depth& by) const {
    const int pixel = this->input(from, by.tap.by);
    return pixel == kNone ? kNone : pixel + by.tap.channel;
  }
  __device__ T* line(const Terms& t, std::int64_t row) const {
    return static_cast<T*>(c.y) + row * this->y_line + t.group * c.shape.cout;
  }
  __device__ T finished(float v, const Terms& t, std::int64_t channel) const {
    return this->ended(v, t.group * c.shape.cout + channel);
  }
  __device__ void store(std::int64_t group, std::int64_t row, std::int64_t channel, float v) const {
    line(terms(group), row)[channel] = finished(v, terms(group), channel);
  }
};

// Pixels of the input with the same remainders by the strides are a class: they are seen through the same taps, every
// step-th one from a first one on, and through no others. Classes are further groups of the product, with sums as long
// as their taps; without them a sum would run over all taps, most of which contribute nothing (3 of 4 with strides of
// 2).
template <class T>
struct LastInputGrad : LastProblem<T> {
  static constexpr bool kAlongK = true;
  using LastProblem<T>::c;
  // Along an axis, with s the stride and e the dilation: pixel r + s j sees output pixel o through tap t when
  // r + s j + pad = s o + e t. Such taps are those with e t = r + pad modulo s.
  struct Axis {
    int classes, step, reach;  // of remainders; of the taps of a class; how far o goes back from tap to tap
    int common, inverse;       // common factor of s and e; inverse of e / common modulo step
  };
  struct ClassTerms : Terms {
    int remainder[3], ahead[3];  // o = ahead + j for the first tap
    int tap[3], taps[3];         // the first one, and how many
  };
  Axis axis[3];
  Volume pixels;  // of the largest class
  FastDivisor channels;
  std::int64_t weights_line, classes;

  explicit LastInputGrad(const Conv& conv)
      : LastProblem<T>(conv), channels(static_cast<std::uint32_t>(conv.shape.cout)), classes(1) {
    const ConvShape& s = conv.shape;
    std::int64_t sizes[3], taps = 1;
    for (int d = 0; d < 3; ++d) {
      const std::int64_t common = std::gcd(s.stride[d], s.dilation[d]), step = s.stride[d] / common;
      axis[d].classes = static_cast<int>(s.stride[d] < s.in[d] ? s.stride[d] : s.in[d]);
      axis[d].step = static_cast<int>(step);
      axis[d].reach = static_cast<int>(s.dilation[d] / common);
      axis[d].common = static_cast<int>(common);
      axis[d].inverse = static_cast<int>(inverse(s.dilation[d] / common, step));
      classes *= axis[d].classes;
      sizes[d] = (s.in[d] + s.stride[d] - 1) / s.stride[d];
      taps *= (s.kernel[d] + step - 1) / step;
    }
    pixels = Volume(sizes, s.batch);
    this->m = s.batch * pixels.count;
    this->n = s.cin;
    this->k = s.cout * taps;
    this->batch = s.groups * classes;
    weights_line = s.cout * this->kernel.count;
  }
  __device__ ClassTerms terms(std::int64_t index) const {
    ClassTerms t;
    t.group = static_cast<int>(index / classes);
    t.count = static_cast<int>(c.shape.cout);
    auto rest = static_cast<int>(index % classes);
#pragma unroll
    for (int d = 2; d >= 0; --d) {
      const Axis& a = axis[d];
      t.remainder[d] = rest % a.classes;
      rest /= a.classes;
      const std::int64_t from = t.remainder[d] + c.shape.pad[d];
      const std::int64_t first = from / a.common % a.step * a.inverse % a.step;
      const bool any = from % a.common == 0 && first < c.shape.kernel[d];
      t.tap[d] = static_cast<int>(first);
      t.taps[d] = any ? static_cast<int>((c.shape.kernel[d] - first + a.step - 1) / a.step) : 0;
      t.ahead[d] = any ? static_cast<int>((from - first * c.shape.dilation[d]) / c.shape.stride[d]) : 0;
      t.count *= t.taps[d];
    }
    return t;
  }
  __device__ Place a_outer(const ClassTerms& t, std::int64_t row) const {
    if (row >= this->m) return nowhere();
    const Position j = pixels.split(row);
    Place p;
    p.image = static_cast<int>(j.outer) * this->y_image + static_cast<int>(t.group * c.shape.cout);
#pragma unroll
    for (int d = 0; d < 3; ++d) p.at[d] = static_cast<int>(j.at[d]) + t.ahead[d];
    return p;
  }
  __device__ Depth depth(const ClassTerms& t, int at, int end) const {
    if (at >= end) return {{{0, {-kNowhere, -kNowhere, -kNowhere}}, 0}, kNone};
    const auto place = static_cast<std::uint32_t>(at);
    std::uint32_t rest = channels.quotient(place);
    Depth by;
    by.tap.channel = static_cast<int>(place - rest * channels.divisor);
    int number[3];
#pragma unroll
    for (int d = 2; d >= 0; --d) {
      const auto taps = static_cast<std::uint32_t>(t.taps[d]), q = d == 0 ? 0 : rest / taps;
      number[d] = static_cast<int>(rest - q * taps);
      rest = q;
    }
    std::int64_t flat[3];
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      by.tap.by.at[d] = number[d] * axis[d].reach;
      flat[d] = t.tap[d] + number[d] * axis[d].step;
    }
    by.tap.by.image = 0;
    by.in_line = static_cast<int>(this->kernel.flat(flat)) * static_cast<int>(c.shape.cout) + by.tap.channel;
    return by;
  }
  __device__ const T* a_data() const { return this->y(); }
  __device__ int a(const Place& from, const Depth& by) const {
    std::uint32_t flat = 0;  // as in input()
    bool there = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      const auto at = static_cast<std::uint32_t>(from.at[d] - by.tap.by.at[d]),
                 size = static_cast<std::uint32_t>(this->out_size[d]);
      there = there && at < size;
      flat = flat * size + at;
    }
    return there ? from.image + static_cast<int>(flat) * this->y_line + by.tap.channel : kNone;
  }
  __device__ T* line(const ClassTerms& t, std::int64_t row) const {
    const Position j = pixels.split(row);
    std::int64_t at[3];
    bool there = true;
#pragma unroll
    for (int d = 0; d < 3; ++d) {
      at[d] = t.remainder[d] + j.at[d] * c.shape.stride[d];
      there = there && at[d] < c.shape.in[d];
    }
    if (!there) return nullptr;
    return static_cast<T*>(c.x) + (j.outer * this->in.count + this->in.flat(at)) * this->x_line + t.group * c.shape.cin;
  }
  __device__ T finished(float v, const ClassTerms& t, std::int64_t channel) const {
    return this->with_bias(v, t.group * c.shape.cin + channel);
  }
  __device__ void store(std::int64_t index, std::int64_t row, std::int64_t channel, float v) const {
    const ClassTerms t = terms(index);
    if (T* const to = line(t, row)) to[channel] = finished(v, t, channel);
  }

 private:
  // x with a x = 1 modulo m, for numbers without a common factor (Euclid).
  static std::int64_t inverse(std::int64_t a, std::int64_t m) {
    std::int64_t r = m, next_r = a % m, x = 0, next_x = 1;
    while (next_r != 0) {
      const std::int64_t q = r / next_r;
      r = std::exchange(next_r, r - q * next_r);
      x = std::exchange(next_x, x - q * next_x);
    }
    return (x % m + m) % m;
  }
};

// With the weights as lines of k: [group and row, tap and channel of the other side].
template <class T, class P>
struct WithWeights : P {
  const T* lines;
  WithWeights(const Conv& c, const T* weights) : P(c), lines(weights) {}
  __device__ const T* b_data() const { return lines; }
  __device__ int b_outer(const Terms& t, std::int64_t row) const {
    return row < this->n ? static_cast<int>((t.group * this->n + row) * this->weights_line) : kNone;
  }
  __device__ int b(int line, const Depth& by) const {
    return line == kNone || by.in_line == kNone ? kNone : line + by.in_line;
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
  __device__ Terms terms(std::int64_t group) const { return {static_cast<int>(this->k), static_cast<int>(group)}; }
  __device__ int a_outer(const Terms& t, std::int64_t channel) const {
    return channel < this->m ? static_cast<int>(t.group * c.shape.cout + channel) : kNone;
  }
  __device__ Tap b_outer(const Terms& t, std::int64_t column) const {
    if (column >= this->n) return {nowhere(), 0};
    return {this->reach(column / c.shape.cin), static_cast<int>(t.group * c.shape.cin + column % c.shape.cin)};
  }
  __device__ Pixel depth(const Terms&, int at, int end) const {
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
  __device__ T* line(const Terms& t, std::int64_t channel) const {
    return static_cast<T*>(c.w) + (t.group * c.shape.cout + channel) * this->n;
  }
  __device__ T finished(float v, const Terms&, std::int64_t) const { return static_cast<T>(v); }
  __device__ void store(std::int64_t group, std::int64_t channel, std::int64_t column, float v) const {
    line(terms(group), channel)[column] = finished(v, terms(group), column);
  }
};

}  // namespace
}  // namespace pydlx::cuda
