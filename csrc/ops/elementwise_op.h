// How elementwise ops are written: forward kernel plus a node with the given formula. Shared by elementwise.cpp,
// math.cpp, logic.cpp and activations.cpp.
#pragma once
#include "autograd/node.h"
#include "kernels/pointwise.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops::detail {

inline Tensor number(double v) { return wrap_scalar(v); }
inline Tensor zero() { return wrap_scalar(std::int64_t{0}); }

// Gradient for one operand: undo broadcasting, restore the operand's dtype.
inline Tensor fit(const Tensor& g, const Dims& sizes, DType dtype) { return to_dtype(sum_to(g, sizes), dtype); }

// A Python number among the operands becomes a plain tensor of the result's dtype before it is saved: two wrapped
// numbers in a backward formula would otherwise meet in the default dtype.
inline Tensor settled(const Tensor& t, DType dtype) {
  if (!t.is_wrapped_number()) return t;
  Tensor plain = wrap_scalar(load_scalar(t.data(), t.dtype()), dtype);
  plain.impl()->wrapped_number = false;
  return plain;
}

// y = op(x); make_backward(y) gives the formula.
template <class F>
Tensor unary_op(UnaryOp op, const char* name, const Tensor& x, bool to_float, F make_backward,
                PointwiseParams params = {}) {
  Tensor y = run_unary(op, name, x, to_float, false, params);
  if (any_requires_grad(x)) record(name, y, {&x}, make_backward(y));
  return y;
}

// y = op(a, b); `inplace` writes into a.
template <class F>
Tensor binary_op(BinaryOp op, const char* name, const Tensor& a, const Tensor& b, bool to_float, bool inplace,
                 F make_backward, PointwiseParams params = {}) {
  if (!inplace) {
    Tensor y = run_binary(op, name, a, b, to_float, false, params);
    if (any_requires_grad(a, b) && is_floating(y.dtype())) record(name, y, {&a, &b}, make_backward());
    return y;
  }
  check_inplace(a, name);
  Ref<Node> node;
  if (any_requires_grad(a, b) && is_floating(a.dtype())) node = make_node(name, {&a, &b}, make_backward());
  Tensor target = a;
  run_binary(op, name, a, b, to_float, true, params);
  if (node) set_history_inplace(target, node);
  return target;
}

// A binary op from its two partial derivatives: to_a(g, a, b) and to_b(g, a, b), before broadcasting is undone.
template <class A, class B>
Tensor binary_op(BinaryOp op, const char* name, const Tensor& a, const Tensor& b, bool to_float, A to_a, B to_b) {
  return binary_op(op, name, a, b, to_float, false, [&] {
    const DType dtype = result_type({&a, &b});
    return [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype(), a = save(settled(a, dtype)),
            b = save(settled(b, dtype)), to_a, to_b](Backward& bw) {
      const Tensor x = a.get(bw), y = b.get(bw);
      if (bw.needs(0)) bw.set(0, fit(to_a(bw.grad(), x, y), sa, da));
      if (bw.needs(1)) bw.set(1, fit(to_b(bw.grad(), x, y), sb, db));
    };
  });
}

// x <- f(x) for any op. The gradient is that of f followed by a copy; f sees a copy of x, because it may save its input
// for backward.
template <class F>
Tensor& assign(const char* name, Tensor& x, F f) {
  check_inplace(x, name);
  const Tensor result = f(any_requires_grad(x) ? clone(x) : x);
  require(result.sizes() == x.sizes(), name, "input", ErrorKind::Shape, "expected an in-place result of shape ",
          x.sizes(), ", got operands that broadcast to ", result.sizes());
  require(dtype_category(result.dtype()) <= dtype_category(x.dtype()), name, "input", ErrorKind::DType,
          "the result type ", result.dtype(), " cannot be stored in a ", x.dtype(),
          " tensor; use the out-of-place form");
  return copy_(x, result);
}

// The same with a kernel that can write over its input, when nothing is recorded.
template <class F>
Tensor& assign_unary(UnaryOp op, const char* name, Tensor& x, bool to_float, F f, PointwiseParams params = {}) {
  if (any_requires_grad(x)) return assign(name, x, f);
  check_inplace(x, name);
  run_unary(op, name, x, to_float, true, params);
  return x;
}
template <class F>
Tensor& assign_binary(BinaryOp op, const char* name, Tensor& a, const Tensor& b, bool to_float, F f) {
  if (any_requires_grad(a, b)) return assign(name, a, f);
  check_inplace(a, name);
  run_binary(op, name, a, b, to_float, true);
  return a;
}

}  // namespace pydlx::ops::detail
