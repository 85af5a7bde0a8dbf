// Activations of finished results. Register tiles apply ReLU themselves; the others are functions of some length, which
// take results by the row while they are in cache.
#pragma once
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/vec.h"

namespace pydlx::PYDLX_ISA {
namespace {

PYDLX_INLINE bool by_rows(Activation activation) { return activation > Activation::relu; }

PYDLX_INLINE void activate_row(Activation activation, float* x, std::int64_t n) { activate_f32(activation, x, n); }
PYDLX_INLINE void activate_row(Activation activation, double* x, std::int64_t n) { activate_f64(activation, x, n); }
// 16-bit floats, rounded before and after like those of two operations.
template <class T>
void activate_row(Activation activation, T* x, std::int64_t n) {
  float wide[256];
  for (std::int64_t b = 0; b < n; b += 256) {
    const std::int64_t count = n - b < 256 ? n - b : 256;
    for (std::int64_t i = 0; i < count; ++i) wide[i] = static_cast<float>(x[b + i]);
    activate_f32(activation, wide, count);
    for (std::int64_t i = 0; i < count; ++i) x[b + i] = static_cast<T>(wide[i]);
  }
}

// C(i, j) at c[i * c_i + j * c_j], where one of the two strides is 1.
template <class T>
void activate_region(Activation activation, T* c, std::int64_t c_i, std::int64_t c_j, std::int64_t i0, std::int64_t i1,
                     std::int64_t j0, std::int64_t j1) {
  if (c_j == 1)
    for (std::int64_t i = i0; i < i1; ++i) activate_row(activation, c + i * c_i + j0, j1 - j0);
  else
    for (std::int64_t j = j0; j < j1; ++j) activate_row(activation, c + j * c_j + i0 * c_i, i1 - i0);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
