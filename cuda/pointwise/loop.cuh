// The elementwise kernels. A functor is instantiated twice per dtype: over dense operands, 16 bytes of the widest one
// at a time, and over strided ones. The first takes broadcast and strided operands, too, if packs of the innermost axis
// are packs, or one value, of each.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/pack.cuh"
#include "functors/types.h"
#include "kernels.h"
#include "kernels/pointwise.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

constexpr int kThreads = 256;

// ---- arguments ------------------------------------------------------------------------------------------------------

struct Parameters {
  double p[4];
};

// Packs of rows: the place of a pack in every operand.
inline constexpr int kRowAxes = 5;
template <int N>
struct RowAxes {
  int ndim = 0;  // 0: one row, all operands are walked alike
  FastDivisor divisor[kRowAxes];
  std::int64_t step[N][kRowAxes];  // elements; along axis 0 from pack to pack
  bool repeated[N];                // one value for a row

  __device__ __forceinline__ void find(std::uint32_t pack, std::int64_t (&offset)[N]) const {
#pragma unroll
    for (int k = 0; k < N; ++k) offset[k] = 0;
    for (int d = 0; d < ndim; ++d) {
      const std::uint32_t q = divisor[d].quotient(pack), r = pack - q * divisor[d].divisor;
      pack = q;
#pragma unroll
      for (int k = 0; k < N; ++k) offset[k] += static_cast<std::int64_t>(r) * step[k][d];
    }
  }
};

template <int N>
struct DenseArgs {
  void* data[N];
  bool single[N];  // one value for all elements: `value`, or what data points to
  alignas(8) unsigned char value[N][8];
  bool immediate[N];
  bool aligned;  // every operand that is walked starts at a multiple of 16 bytes
  RowAxes<N> rows;
  std::int64_t n;
  Parameters params;
};

template <int N>
struct StridedArgs {
  char* data[N];
  std::int64_t step[N][kMaxDims];  // bytes
  std::int64_t size[kMaxDims];
  FastDivisor divisor[kMaxDims];
  int ndim;
  bool small;  // fewer than 2^31 elements
  alignas(8) unsigned char value[N][8];
  bool immediate[N];
  std::int64_t n;
  Parameters params;
};

// ---- one element ----------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ compute_t<T> value_of(stored_t<T> v) {
  if constexpr (std::is_same_v<T, bool>)
    return v != 0;
  else
    return static_cast<compute_t<T>>(v);
}

// Functors with `rare(x)` and `slow(x)` have arguments that their branch-free form cannot serve.
template <class F, class... C>
concept HasRare = requires(C... x) { F::rare(x...); };

template <class F, class... C>
__device__ __forceinline__ auto evaluate(const double* params, C... x) {
  if constexpr (HasRare<F, C...>)
    return F::rare(x...) ? F::slow(x...) : F::apply(x..., params);
  else
    return F::apply(x..., params);
}

constexpr int smallest(int a) { return a; }
template <class... Rest>
constexpr int smallest(int a, Rest... rest) {
  const int b = smallest(rest...);
  return a < b ? a : b;
}

// ---- dense ----------------------------------------------------------------------------------------------------------

template <class T, int V, int k>
struct Operand {
  const stored_t<T>* data;
  stored_t<T> one{};
  bool single, repeated;
  Pack<stored_t<T>, V> x;

  template <int N>
  __device__ __forceinline__ explicit Operand(const DenseArgs<N>& a)
      : data(static_cast<const stored_t<T>*>(a.data[k])), single(a.single[k]), repeated(a.rows.repeated[k]) {
    if (a.immediate[k])
      __builtin_memcpy(&one, a.value[k], sizeof one);
    else if (single)
      one = data[0];
#pragma unroll
    for (int j = 0; j < V; ++j) x.v[j] = one;
  }
  template <int N>
  __device__ __forceinline__ void load(const std::int64_t (&offset)[N]) {
    if (single) return;
    if (repeated) {
      const stored_t<T> v = data[offset[k]];
#pragma unroll
      for (int j = 0; j < V; ++j) x.v[j] = v;
    } else {
      x = get<stored_t<T>, V>(data + offset[k]);
    }
  }
  __device__ __forceinline__ compute_t<T> at(int j) const { return value_of<T>(x.v[j]); }
  __device__ __forceinline__ compute_t<T> element(std::int64_t i) const { return value_of<T>(single ? one : data[i]); }
};

