// Fills rows of a backend's kernel table from functors. Each file of a backend registers a range of op numbers whose
// functors it includes. Map::kernel<F, Out, In...>() is the backend's kernel of functor F; Map belongs to an anonymous
// namespace, so that what is instantiated here stays inside the object that does it.
#pragma once
#include "functors/types.h"
#include "kernels.h"
#include "kernels/pointwise.h"

namespace pydlx::functors {

template <class Map, auto op, auto end, template <decltype(op)> class Functor, class... Ts>
void fill_unary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Functor<op>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0)
          k.unary[static_cast<int>(op)][idx<Ts>] = Map::template kernel<F, Ts, Ts>();
      }(),
      ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != end) fill_unary<Map, next, end, Functor>(k, all);
}

template <class Map, auto op, auto end, template <decltype(op)> class Functor, class... Ts>
void fill_binary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Functor<op>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0)
          k.binary[static_cast<int>(op)][idx<Ts>] = Map::template kernel<F, Ts, Ts, Ts>();
      }(),
      ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != end) fill_binary<Map, next, end, Functor>(k, all);
}

template <class Map, auto op, template <decltype(op)> class Functor, class... Ts>
void fill_compare(PointwiseKernels& k, Types<Ts...> all) {
  ((k.compare[static_cast<int>(op)][idx<Ts>] = Map::template kernel<Functor<op>, bool, Ts, Ts>()), ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != decltype(op)::COUNT) fill_compare<Map, next, Functor>(k, all);
}

template <class Map, auto op, template <decltype(op)> class Functor, class... Ts>
void fill_ternary(PointwiseKernels& k, Types<Ts...> all) {
  using F = Functor<op>;
  (
      [&] {
        if constexpr ((F::types & type_bit<Ts>) != 0)
          k.ternary[static_cast<int>(op)][idx<Ts>] = Map::template kernel<F, Ts, Ts, Ts, Ts>();
      }(),
      ...);
  constexpr auto next = static_cast<decltype(op)>(static_cast<int>(op) + 1);
  if constexpr (next != decltype(op)::COUNT) fill_ternary<Map, next, Functor>(k, all);
}

}  // namespace pydlx::functors
