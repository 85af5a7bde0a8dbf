#include "bind/tensor_type.h"

#include <structmember.h>

#include "bind/garbage.h"
#include "bind/indexing.h"
#include "bind/interchange.h"
#include "bind/schema.h"
#include "bind/tensor_slots.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::bind {

PyTypeObject* g_tensor_type = nullptr;

namespace {

PyObject* g_repr = nullptr;

inline PyTensor* self_of(PyObject* o) { return reinterpret_cast<PyTensor*>(o); }

PyObject* new_object(PyTypeObject* cls, Tensor t) {
  PyObject* o = cls->tp_alloc(cls, 0);
  if (!o) throw PythonError{};
  auto* p = self_of(o);
  new (&p->tensor) Tensor(std::move(t));
  p->dict = p->weakrefs = nullptr;
  p->tensor.impl()->python = o;
  return o;
}

void dealloc(PyObject* o) {
  auto* p = self_of(o);
  PyTypeObject* type = Py_TYPE(o);
  PyObject_GC_UnTrack(o);
  // First of all: callbacks below may ask for the Python object of this tensor, and must get another one.
  if (p->tensor.defined() && p->tensor.impl()->python == o) p->tensor.impl()->python = nullptr;
  if (p->weakrefs) PyObject_ClearWeakRefs(o);
  Py_CLEAR(p->dict);
  p->tensor.~Tensor();
  type->tp_free(o);
  Py_DECREF(type);
}

int traverse(PyObject* o, visitproc visit, void* arg) {
  const PyTensor* p = self_of(o);
  Py_VISIT(Py_TYPE(o));
  Py_VISIT(p->dict);
  const TensorImpl* t = p->tensor.impl();
  return t && t->meta ? visit_tensor(*t, visit, arg) : 0;
}

int clear(PyObject* o) {
  PyTensor* p = self_of(o);
  Py_CLEAR(p->dict);
  if (p->tensor.defined()) forget_python(*p->tensor.impl());
  return 0;
}

// Tensor(...) is the legacy constructor: sizes, or data. `pydlx.tensor` does the work in both cases.
PyObject* tensor_new(PyTypeObject* cls, PyObject* args, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Py_ssize_t n = PyTuple_GET_SIZE(args);
    if (n == 1 && is_tensor(PyTuple_GET_ITEM(args, 0)))
      return new_object(cls, alias(as_tensor(PyTuple_GET_ITEM(args, 0))));
    const bool sizes = n == 0 || PyLong_Check(PyTuple_GET_ITEM(args, 0));
    if (sizes) {
      Dims d;
      for (Py_ssize_t i = 0; i < n; ++i) {
        const auto v = PyLong_AsLongLong(PyTuple_GET_ITEM(args, i));
        if (v == -1 && PyErr_Occurred()) throw PythonError{};
        d.push_back(v);
      }
      if (n == 0) d.push_back(0);
      return new_object(cls, empty(d, default_dtype()));
    }
    const Object module = Object::checked(PyImport_ImportModule("pydlx"));
    const Object make = Object::checked(PyObject_GetAttrString(module.get(), "tensor"));
    const Object keywords = Object::checked(PyDict_New());
    const Object dtype(dtype_object(default_dtype()));
    const Object data = Object::checked(PyTuple_Pack(1, PyTuple_GET_ITEM(args, 0)));
    if (PyDict_SetItemString(keywords.get(), "dtype", dtype.get()) < 0) throw PythonError{};
    const Object made = Object::checked(PyObject_Call(make.get(), data.get(), keywords.get()));
    return new_object(cls, alias(as_tensor(made.get())));
  });
}

PyObject* dims_tuple(const Dims& d) {
  PyObject* t = PyTuple_New(static_cast<Py_ssize_t>(d.size()));
  for (std::size_t i = 0; t && i < d.size(); ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(d[i]));
  return t;
}
Py_hash_t hash(PyObject* o) {
  const auto h = static_cast<Py_hash_t>(reinterpret_cast<std::uintptr_t>(as_tensor(o).impl()) >> 4);
  return h == -1 ? -2 : h;
}

