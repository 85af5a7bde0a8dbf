// One thing done to many tensors at once, on devices where every call costs a launch. Backends without these entries go
// tensor by tensor. Tensors are dense and have one dtype.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

struct DenseList {
  std::int64_t count = 0;
  void* const* data = nullptr;         // [count]
  const std::int64_t* size = nullptr;  // [count] elements
};

enum class ListNorm : std::uint8_t { magnitude, square, largest };

// The sums of |x| or x^2 in double, or the largest |x|, of `parts` tiles of up to `tile` elements.
struct NormParts : DenseList {
  ListNorm kind = ListNorm::square;
  double* parts = nullptr;  // where to write those of this list, tensor after tensor
};
// Of the parts of all lists: their sum, its root, or the largest.
struct NormOfParts {
  ListNorm kind = ListNorm::square;
  std::int64_t count = 0;
  const double* parts = nullptr;
  void* out = nullptr;
};

// x *= factor; with `norm`, a float or (wide) a double on the device, x *= min(1, factor / (norm + 1e-6)).
struct ScaleList : DenseList {
  double factor = 1;
  const void* norm = nullptr;
  bool wide = false;
  float* found = nullptr;  // becomes 1 where a product is infinite or NaN
};

// data[t] becomes from[t], or with add[t] the sum of both.
struct CastList : DenseList {
  const void* const* from = nullptr;   // [count]
  const unsigned char* add = nullptr;  // [count]
};

inline constexpr std::int64_t kNormTile = 1 << 14;  // elements of a part

struct TensorListKernels {
  void (*norm_parts[kDTypeCount])(const NormParts&) = {};
  void (*norm_of_parts[kDTypeCount])(const NormOfParts&) = {};  // by the dtype of the result
  void (*scale[kDTypeCount])(const ScaleList&) = {};
  void (*cast[kDTypeCount][kDTypeCount])(const CastList&) = {};  // [to][from], one of them float32
};

}  // namespace pydlx
