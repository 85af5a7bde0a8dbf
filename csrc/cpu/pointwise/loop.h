// The elementwise loop. Walking the outer axes and cutting work into parallel chunks is one ordinary function; only the innermost row
// is instantiated per functor and dtype, which keeps thousands of kernels cheap to compile.
#pragma once
#include "cpu/isa.h"
#include "functors/types.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

// Elements per parallel chunk: 32 Ki elements are about 10 us of work, below which waking threads costs more than it saves.
constexpr std::int64_t kGrain = 32768;

// One row of n elements: p are the operands' addresses, s their strides in elements.
using RowFn = void (*)(std::int64_t n, char* const* p, const std::int64_t* s, const double* param);

[[maybe_unused]] void walk(const Elementwise& e, const std::size_t* size, RowFn row) {
  std::int64_t inner_stride[kMaxOperands], step[kMaxOperands][kMaxDims];
  for (int k = 0; k < e.operands; ++k) {
    inner_stride[k] = e.stride[k][0];
    for (int d = 0; d < e.ndim; ++d) step[k][d] = e.stride[k][d] * static_cast<std::int64_t>(size[k]);
  }
  if (e.ndim == 1) {
    parallel_for(e.numel, kGrain, [&](std::int64_t b, std::int64_t end) {
      char* p[kMaxOperands];
      for (int k = 0; k < e.operands; ++k) p[k] = static_cast<char*>(e.data[k]) + b * step[k][0];
      row(end - b, p, inner_stride, e.param);
    });
    return;
  }
  const std::int64_t inner = e.size[0], rows = e.numel / inner;
  parallel_for(rows, inner >= kGrain ? 1 : kGrain / inner, [&](std::int64_t b, std::int64_t end) {
    std::int64_t index[kMaxDims];
    char* p[kMaxOperands];
    for (int k = 0; k < e.operands; ++k) p[k] = static_cast<char*>(e.data[k]);
    std::int64_t rest = b;
    for (int d = 1; d < e.ndim; ++d) {
      index[d] = rest % e.size[d];
      rest /= e.size[d];
      for (int k = 0; k < e.operands; ++k) p[k] += index[d] * step[k][d];
    }
    for (std::int64_t r = b; r < end; ++r) {
      row(inner, p, inner_stride, e.param);
      for (int d = 1; d < e.ndim; ++d) {
        for (int k = 0; k < e.operands; ++k) p[k] += step[k][d];
        if (++index[d] < e.size[d]) break;
        for (int k = 0; k < e.operands; ++k) p[k] -= e.size[d] * step[k][d];
        index[d] = 0;
      }
    }
  });
}

// Rows for one and two inputs. `f` is a stateless functor type with `static Out apply(In..., const double* param)`.
template <class F, class Out, class In>
void row1(std::int64_t n, char* const* p, const std::int64_t* s, const double* param) {
  Out* o = reinterpret_cast<Out*>(p[0]);
  const In* a = reinterpret_cast<const In*>(p[1]);
  if (s[0] == 1 && s[1] == 1) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(a[i], param);
  } else {
    const std::int64_t so = s[0], sa = s[1];
    for (std::int64_t i = 0; i < n; ++i) o[i * so] = F::apply(a[i * sa], param);
  }
}

template <class F, class Out, class In>
void row2(std::int64_t n, char* const* p, const std::int64_t* s, const double* param) {
  Out* o = reinterpret_cast<Out*>(p[0]);
  const In* a = reinterpret_cast<const In*>(p[1]);
  const In* b = reinterpret_cast<const In*>(p[2]);
  if (s[0] == 1 && s[1] == 1 && s[2] == 1) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(a[i], b[i], param);
  } else if (s[0] == 1 && s[1] == 1 && s[2] == 0) {
    const In v = b[0];
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) o[i] = F::apply(a[i], v, param);
  } else {
    const std::int64_t so = s[0], sa = s[1], sb = s[2];
    for (std::int64_t i = 0; i < n; ++i) o[i * so] = F::apply(a[i * sa], b[i * sb], param);
  }
}

template <class F, class Out, class In>
void map1(const Elementwise& e) {
  constexpr std::size_t size[] = {sizeof(Out), sizeof(In)};
  walk(e, size, row1<F, Out, In>);
}
template <class F, class Out, class In>
void map2(const Elementwise& e) {
  constexpr std::size_t size[] = {sizeof(Out), sizeof(In), sizeof(In)};
  walk(e, size, row2<F, Out, In>);
}

template <class... Ts>
struct Types {};
using AllTypes = Types<bool, std::uint8_t, std::int8_t, std::int16_t, std::int32_t, std::int64_t, Half, BFloat16, float, double>;

template <class T>
constexpr int idx = static_cast<int>(DTypeOf<T>::value);

}  // namespace
}  // namespace pydlx::PYDLX_ISA