template <class F, class Out, int V, int N, class... Operands>
__device__ __forceinline__ void dense_loop(const DenseArgs<N>& a, Operands... in) {
  stored_t<Out>* out = static_cast<stored_t<Out>*>(a.data[0]);
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads * V;
  for (std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x) * V; i < a.n; i += step) {
    if (a.aligned && i + V <= a.n) {
      std::int64_t offset[N];
      if (a.rows.ndim > 0) {
        a.rows.find(static_cast<std::uint32_t>(i / V), offset);
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k) offset[k] = i;
      }
      (in.load(offset), ...);
      Pack<stored_t<Out>, V> y;
#pragma unroll
      for (int j = 0; j < V; ++j) y.v[j] = static_cast<stored_t<Out>>(evaluate<F>(a.params.p, in.at(j)...));
      put(out + offset[0], y);
    } else {
      for (std::int64_t j = i; j < a.n && j < i + V; ++j)
        out[j] = static_cast<stored_t<Out>>(evaluate<F>(a.params.p, in.element(j)...));
    }
  }
}

// Elements per thread and step: 16 bytes of the widest operand.
template <class... Ts>
constexpr int kPack = smallest(8, 16 / static_cast<int>(sizeof(Ts))...);

template <class F, class Out, class... In, int N, std::size_t... K>
__device__ __forceinline__ void dense_operands(const DenseArgs<N>& a, std::index_sequence<K...>) {
  constexpr int V = kPack<Out, In...>;
  dense_loop<F, Out, V>(a, Operand<In, V, static_cast<int>(K) + 1>(a)...);
}

template <class F, class Out, class... In>
__global__ void __launch_bounds__(kThreads) dense(const __grid_constant__ DenseArgs<1 + sizeof...(In)> a) {
  dense_operands<F, Out, In...>(a, std::index_sequence_for<In...>{});
}

// ---- strided --------------------------------------------------------------------------------------------------------

template <int N>
__device__ __forceinline__ void find_offsets(const StridedArgs<N>& a, std::int64_t i, std::int64_t (&offset)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) offset[k] = 0;
  if (a.small) {
    auto rest = static_cast<std::uint32_t>(i);
    for (int d = 0; d < a.ndim; ++d) {
      const std::uint32_t q = a.divisor[d].quotient(rest), r = rest - q * a.divisor[d].divisor;
      rest = q;
#pragma unroll
      for (int k = 0; k < N; ++k) offset[k] += static_cast<std::int64_t>(r) * a.step[k][d];
    }
  } else {
    for (int d = 0; d < a.ndim; ++d) {
      const std::int64_t q = i / a.size[d], r = i - q * a.size[d];
      i = q;
#pragma unroll
      for (int k = 0; k < N; ++k) offset[k] += r * a.step[k][d];
    }
  }
}

template <class T, int N>
__device__ __forceinline__ compute_t<T> strided_element(const StridedArgs<N>& a, int k, std::int64_t offset) {
  stored_t<T> v;
  if (a.immediate[k])
    __builtin_memcpy(&v, a.value[k], sizeof v);
  else
    v = *reinterpret_cast<const stored_t<T>*>(a.data[k] + offset);
  return value_of<T>(v);
}

template <class F, class Out, class... In, int N, std::size_t... K>
__device__ __forceinline__ void strided_loop(const StridedArgs<N>& a, std::index_sequence<K...>) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < a.n; i += step) {
    std::int64_t offset[N];
    find_offsets(a, i, offset);
    *reinterpret_cast<stored_t<Out>*>(a.data[0] + offset[0]) = static_cast<stored_t<Out>>(
        evaluate<F>(a.params.p, strided_element<In>(a, static_cast<int>(K) + 1, offset[K + 1])...));
  }
}

template <class F, class Out, class... In>
__global__ void __launch_bounds__(kThreads) strided(const __grid_constant__ StridedArgs<1 + sizeof...(In)> a) {
  strided_loop<F, Out, In...>(a, std::index_sequence_for<In...>{});
}

// ---- host -----------------------------------------------------------------------------------------------------------

inline constexpr std::int64_t kSmallCount = std::int64_t{1} << 31;

template <int N>
using DenseKernel = void (*)(DenseArgs<N>);
template <int N>
using StridedKernel = void (*)(StridedArgs<N>);

