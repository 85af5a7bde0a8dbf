// Convolution on the tensor cores with the channels first whose images cannot be handed over with the channels last:
// those of one axis, and those whose channels do not fill chunks of 16 bytes, as the three of a first layer. Operands
// are copied, with zeros up to whole chunks, and results back without them.
#include "core/verbose.h"
#include "cuda/conv/conv_first.h"
#include "cuda/conv/conv_last.h"
#include "cuda/gemm/warp_tile.cuh"
#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/each.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

template <class T>
constexpr std::int64_t padded(std::int64_t channels) {
  return (channels + kChunkOf<T> - 1) / kChunkOf<T> * kChunkOf<T>;
}

// [image, channel, position] on one side and [image, position, padded channel] on the other; images from `given` on are
// zeros. Fewer than 2^31 elements.
template <class T>
struct Planes {
  std::int64_t given, channels, count;
  bool in_order;                  // both sides are the same
  FastDivisor positions, chunks;  // of a pixel's padded channels

  Planes(std::int64_t given_images, std::int64_t all_images, std::int64_t channel_count, std::int64_t position_count)
      : given(given_images),
        channels(channel_count),
        count(all_images * position_count * padded<T>(channel_count) / kChunkOf<T>),
        in_order(position_count == 1 && channel_count % kChunkOf<T> == 0 && given_images == all_images),
        positions(static_cast<std::uint32_t>(position_count)),
        chunks(static_cast<std::uint32_t>(padded<T>(channel_count) / kChunkOf<T>)) {}
};

// Where chunk number i lies. Neighbours are at neighbouring positions, which lie together with the channels first.
template <class T>
struct PlaneChunk {
  std::int64_t image, first;  // its first channel's element with the channels first
  std::int64_t last;          // number of the chunk with the channels last
  int channels;               // how many of the chunk exist
  __device__ __forceinline__ PlaneChunk(const Planes<T>& p, std::uint32_t i) {
    constexpr int kChunk = kChunkOf<T>;
    const std::uint32_t rest = p.positions.quotient(i), position = i - rest * p.positions.divisor,
                        at = p.chunks.quotient(rest), chunk = rest - at * p.chunks.divisor;
    image = at;
    first = (image * p.channels + chunk * kChunk) * p.positions.divisor + position;
    last = (image * p.positions.divisor + position) * p.chunks.divisor + chunk;
    const std::int64_t left = image < p.given ? p.channels - chunk * kChunk : 0;
    channels = static_cast<int>(left < kChunk ? left : kChunk);
  }
};

template <class T>
struct FirstToLast {
  const T* first;
  uint4* last;
  Planes<T> planes;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const PlaneChunk<T> at(planes, static_cast<std::uint32_t>(i));
    last[at.last] =
        gather<T>(at.channels, [&](int c) { return first[at.first + c * std::int64_t{planes.positions.divisor}]; });
  }
};

template <class T>
struct LastToFirst {
  const uint4* last;
  T* first;
  Planes<T> planes;
  __device__ __forceinline__ void operator()(std::int64_t i) const {
    const PlaneChunk<T> at(planes, static_cast<std::uint32_t>(i));
    const uint4 chunk = last[at.last];
    const std::uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
#pragma unroll
    for (int c = 0; c < kChunkOf<T>; ++c) {
      if (c >= at.channels) continue;
      T v;
      if constexpr (sizeof(T) == 4)
        v = __uint_as_float(words[c]);
      else
        v.bits = static_cast<std::uint16_t>(words[c / 2] >> (16 * (c % 2)));
      first[at.first + c * std::int64_t{planes.positions.divisor}] = v;
    }
  }
};

// An operand's copy with the channels last, which takes its place.
template <class T>
class Copy {
 public:
  template <class Pointer>
  Copy(Pointer*& operand, const Planes<T>& planes, bool read)
      : planes_(planes), given_(operand), copy_(operand && !planes.in_order ? planes.count * kChunkOf<T> : 0) {
    if (!operand || planes.in_order) return;
    if (read) for_each(planes_.count, FirstToLast<T>{static_cast<const T*>(given_), chunks(), planes_});
    operand = copy_.get();
  }
  void bring_back(void* to) const {
    if (planes_.in_order) return;  // the result is where it belongs
    for_each(planes_.count, LastToFirst<T>{chunks(), static_cast<T*>(to), planes_});
  }

 private:
  uint4* chunks() const { return reinterpret_cast<uint4*>(copy_.get()); }

  const Planes<T> planes_;
  const void* const given_;
  const Scratch<T> copy_;
};

}  // namespace

template <class T>
bool run_conv_first(const Conv& given, ConvPass pass) {
  const ConvShape& s = given.shape;
  Conv c = given;
  c.shape.cin = padded<T>(s.cin);
  c.shape.cout = padded<T>(s.cout);
  c.shape.channels_last = c.shape.weights_last = true;
  const bool same = c.shape.cin == s.cin && c.shape.cout == s.cout;
  if ((s.groups != 1 && !same) || !conv_last_pays<T>(c.shape, pass, s.cin * s.cout)) return false;
  if (verbose_on) {
    verbose_note("; copied");
    if (!same)
      verbose_note(" with %lld and %lld channels", static_cast<long long>(c.shape.cin),
                   static_cast<long long>(c.shape.cout));
  }
  const auto count = [](const std::int64_t (&size)[3]) { return size[0] * size[1] * size[2]; };
  const std::int64_t rows = s.groups * c.shape.cout, ends = pass == ConvPass::forward ? s.cout : s.cin;
  const Copy<T> x(c.x, {s.batch, s.batch, s.groups * s.cin, count(s.in)}, pass != ConvPass::input_grad);
  const Copy<T> y(c.y, {s.batch, s.batch, s.groups * s.cout, count(s.out)}, pass != ConvPass::forward);
  const Copy<T> w(c.w, {s.groups * s.cout, rows, s.cin, count(s.kernel)}, pass != ConvPass::weight_grad);
  const Copy<T> bias(c.bias, {1, 1, s.groups * ends, 1}, true), scale(c.scale, {1, 1, s.groups * ends, 1}, true);
  run_conv_last<T>(c, pass);
  if (pass == ConvPass::forward)
    y.bring_back(given.y);
  else if (pass == ConvPass::input_grad)
    x.bring_back(given.x);
  else
    w.bring_back(given.w);
  return true;
}
template bool run_conv_first<float>(const Conv&, ConvPass);
template bool run_conv_first<Half>(const Conv&, ConvPass);
template bool run_conv_first<BFloat16>(const Conv&, ConvPass);

void register_conv_first(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
