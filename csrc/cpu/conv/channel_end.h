// The end of a forward pass: activation(scale[channel] * sum + bias[channel]), on sums that are in registers or in the
// first-level cache. Without a scale the sums start from the bias, as they do without an activation, which then changes
// no bit of what it is applied to.
#pragma once
#include "cpu/gemm/vec.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {
namespace {

// max(scale * sum + shift, floor); NaN stays NaN.
template <class T>
struct Ending {
  Vector<T> scale, shift, floor;
  PYDLX_INLINE Vector<T> operator()(Vector<T> sum) const {
    const Vector<T> v = sum * scale + shift;
    return v < floor ? floor : v;
  }
  PYDLX_INLINE T operator()(T sum) const {
    const T v = sum * scale[0] + shift[0];
    return v < floor[0] ? floor[0] : v;
  }
};
// Of sums that are stored as they are.
struct AsSummed {
  template <class V>
  PYDLX_INLINE V operator()(V v) const {
    return v;
  }
};

template <class T>
struct ChannelEnd {
  const T *scale = nullptr, *shift = nullptr;  // of the first channel; null: 1 and 0
  bool relu = false;

  PYDLX_INLINE bool active() const { return scale || relu; }
  PYDLX_INLINE ChannelEnd from(std::int64_t channel) const {
    return {scale ? scale + channel : nullptr, shift ? shift + channel : nullptr, relu};
  }
  PYDLX_INLINE Vector<T> floor() const { return splat<T>(relu ? T(0) : static_cast<T>(-__builtin_inf())); }
  // Of one channel.
  PYDLX_INLINE Ending<T> one(std::int64_t channel) const {
    return {splat<T>(scale ? scale[channel] : T(1)), splat<T>(shift ? shift[channel] : T(0)), floor()};
  }
  // Of channels side by side, of which `count` exist.
  PYDLX_INLINE Ending<T> lanes(std::int64_t channel, int count) const {
    return {scale ? part(scale + channel, count) : splat<T>(T(1)), shift ? part(shift + channel, count) : Vector<T>{},
            floor()};
  }

 private:
  static PYDLX_INLINE Vector<T> part(const T* p, int count) {
    return count == kLanesOf<T> ? load(p) : load_part(p, Lanes(count));
  }
};

// What the sums of the first group start from, and how they end.
template <class T>
PYDLX_INLINE const T* start_of(const Conv& c) {
  return c.scale ? nullptr : static_cast<const T*>(c.bias);
}
template <class T>
PYDLX_INLINE ChannelEnd<T> end_of(const Conv& c) {
  return {static_cast<const T*>(c.scale), c.scale ? static_cast<const T*>(c.bias) : nullptr,
          c.activation == Activation::relu};
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
