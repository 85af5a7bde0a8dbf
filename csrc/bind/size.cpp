// pydlx.Size, the class of `tensor.shape`: a tuple of integers that prints like PyTorch's. A C type, because
// `x.shape[0]` stands in every forward function.
#include "bind/schema.h"

namespace pydlx::bind {

namespace {

PyTypeObject* g_size_type = nullptr;

PyObject* new_size(Py_ssize_t n) {
  PyObject* s = g_size_type->tp_alloc(g_size_type, n);
#if PY_VERSION_HEX >= 0x030E0000  // tuples keep their hash since 3.14; zeroed memory would be taken for it
  if (s) reinterpret_cast<PyTupleObject*>(s)->ob_hash = -1;
#endif
  return s;
}

PyObject* as_size(PyObject* owned_tuple) {
  if (!owned_tuple || !PyTuple_Check(owned_tuple)) return owned_tuple;
  const Object tuple(owned_tuple);
  const Py_ssize_t n = PyTuple_GET_SIZE(owned_tuple);
  PyObject* s = new_size(n);
  for (Py_ssize_t i = 0; s && i < n; ++i) PyTuple_SET_ITEM(s, i, Py_NewRef(PyTuple_GET_ITEM(owned_tuple, i)));
  return s;
}

PyObject* make(PyTypeObject* cls, PyObject* args, PyObject* kwargs) {
  const Object made(PyTuple_Type.tp_new(cls, args, kwargs));
  for (Py_ssize_t i = 0; made && i < PyTuple_GET_SIZE(made.get()); ++i) {
    PyObject* item = PyTuple_GET_ITEM(made.get(), i);
    if (PyIndex_Check(item)) continue;
    PyErr_Format(PyExc_TypeError, "[Size] sizes: expected integers, got %s at position %zd", Py_TYPE(item)->tp_name, i);
    return nullptr;
  }
  return made ? Py_NewRef(made.get()) : nullptr;
}

PyObject* repr(PyObject* self) {
  const Object list(PySequence_List(self));
  return list ? PyUnicode_FromFormat("pydlx.Size(%R)", list.get()) : nullptr;
}

PyObject* subscript(PyObject* self, PyObject* key) {
  PyObject* r = PyTuple_Type.tp_as_mapping->mp_subscript(self, key);
  return PySlice_Check(key) ? as_size(r) : r;
}

PyObject* concatenate(PyObject* self, PyObject* other) {
  const Object tuple(PySequence_Tuple(other));
  return tuple ? as_size(PyTuple_Type.tp_as_sequence->sq_concat(self, tuple.get())) : nullptr;
}

PyObject* repeat(PyObject* self, Py_ssize_t n) { return as_size(PyTuple_Type.tp_as_sequence->sq_repeat(self, n)); }

PyObject* numel(PyObject* self, PyObject*) {
  Object n(PyLong_FromLong(1));
  for (Py_ssize_t i = 0; n && i < PyTuple_GET_SIZE(self); ++i)
    n = Object(PyNumber_Multiply(n.get(), PyTuple_GET_ITEM(self, i)));
  return n.release();
}

PyObject* reduce(PyObject* self, PyObject*) { return Py_BuildValue("O(N)", Py_TYPE(self), PySequence_List(self)); }

PyMethodDef methods[] = {{"numel", numel, METH_NOARGS, "Product of the sizes."},
                         {"__reduce__", reduce, METH_NOARGS, nullptr},
                         {nullptr, nullptr, 0, nullptr}};
template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}

}  // namespace

PyObject* size_object(const Dims& d) {
  const auto n = static_cast<Py_ssize_t>(d.size());
  PyObject* s = new_size(n);
  for (Py_ssize_t i = 0; s && i < n; ++i) {
    PyObject* v = PyLong_FromLongLong(d[static_cast<std::size_t>(i)]);
    if (!v) {
      Py_DECREF(s);
      return nullptr;
    }
    PyTuple_SET_ITEM(s, i, v);
  }
  return s;
}

void init_size(PyObject* module) {
  PyType_Slot slots[] = {slot(Py_tp_new, make),
                         slot(Py_tp_repr, repr),
                         slot(Py_tp_methods, methods),
                         slot(Py_mp_subscript, subscript),
                         slot(Py_sq_concat, concatenate),
                         slot(Py_sq_repeat, repeat),
                         {Py_tp_doc, const_cast<char*>("A tuple of sizes that knows its number of elements.")},
                         {0, nullptr}};
  PyType_Spec spec = {"pydlx.Size", 0, 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  const Object bases = Object::checked(PyTuple_Pack(1, &PyTuple_Type));
  g_size_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpecWithBases(&spec, bases.get()));
  if (!g_size_type || PyObject_SetAttrString(module, "Size", reinterpret_cast<PyObject*>(g_size_type)) < 0)
    throw PythonError{};
}

}  // namespace pydlx::bind
