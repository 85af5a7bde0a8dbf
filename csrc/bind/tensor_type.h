// The Python class `Tensor`. It is a plain C type rather than a pybind11 class: the operators are the hottest entry
// points of the library, and CPython slots reach them in a quarter of the time (see bench/overhead). pybind11 functions
// still take and return Tensor through the type caster in bind/caster.h. This header stays free of pybind11, which
// costs seconds in every file.
#pragma once
#include <Python.h>

#include "core/tensor.h"

namespace pydlx::bind {

struct PyTensor {
  PyObject_HEAD Tensor tensor;
  PyObject* dict;
  PyObject* weakrefs;
};

extern PyTypeObject* g_tensor_type;

inline bool is_tensor(PyObject* o) {
  return Py_TYPE(o) == g_tensor_type || PyType_IsSubtype(Py_TYPE(o), g_tensor_type);
}
// Valid as long as the object is.
inline const Tensor& as_tensor(PyObject* o) { return reinterpret_cast<PyTensor*>(o)->tensor; }

// New reference; the same object for the same TensorImpl as long as it lives. An undefined tensor becomes None.
PyObject* wrap(Tensor t);
// A new object of a Python subclass for t (Parameter); t must not have a Python object yet.
PyObject* wrap_as(PyTypeObject* cls, Tensor t);
// tensor.shape (bind/size.cpp)
PyObject* size_object(const Dims& d);
void init_size(PyObject* module);

// A tensor, a Python number or a NumPy scalar; `ok` is false for anything else.
Tensor operand(PyObject* o, bool& ok);

void init_tensor_type(PyObject* module);

}  // namespace pydlx::bind