PyObject* repr(PyObject* o) {
  if (g_repr) return PyObject_CallOneArg(g_repr, o);
  return PyUnicode_FromString("<pydlx.Tensor>");
}

Py_ssize_t length(PyObject* o) {
  return guarded([&]() -> Py_ssize_t {
    const Tensor& t = as_tensor(o);
    require(t.ndim() > 0, "len", "", ErrorKind::Type, "expected at least one dimension, got a 0-d tensor");
    return t.sizes()[0];
  });
}

PyObject* iterate(PyObject* o) {
  return guarded([&]() -> PyObject* {
    const Tensor& t = as_tensor(o);
    require(t.ndim() > 0, "iter", "", ErrorKind::Type, "expected at least one dimension, got a 0-d tensor");
    const Object rows = Object::checked(PyTuple_New(t.sizes()[0]));
    const TensorList views = ops::unbind(t, 0);
    for (std::size_t i = 0; i < views.size(); ++i)
      PyTuple_SET_ITEM(rows.get(), static_cast<Py_ssize_t>(i), wrap(views[i]));
    return PyObject_GetIter(rows.get());
  });
}

PyObject* subscript(PyObject* o, PyObject* key) {
  return guarded([&] { return get_item(as_tensor(o), key); });
}
int assign_subscript(PyObject* o, PyObject* key, PyObject* value) {
  return guarded([&]() -> int {
    require(value != nullptr, "delitem", "", ErrorKind::Type, "tensors do not support item deletion");
    set_item(as_tensor(o), key, value);
    return 0;
  });
}

PyObject* make_subclass(PyObject*, PyObject* args) {
  return guarded([&]() -> PyObject* {
    PyObject *cls, *data;
    int requires_grad = 0;
    if (!PyArg_ParseTuple(args, "OO|p", &cls, &data, &requires_grad)) return nullptr;
    if (!PyType_Check(cls) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(cls), g_tensor_type) ||
        !is_tensor(data)) {
      PyErr_SetString(PyExc_TypeError, "[_make_subclass] expected a subclass of Tensor and a tensor");
      return nullptr;
    }
    Tensor t = detach(as_tensor(data));
    t.impl()->wrapped_number = false;
    set_requires_grad(t, requires_grad != 0);
    return new_object(reinterpret_cast<PyTypeObject*>(cls), t);
  });
}

PyObject* data_ptr(PyObject* o, PyObject*) { return PyLong_FromVoidPtr(as_tensor(o).impl()->data()); }
PyObject* numel(PyObject* o, PyObject*) { return PyLong_FromLongLong(as_tensor(o).impl()->numel); }
PyObject* item(PyObject* o, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Scalar s = ops::item(as_tensor(o));
    switch (s.kind) {
      case Scalar::Kind::Bool:
        return PyBool_FromLong(s.i != 0);
      case Scalar::Kind::Int:
        return PyLong_FromLongLong(s.i);
      default:
        return PyFloat_FromDouble(s.f);
    }
  });
}
PyObject* size_method(PyObject* o, PyObject* args, PyObject* kwargs) {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"dim", nullptr};
    PyObject* dim = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", const_cast<char**>(names), &dim)) return nullptr;
    const Tensor& t = as_tensor(o);
    if (dim == Py_None) return size_object(t.sizes());
    const auto i = PyLong_AsLongLong(dim);
    if (i == -1 && PyErr_Occurred()) return nullptr;
    return PyLong_FromLongLong(t.sizes()[wrap_axis(i, t.ndim(), "size")]);
  });
}
PyObject* stride_method(PyObject* o, PyObject* args, PyObject* kwargs) {
  return guarded([&]() -> PyObject* {
    static const char* names[] = {"dim", nullptr};
    PyObject* dim = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", const_cast<char**>(names), &dim)) return nullptr;
    const Tensor& t = as_tensor(o);
    if (dim == Py_None) return dims_tuple(t.strides());
    const auto i = PyLong_AsLongLong(dim);
    if (i == -1 && PyErr_Occurred()) return nullptr;
    return PyLong_FromLongLong(t.strides()[wrap_axis(i, t.ndim(), "stride")]);
  });
}
PyObject* storage_offset(PyObject* o, PyObject*) { return PyLong_FromLongLong(as_tensor(o).impl()->offset); }
PyObject* is_inference(PyObject* o, PyObject*) { return PyBool_FromLong(as_tensor(o).impl()->inference); }