// Whether packs of the innermost axis are packs of the result, and packs or one value of every operand.
template <int N>
bool rows_of_packs(const Elementwise& e, const int (&size)[N], int pack, RowAxes<N>& rows) {
  if (pack == 1 || e.ndim > kRowAxes || e.size[0] % pack != 0 || e.numel / pack >= kSmallCount || e.stride[0][0] != 1)
    return false;
  for (int k = 0; k < N; ++k) {
    rows.repeated[k] = e.stride[k][0] == 0;
    if (e.immediate[k] || rows.repeated[k]) continue;
    if (e.stride[k][0] != 1 ||
        reinterpret_cast<std::uintptr_t>(e.data[k]) % static_cast<std::uintptr_t>(pack * size[k]) != 0)
      return false;
    for (int d = 1; d < e.ndim; ++d)
      if (e.stride[k][d] % pack != 0) return false;
  }
  rows.ndim = e.ndim;
  for (int d = 0; d < e.ndim; ++d) {
    const std::int64_t unit = d == 0 ? pack : 1;
    rows.divisor[d] = FastDivisor(static_cast<std::uint32_t>(e.size[d] / unit));
    for (int k = 0; k < N; ++k) rows.step[k][d] = e.stride[k][d] * unit;
  }
  return true;
}

// One launch of the kernel that fits the geometry; the same code for every functor with N operands.
template <int N>
void run(const Elementwise& e, const int (&size)[N], int pack, DenseKernel<N> dense_kernel,
         StridedKernel<N> strided_kernel) {
  bool is_dense = e.ndim == 1 && e.stride[0][0] == 1;
  for (int k = 1; k < N; ++k) is_dense = is_dense && (e.stride[k][0] == 1 || e.stride[k][0] == 0);
  DenseArgs<N> a;
  if (is_dense) std::fill_n(a.rows.repeated, N, false);
  if (is_dense || rows_of_packs(e, size, pack, a.rows)) {
    a.n = e.numel;
    a.aligned = true;
    for (int k = 0; k < N; ++k) {
      a.data[k] = e.data[k];
      a.immediate[k] = e.immediate[k];
      a.single[k] = e.immediate[k] || (is_dense && k > 0 && e.stride[k][0] == 0);
      std::memcpy(a.value[k], e.value[k], sizeof a.value[k]);
      if (is_dense && !a.single[k])
        a.aligned =
            a.aligned && reinterpret_cast<std::uintptr_t>(a.data[k]) % static_cast<std::uintptr_t>(pack * size[k]) == 0;
    }
    std::memcpy(a.params.p, e.param, sizeof a.params.p);
    launch(dense_kernel, grid_for(ceil_div(e.numel, std::int64_t{kThreads} * pack), 32), kThreads, 0, a);
    return;
  }
  StridedArgs<N> s;
  s.n = e.numel;
  s.ndim = e.ndim;
  s.small = e.numel < kSmallCount;
  for (int d = 0; d < e.ndim; ++d) {
    s.size[d] = e.size[d];
    if (s.small) s.divisor[d] = FastDivisor(static_cast<std::uint32_t>(e.size[d]));
    for (int k = 0; k < N; ++k) s.step[k][d] = e.stride[k][d] * size[k];
  }
  for (int k = 0; k < N; ++k) {
    s.data[k] = static_cast<char*>(e.data[k]);
    s.immediate[k] = e.immediate[k];
    std::memcpy(s.value[k], e.value[k], sizeof s.value[k]);
  }
  std::memcpy(s.params.p, e.param, sizeof s.params.p);
  launch(strided_kernel, grid_for(ceil_div(e.numel, kThreads), 32), kThreads, 0, s);
}

// F is a stateless functor type with `static C apply(C..., const double* param)` on compute types.
template <class F, class Out, class... In>
void map(const Elementwise& e) {
  constexpr int N = 1 + sizeof...(In);
  static constexpr int size[N] = {sizeof(Out), sizeof(In)...};
  run<N>(e, size, kPack<Out, In...>, dense<F, Out, In...>, strided<F, Out, In...>);
}

// The kernels as functors/fill.h asks for them.
struct Map {
  template <class F, class Out, class... In>
  static constexpr void (*kernel())(const Elementwise&) {
    return map<F, Out, In...>;
  }
};

}  // namespace
}  // namespace pydlx::cuda
