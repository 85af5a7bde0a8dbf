// In-place rows: `name_` from the out-of-place function. The op writes into its first argument and returns it.
#pragma once
#include "bind/schema.h"
#include "ops/elementwise_op.h"

namespace pydlx::bind {

template <class... As, std::size_t... I, class Assign>
PyObject* invoke_inplace(Tensor (*)(const Tensor&, As...), const Call& c, std::index_sequence<I...>, Assign assign) {
  Tensor x = Arg<Tensor>::get(c, 0);
  std::tuple<std::remove_cvref_t<As>...> rest{Arg<std::remove_cvref_t<As>>::get(c, I + 1)...};
  assign(x, static_cast<const std::remove_cvref_t<As>&>(std::get<I>(rest))...);
  return wrap(x);
}

// x <- F(x, ...) through a temporary.
template <auto F>
PyObject* call_inplace(const Call& c) {
  return []<class... As>(Tensor (*f)(const Tensor&, As...), const Call& call) {
    return invoke_inplace(f, call, std::index_sequence_for<As...>{}, [&](Tensor& x, const auto&... rest) {
      ops::detail::assign(call.schema.name.c_str(), x, [&](const Tensor& t) { return F(t, rest...); });
    });
  }(F, c);
}

// The same for a single kernel, which writes over x directly when nothing is recorded.
template <auto F, UnaryOp op, bool to_float = true>
PyObject* call_inplace(const Call& c) {
  Tensor x = Arg<Tensor>::get(c, 0);
  ops::detail::assign_unary(op, c.schema.name.c_str(), x, to_float, F);
  return wrap(x);
}
template <auto F, BinaryOp op>
PyObject* call_inplace(const Call& c) {
  Tensor x = Arg<Tensor>::get(c, 0);
  const Tensor y = Arg<Tensor>::get(c, 1);
  ops::detail::assign_binary(op, c.schema.name.c_str(), x, y, false, [&](const Tensor& t) { return F(t, y); });
  return wrap(x);
}

}  // namespace pydlx::bind
