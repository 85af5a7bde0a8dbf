// Fills rows of the kernel table from functors. Each file registers a range of op numbers whose functors it includes.
#pragma once
#include "cuda/pointwise/loop.cuh"

namespace pydlx::cuda {
namespace {

template <auto op, auto end, template <decltype(op)> class Functor, class... Ts>
void fill_unary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Functor<op>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0) k.unary[static_cast<int>(op)][idx<Ts>] = map<F, Ts, Ts>;
      }(),
      ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != end) fill_unary<next, end, Functor>(k, all);
}

template <auto op, auto end, template <decltype(op)> class Functor, class... Ts>
void fill_binary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Functor<op>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0) k.binary[static_cast<int>(op)][idx<Ts>] = map<F, Ts, Ts, Ts>;
      }(),
      ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != end) fill_binary<next, end, Functor>(k, all);
}

}  // namespace
}  // namespace pydlx::cuda