template <class F>
PyCFunction as_cfunction(F* f) {
  return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(f));
}
PyMethodDef methods[] = {
    {"_make_subclass", make_subclass, METH_VARARGS | METH_STATIC,
     "(cls, data, requires_grad=False) -> instance of cls sharing data"},
    {"data_ptr", data_ptr, METH_NOARGS, "Address of the first element."},
    {"numel", numel, METH_NOARGS, "Number of elements."},
    {"nelement", numel, METH_NOARGS, "Number of elements."},
    {"item", item, METH_NOARGS, "The single element as a Python number."},
    {"size", as_cfunction(size_method), METH_VARARGS | METH_KEYWORDS, "Sizes, or the size of one dimension."},
    {"stride", as_cfunction(stride_method), METH_VARARGS | METH_KEYWORDS,
     "Strides in elements, or the stride of one dimension."},
    {"storage_offset", storage_offset, METH_NOARGS, "Position of the first element in the storage, in elements."},
    {"is_inference", is_inference, METH_NOARGS, "Whether the tensor was made in inference mode."},
    {nullptr, nullptr, 0, nullptr}};

PyMemberDef members[] = {{"__dictoffset__", T_PYSSIZET, offsetof(PyTensor, dict), READONLY, nullptr},
                         {"__weaklistoffset__", T_PYSSIZET, offsetof(PyTensor, weakrefs), READONLY, nullptr},
                         {nullptr, 0, 0, 0, nullptr}};

std::vector<PyType_Slot> all_slots() {
  std::vector<PyType_Slot> slots = operator_slots();
  slots.insert(slots.end(), {slot(Py_tp_new, tensor_new),
                             slot(Py_tp_dealloc, dealloc),
                             slot(Py_tp_traverse, traverse),
                             slot(Py_tp_clear, clear),
                             slot(Py_tp_repr, repr),
                             slot(Py_tp_hash, hash),
                             slot(Py_tp_iter, iterate),
                             slot(Py_tp_getset, tensor_attributes),
                             slot(Py_tp_methods, methods),
                             slot(Py_tp_members, members),
                             slot(Py_mp_length, length),
                             slot(Py_mp_subscript, subscript),
                             slot(Py_mp_ass_subscript, assign_subscript),
                             slot(Py_bf_getbuffer, get_buffer),
                             slot(Py_bf_releasebuffer, release_buffer),
                             {0, nullptr}});
  return slots;
}

}  // namespace

PyObject* wrap(Tensor t) {
  if (!t.defined()) Py_RETURN_NONE;
  if (t.impl()->python) return Py_NewRef(static_cast<PyObject*>(t.impl()->python));
  return new_object(g_tensor_type, std::move(t));
}

PyObject* wrap_as(PyTypeObject* cls, Tensor t) { return new_object(cls, std::move(t)); }

namespace {
PyObject* set_repr(PyObject*, PyObject* f) {
  PyObject* old = g_repr;
  g_repr = Py_NewRef(f);
  Py_XDECREF(old);
  Py_RETURN_NONE;
}
PyMethodDef module_functions[] = {{"_set_repr", set_repr, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
}  // namespace

void init_tensor_type(PyObject* m) {
  std::vector<PyType_Slot> slots = all_slots();
  PyType_Spec spec = {"pydlx.Tensor", sizeof(PyTensor), 0,
                      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots.data()};
  PyObject* t = PyType_FromSpec(&spec);
  if (!t) throw PythonError{};
  g_tensor_type = reinterpret_cast<PyTypeObject*>(t);
  // NumPy must hand `array + tensor` to us.
  const Object priority(PyLong_FromLong(1000));
  if (PyObject_SetAttrString(m, "Tensor", t) < 0 ||
      PyObject_SetAttrString(t, "__array_priority__", priority.get()) < 0 ||
      PyModule_AddFunctions(m, module_functions) < 0)
    throw PythonError{};
}

}  // namespace pydlx::bind
