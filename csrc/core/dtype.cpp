#include "core/dtype.h"

#include <atomic>

namespace pydlx {

DType promote(DType a, DType b) {
  if (a == b) return a;
  const int ca = dtype_category(a), cb = dtype_category(b);
  if (ca != cb) return ca > cb ? a : b;
  if (ca == 2) {
    // Half and bfloat16 have no common 16-bit type: the pair promotes to float32.
    const bool mixed16 = itemsize(a) == 2 && itemsize(b) == 2;
    if (mixed16) return DType::Float32;
    return itemsize(a) > itemsize(b) ? a : b;
  }
  // uint8 with a signed type needs one more bit: uint8 + int8 -> int16.
  if (a == DType::UInt8 || b == DType::UInt8) {
    const DType other = a == DType::UInt8 ? b : a;
    return other == DType::Int8 ? DType::Int16 : other;
  }
  return itemsize(a) > itemsize(b) ? a : b;
}

namespace {
std::atomic<DType> g_default{DType::Float32};
}
DType default_dtype() { return g_default.load(std::memory_order_relaxed); }
void set_default_dtype(DType t) { g_default.store(t, std::memory_order_relaxed); }

}  // namespace pydlx
