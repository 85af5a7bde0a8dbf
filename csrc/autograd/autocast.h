// Mixed precision: inside an autocast region some operations take their float32 operands in a 16-bit type, and some
// take 16-bit operands in float32. The region is the calling thread's; what is cast is decided where operations enter
// the engine (bind/autocast.cpp), and the casts are ordinary operations with gradients.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace pydlx {

enum class CastPolicy : std::uint8_t { none, lower, full };

// Of an operation, on each type of device.
struct CastPolicies {
  CastPolicy cpu = CastPolicy::none, cuda = CastPolicy::none;
  bool any() const { return cpu != CastPolicy::none || cuda != CastPolicy::none; }
};

struct Autocast {
  bool enabled[kDeviceTypes] = {};
  DType dtype[kDeviceTypes] = {DType::BFloat16, DType::Float16};
  bool cache = true;  // keep the casts of leaves that need gradients until the outermost region ends
  int depth = 0;
};

Autocast& autocast_state() noexcept;

// Whether any device's region is active in this thread.
inline bool autocast_active() noexcept {
  const Autocast& a = autocast_state();
  return a.enabled[0] | a.enabled[1];
}

// The tensor as an operation of that policy wants it.
Tensor autocast(const Tensor& t, CastPolicy policy);
void clear_autocast_cache() noexcept;

}  // namespace pydlx
