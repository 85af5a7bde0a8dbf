#include "bind/indexing.h"

#include "bind/errors.h"
#include "ops/elementwise.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

std::int64_t as_index(PyObject* o) {
  const Object n = Object::checked(PyNumber_Index(o));
  int overflow = 0;
  const long long v = PyLong_AsLongLongAndOverflow(n.get(), &overflow);
  require(!overflow, "index", "", ErrorKind::Index, "expected an index that fits 64 bits");
  return v;
}

// The view selected by basic indices.
Tensor basic(const Tensor& x, PyObject* key) {
  PyObject* const* items = &key;
  Py_ssize_t n = 1;
  if (PyTuple_Check(key)) {
    items = PySequence_Fast_ITEMS(key);
    n = PyTuple_GET_SIZE(key);
  }
  int consumed = 0;
  for (Py_ssize_t i = 0; i < n; ++i)
    if (items[i] != Py_None && items[i] != Py_Ellipsis) ++consumed;
  require(consumed <= x.ndim(), "index", "", ErrorKind::Index, "too many indices: the tensor has ", x.ndim(), " dimensions, got ", consumed);
  Tensor t = x;
  int axis = 0;
  bool ellipsis = false;
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* k = items[i];
    if (k == Py_None) {
      t = ops::unsqueeze(t, axis++);
    } else if (k == Py_Ellipsis) {
      require(!ellipsis, "index", "", ErrorKind::Index, "expected at most one ellipsis");
      ellipsis = true;
      axis += x.ndim() - consumed;
    } else if (PySlice_Check(k)) {
      Py_ssize_t start, stop, step;
      if (PySlice_Unpack(k, &start, &stop, &step) < 0) throw PythonError{};
      require(step > 0, "index", "", ErrorKind::Value, "expected a positive slice step, got ", static_cast<std::int64_t>(step), "; use flip()");
      const Py_ssize_t length = t.size(axis);
      PySlice_AdjustIndices(length, &start, &stop, step);
      t = ops::slice(t, axis++, start, stop, step);
    } else {
      t = ops::select(t, axis, as_index(k));
    }
  }
  return t;
}

}  // namespace

PyObject* get_item(const Tensor& x, PyObject* key) { return wrap(basic(x, key)); }

void set_item(Tensor x, PyObject* key, PyObject* value) {
  bool ok = true;
  const Tensor v = operand(value, ok);
  require(ok, "setitem", "value", ErrorKind::Type, "expected a tensor or a number, got ", Py_TYPE(value)->tp_name);
  Tensor target = basic(x, key);
  ops::copy_(target, v);
}

}  // namespace pydlx::bind
