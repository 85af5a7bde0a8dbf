// The operators of the class `Tensor`, and its conversions to Python numbers.
#include "autograd/engine.h"
#include "bind/autocast.h"
#include "bind/interchange.h"
#include "bind/schema.h"
#include "bind/tensor_slots.h"
#include "bind/tensor_type.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/views.h"

namespace pydlx::bind {

Tensor operand(PyObject* o, bool& ok) {
  if (is_tensor(o)) [[likely]]
    return as_tensor(o);
  if (PyFloat_Check(o)) return wrap_scalar(PyFloat_AS_DOUBLE(o));
  if (PyBool_Check(o)) return wrap_scalar(o == Py_True);
  if (PyLong_Check(o)) {
    int overflow = 0;
    const long long v = PyLong_AsLongLongAndOverflow(o, &overflow);
    require(!overflow, "operand", "", ErrorKind::Value, "expected an integer that fits 64 bits");
    return wrap_scalar(static_cast<std::int64_t>(v));
  }
  // NumPy's scalars and arrays: anything with dtype, item() and ndim.
  if (PyObject_HasAttrString(o, "dtype") && PyObject_HasAttrString(o, "item") && PyObject_HasAttrString(o, "ndim")) {
    const Object nd = Object::checked(PyObject_GetAttrString(o, "ndim"));
    int overflow = 0;
    if (PyLong_Check(nd.get()) && PyLong_AsLongAndOverflow(nd.get(), &overflow) == 0 && !overflow) {
      const Object v = Object::checked(PyObject_CallMethod(o, "item", nullptr));
      if (PyFloat_Check(v.get()) || PyLong_Check(v.get())) return operand(v.get(), ok);
    } else if (PyObject_HasAttrString(o, "__array_interface__")) {
      const Object module = Object::checked(PyImport_ImportModule("pydlx"));
      const Object made = Object::checked(PyObject_CallMethod(module.get(), "as_tensor", "O", o));
      return as_tensor(made.get());
    }
  }
  ok = false;
  return {};
}

namespace {

template <Tensor (*F)(const Tensor&, const Tensor&)>
PyObject* binary_slot(PyObject* a, PyObject* b) {
  return guarded([&]() -> PyObject* {
    bool ok = true;
    // The caller's references keep both objects alive, so tensors are used in place.
    PyObject* r;
    if (is_tensor(a) && is_tensor(b)) [[likely]] {
      r = wrap(F(as_tensor(a), as_tensor(b)));
    } else {
      const Tensor x = operand(a, ok), y = operand(b, ok);
      if (!ok) Py_RETURN_NOTIMPLEMENTED;
      r = wrap(F(x, y));
    }
    if (anomaly_checks_nan()) [[unlikely]] {
      PyObject* args[2] = {a, b};
      check_finite("operator", r, args, 2);
    }
    return r;
  });
}
Tensor plus(const Tensor& a, const Tensor& b) { return ops::add(a, b); }
Tensor matmul_operator(const Tensor& a, const Tensor& b) {
  if (!autocast_active()) [[likely]]
    return ops::matmul(a, b);
  static const CastPolicies policies = cast_policies("matmul");
  return ops::matmul(cast_operand(a, policies), cast_operand(b, policies));
}
Tensor minus(const Tensor& a, const Tensor& b) { return ops::sub(a, b); }

template <Tensor& (*F)(Tensor&, const Tensor&)>
PyObject* inplace_slot(PyObject* a, PyObject* b) {
  return guarded([&]() -> PyObject* {
    bool ok = true;
    const Tensor y = operand(b, ok);
    if (!ok) Py_RETURN_NOTIMPLEMENTED;
    Tensor x = as_tensor(a);
    F(x, y);
    return Py_NewRef(a);
  });
}
Tensor& plus_equals(Tensor& a, const Tensor& b) { return ops::add_(a, b); }
Tensor& minus_equals(Tensor& a, const Tensor& b) { return ops::sub_(a, b); }

// Operators that are not hot go through the op table by name.
template <const char* const& name>
PyObject* named_binary(PyObject* a, PyObject* b) {
  return guarded([&]() -> PyObject* {
    bool ok = true;
    // Only the type test is needed here; the op converts the operands itself. The first argument must be a tensor.
    const Tensor x = operand(a, ok);
    operand(b, ok);
    if (!ok) Py_RETURN_NOTIMPLEMENTED;
    const Object first(wrap(x));
    PyObject* args[2] = {first.get(), b};
    return call_op(name, args, 2);
  });
}
template <const char* const& name>
PyObject* named_unary(PyObject* a) {
  return guarded([&] { return call_op(name, &a, 1); });
}
template <const char* const& name>
PyObject* named_power(PyObject* a, PyObject* b, PyObject*) {
  return named_binary<name>(a, b);
}
constexpr const char* kFloorDivide = "floor_divide";
constexpr const char* kRemainder = "remainder";
constexpr const char* kPow = "pow";
constexpr const char* kAnd = "bitwise_and";
constexpr const char* kOr = "bitwise_or";
constexpr const char* kXor = "bitwise_xor";
constexpr const char* kNot = "bitwise_not";
constexpr const char* kLeft = "bitwise_left_shift";
constexpr const char* kRight = "bitwise_right_shift";
constexpr const char* kAbs = "abs";
constexpr const char* kFloorDivideIn = "floor_divide_";
constexpr const char* kRemainderIn = "remainder_";
constexpr const char* kPowIn = "pow_";
constexpr const char* kAndIn = "bitwise_and_";
constexpr const char* kOrIn = "bitwise_or_";
constexpr const char* kXorIn = "bitwise_xor_";

PyObject* negative(PyObject* a) {
  return guarded([&] { return wrap(ops::neg(as_tensor(a))); });
}
PyObject* positive(PyObject* a) { return Py_NewRef(a); }

Scalar single(PyObject* o, const char* op) {
  const Tensor& t = as_tensor(o);
  require(t.numel() == 1, op, "", ErrorKind::Shape, "expected a tensor with one element, got shape ", t.sizes(),
          std::string_view(op) == "bool" ? "; use .any() or .all()" : "");
  return ops::item(t);
}
int truth(PyObject* o) {
  return guarded([&]() -> int {
    const Scalar s = single(o, "bool");
    return s.is_float() ? s.f != 0 : s.i != 0;
  });
}
PyObject* to_int(PyObject* o) {
  return guarded([&]() -> PyObject* {
    const Scalar s = single(o, "int");
    return s.is_float() ? PyLong_FromDouble(s.f) : PyLong_FromLongLong(s.i);
  });
}
PyObject* to_float(PyObject* o) {
  return guarded([&] { return PyFloat_FromDouble(single(o, "float").to_double()); });
}
PyObject* to_index(PyObject* o) {
  return guarded([&]() -> PyObject* {
    const Tensor& t = as_tensor(o);
    require(t.numel() == 1 && !is_floating(t.dtype()), "index", "", ErrorKind::Type,
            "only integer tensors with one element can be used as an index, got ", t.dtype(), " of shape ", t.sizes());
    return PyLong_FromLongLong(ops::item(t).to_int());
  });
}

PyObject* compare(PyObject* a, PyObject* b, int how) {
  return guarded([&]() -> PyObject* {
    bool ok = true;
    const Tensor x = operand(a, ok), y = operand(b, ok);
    if (!ok) Py_RETURN_NOTIMPLEMENTED;
    switch (how) {
      case Py_EQ:
        return wrap(ops::eq(x, y));
      case Py_NE:
        return wrap(ops::ne(x, y));
      case Py_LT:
        return wrap(ops::lt(x, y));
      case Py_LE:
        return wrap(ops::le(x, y));
      case Py_GT:
        return wrap(ops::gt(x, y));
      default:
        return wrap(ops::ge(x, y));
    }
  });
}

}  // namespace

std::vector<PyType_Slot> operator_slots() {
  return {slot(Py_tp_richcompare, compare),
          slot(Py_nb_add, binary_slot<plus>),
          slot(Py_nb_subtract, binary_slot<minus>),
          slot(Py_nb_multiply, binary_slot<ops::mul>),
          slot(Py_nb_true_divide, binary_slot<ops::div>),
          slot(Py_nb_matrix_multiply, binary_slot<matmul_operator>),
          slot(Py_nb_inplace_add, inplace_slot<plus_equals>),
          slot(Py_nb_inplace_subtract, inplace_slot<minus_equals>),
          slot(Py_nb_inplace_multiply, inplace_slot<ops::mul_>),
          slot(Py_nb_inplace_true_divide, inplace_slot<ops::div_>),
          slot(Py_nb_floor_divide, named_binary<kFloorDivide>),
          slot(Py_nb_remainder, named_binary<kRemainder>),
          slot(Py_nb_power, named_power<kPow>),
          slot(Py_nb_and, named_binary<kAnd>),
          slot(Py_nb_or, named_binary<kOr>),
          slot(Py_nb_xor, named_binary<kXor>),
          slot(Py_nb_lshift, named_binary<kLeft>),
          slot(Py_nb_rshift, named_binary<kRight>),
          slot(Py_nb_inplace_floor_divide, named_binary<kFloorDivideIn>),
          slot(Py_nb_inplace_remainder, named_binary<kRemainderIn>),
          slot(Py_nb_inplace_power, named_power<kPowIn>),
          slot(Py_nb_inplace_and, named_binary<kAndIn>),
          slot(Py_nb_inplace_or, named_binary<kOrIn>),
          slot(Py_nb_inplace_xor, named_binary<kXorIn>),
          slot(Py_nb_negative, negative),
          slot(Py_nb_positive, positive),
          slot(Py_nb_absolute, named_unary<kAbs>),
          slot(Py_nb_invert, named_unary<kNot>),
          slot(Py_nb_bool, truth),
          slot(Py_nb_int, to_int),
          slot(Py_nb_float, to_float),
          slot(Py_nb_index, to_index)};
}

}  // namespace pydlx::bind
