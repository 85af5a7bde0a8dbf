// Arguments of the rows as C++ values, and results as Python objects.
#include "bind/schema.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

bool is_int_tensor(PyObject* o) {
  if (!is_tensor(o)) return false;
  const TensorImpl& t = *as_tensor(o).impl();
  return t.numel == 1 && is_integral(t.dtype);
}

void argument_error(const Call& c, std::size_t i, const char* expected) {
  PyObject* o = c.slots[i];
  std::string got = Py_TYPE(o)->tp_name;
  if (PyUnicode_Check(o) || PyLong_Check(o) || PyFloat_Check(o)) {
    const Object r(PyObject_Repr(o));
    const char* text = r ? PyUnicode_AsUTF8(r.get()) : nullptr;
    if (text) got += " " + std::string(text).substr(0, 60);
    PyErr_Clear();
  }
  fail(c.schema.name, c.schema.params[i].name, ErrorKind::Type, "expected ", expected, ", got ", got);
}

Tensor parse_tensor(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  if (is_tensor(o)) [[likely]]
    return as_tensor(o);
  const Param& p = c.schema.params[i];
  if (o == Py_None && p.optional) return {};
  if (p.kind == Kind::Operand) {
    bool ok = true;
    Tensor t = operand(o, ok);
    if (ok) return t;
    argument_error(c, i, "a tensor or a number");
  }
  argument_error(c, i, p.optional ? "a tensor or None" : "a tensor");
}

TensorList parse_tensors(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  if (o == Py_None && c.schema.params[i].optional) return {};
  if (!PyTuple_Check(o) && !PyList_Check(o)) argument_error(c, i, "a list or tuple of tensors");
  TensorList out;
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  out.reserve(n);
  for (Py_ssize_t k = 0; k < n; ++k) {
    PyObject* e = PySequence_Fast_ITEMS(o)[k];
    if (!is_tensor(e))
      fail(c.schema.name, c.schema.params[i].name, ErrorKind::Type, "expected a list of tensors, got ",
           Py_TYPE(e)->tp_name, " at position ", static_cast<std::int64_t>(k));
    out.push_back(as_tensor(e));
  }
  return out;
}

namespace {
std::int64_t to_int64(const Call& c, std::size_t i, PyObject* o) {
  if (is_tensor(o)) {
    if (!is_int_tensor(o)) argument_error(c, i, "an integer");
    return scalar_of(as_tensor(o)).to_int();
  }
  if (!PyIndex_Check(o)) argument_error(c, i, "an integer");
  const Object n = Object::checked(PyNumber_Index(o));
  int overflow = 0;
  const long long v = PyLong_AsLongLongAndOverflow(n.get(), &overflow);
  if (overflow)
    fail(c.schema.name, c.schema.params[i].name, ErrorKind::Value,
         "expected an integer that fits 64 bits, got a larger one");
  return v;
}
}  // namespace

std::int64_t parse_int(const Call& c, std::size_t i) { return to_int64(c, i, c.slots[i]); }

double parse_float(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  if (PyFloat_Check(o)) return PyFloat_AS_DOUBLE(o);
  if (PyUnicode_Check(o) || PyBytes_Check(o)) argument_error(c, i, "a number");
  const double v = PyFloat_AsDouble(o);
  if (v == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    argument_error(c, i, "a number");
  }
  return v;
}

bool parse_bool(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  if (o == Py_True) return true;
  if (o == Py_False) return false;
  if (PyLong_Check(o)) {
    const int truth = PyObject_IsTrue(o);  // a subclass of int may define __bool__
    if (truth < 0) throw PythonError{};
    return truth != 0;
  }
  argument_error(c, i, "a bool");
}

Scalar parse_number(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  bool ok = true;
  const Tensor t = operand(o, ok);
  if (!ok || t.numel() != 1) argument_error(c, i, "a number");
  return scalar_of(t);
}

std::string parse_str(const Call& c, std::size_t i) {
  Py_ssize_t n = 0;
  const char* s = PyUnicode_Check(c.slots[i]) ? PyUnicode_AsUTF8AndSize(c.slots[i], &n) : nullptr;
  if (!s) {
    PyErr_Clear();
    argument_error(c, i, "a string");
  }
  return {s, static_cast<std::size_t>(n)};
}

Dims parse_ints(const Call& c, std::size_t i) {
  PyObject* o = c.slots[i];
  const Param& p = c.schema.params[i];
  if (o == Py_None && p.optional) return {};
  if (PyIndex_Check(o) && !PyTuple_Check(o) && !PyList_Check(o)) {
    const auto v = to_int64(c, i, o);
    return Dims::filled(p.repeat ? p.repeat : 1, v);
  }
  if (!PyTuple_Check(o) && !PyList_Check(o)) argument_error(c, i, "a tuple of integers");
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  // view((2, 3)) and view([2, 3]) as well as view(2, 3)
  if (n == 1 && p.variadic && (PyTuple_Check(PySequence_Fast_ITEMS(o)[0]) || PyList_Check(PySequence_Fast_ITEMS(o)[0])))
    fail(c.schema.name, p.name, ErrorKind::Type, "expected integers, got a nested tuple");
  Dims d;
  for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(o); ++k) {  // __index__ of an element may shorten the list
    const Object e(Py_NewRef(PySequence_Fast_ITEMS(o)[k]));
    if (!PyIndex_Check(e.get()) && !is_tensor(e.get()))
      fail(c.schema.name, p.name, ErrorKind::Type, "expected integers, got ", Py_TYPE(e.get())->tp_name,
           " at position ", static_cast<std::int64_t>(k));
    d.push_back(to_int64(c, i, e.get()));
  }
  if (p.repeat && d.size() == 1) return Dims::filled(p.repeat, d[0]);
  if (p.repeat && d.ndim() != p.repeat)
    fail(c.schema.name, p.name, ErrorKind::Value, "expected one integer or ", p.repeat, ", got ", d);
  return d;
}

DType parse_dtype(const Call& c, std::size_t i) {
  DType t;
  if (!dtype_from(c.slots[i], t)) argument_error(c, i, "a dtype such as pydlx.float32");
  return t;
}
Device parse_device(const Call& c, std::size_t i) {
  Device d;
  if (!device_from(c.slots[i], d)) argument_error(c, i, "a device such as 'cpu' or 'cuda:0'");
  return d;
}
Generator* parse_generator(const Call& c, std::size_t i) {
  if (c.slots[i] == Py_None) return nullptr;
  Generator* g = generator_from(c.slots[i]);
  if (!g) argument_error(c, i, "a pydlx.Generator");
  return g;
}

PyObject* to_python(const Call&, DType v) { return dtype_object(v); }
PyObject* to_python(const Call& c, const TensorList& ts) {
  const auto n = static_cast<Py_ssize_t>(ts.size());
  if (c.schema.result_type) {
    PyObject* r = PyStructSequence_New(c.schema.result_type);
    for (Py_ssize_t i = 0; r && i < n; ++i) PyStructSequence_SET_ITEM(r, i, wrap(ts[i]));
    return r;
  }
  PyObject* r = PyTuple_New(n);
  for (Py_ssize_t i = 0; r && i < n; ++i) PyTuple_SET_ITEM(r, i, wrap(ts[i]));
  return r;
}

}  // namespace pydlx::bind
