#include "bind/errors.h"

#include <pybind11/pybind11.h>

#include <new>

namespace pydlx::bind {

namespace py = pybind11;

namespace {
PyObject* g_class[10] = {};

PyObject* make_class(PyObject* m, const char* name, PyObject* base, const char* doc) {
  const std::string full = std::string("pydlx.") + name;
  PyObject* cls = PyErr_NewExceptionWithDoc(full.c_str(), doc, base, nullptr);
  if (!cls) throw py::error_already_set();
  py::handle(m).attr(name) = py::handle(cls);
  return cls;
}
}  // namespace

void init_errors(PyObject* m) {
  auto at = [](ErrorKind k) -> PyObject*& { return g_class[static_cast<int>(k)]; };
  at(ErrorKind::Value) = PyExc_ValueError;
  at(ErrorKind::Index) = PyExc_IndexError;
  at(ErrorKind::Type) = PyExc_TypeError;
  at(ErrorKind::Runtime) = PyExc_RuntimeError;
  at(ErrorKind::NotImplemented) = PyExc_NotImplementedError;
  // PyTorch raises RuntimeError for most wrong shapes and dtypes; handlers written for it keep working.
  const py::tuple shape_bases = py::make_tuple(py::handle(PyExc_ValueError), py::handle(PyExc_RuntimeError));
  const py::tuple dtype_bases = py::make_tuple(py::handle(PyExc_TypeError), py::handle(PyExc_RuntimeError));
  at(ErrorKind::Shape) =
      make_class(m, "ShapeError", shape_bases.ptr(), "A tensor has the wrong shape for an operation.");
  at(ErrorKind::DType) =
      make_class(m, "DTypeError", dtype_bases.ptr(), "A tensor has the wrong dtype for an operation.");
  at(ErrorKind::Device) =
      make_class(m, "DeviceError", PyExc_RuntimeError, "A device is missing, or tensors are on different ones.");
  at(ErrorKind::OutOfMemory) =
      make_class(m, "OutOfMemoryError", PyExc_MemoryError, "A device has no memory left for a request.");
  at(ErrorKind::Gradient) =
      make_class(m, "GradientError", PyExc_RuntimeError, "Automatic differentiation cannot do what was asked.");
}

void set_python_error() noexcept {
  try {
    throw;
  } catch (const Error& e) {
    PyErr_SetString(g_class[static_cast<int>(e.kind())], e.what());
  } catch (const PythonError&) {
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const py::builtin_exception& e) {
    e.set_error();
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "out of memory");
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  } catch (...) {
    PyErr_SetString(PyExc_RuntimeError, "unknown C++ exception");
  }
}

}  // namespace pydlx::bind
