// The attributes of the class `Tensor`.
#include "autograd/engine.h"
#include "autograd/node.h"
#include "bind/autograd.h"
#include "bind/schema.h"
#include "bind/tensor_slots.h"
#include "bind/tensor_type.h"
#include "core/in_flight.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

template <class F>
PyObject* getter(PyObject* o, F f) {
  return guarded([&] { return f(as_tensor(o)); });
}
PyObject* get_shape(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return size_object(t.sizes()); });
}
PyObject* get_ndim(PyObject* o, void*) { return PyLong_FromLong(as_tensor(o).impl()->sizes.ndim()); }
PyObject* get_dtype(PyObject* o, void*) { return dtype_object(as_tensor(o).impl()->dtype); }
PyObject* get_device(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return device_object(t.device()); });
}
PyObject* get_requires_grad(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return PyBool_FromLong(t.requires_grad()); });
}
int set_requires_grad_attr(PyObject* o, PyObject* v, void*) {
  return guarded([&]() -> int {
    require(v && PyBool_Check(v), "requires_grad", "", ErrorKind::Type, "expected True or False");
    set_requires_grad(as_tensor(o), v == Py_True);
    return 0;
  });
}
PyObject* get_is_leaf(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return PyBool_FromLong(is_leaf(t)); });
}
PyObject* get_grad(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return wrap(grad_of(t)); });
}
int set_grad(PyObject* o, PyObject* v, void*) {
  return guarded([&]() -> int {
    const Tensor& t = as_tensor(o);
    if (!v || v == Py_None) {
      if (t.impl()->meta) t.impl()->meta->grad = Tensor();
      return 0;
    }
    require(is_tensor(v), "grad", "", ErrorKind::Type, "expected a tensor or None, got ", Py_TYPE(v)->tp_name);
    const Tensor g = as_tensor(v);
    require(g.sizes() == t.sizes(), "grad", "", ErrorKind::Shape, "expected shape ", t.sizes(), ", got ", g.sizes());
    require(g.dtype() == t.dtype(), "grad", "", ErrorKind::DType, "expected ", t.dtype(), ", got ", g.dtype());
    require(g.device() == t.device(), "grad", "", ErrorKind::Device, "expected ", t.device(), ", got ", g.device());
    require(!g.is_same(t), "grad", "", ErrorKind::Value, "a tensor cannot be its own gradient");
    autograd_meta(t).grad = g;
    return 0;
  });
}
PyObject* get_grad_fn(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return wrap_node(grad_fn_of(t)); });
}
PyObject* get_data(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) {
    Tensor d = detach(t);
    d.impl()->untracked = true;
    return wrap(d);
  });
}
int set_data(PyObject* o, PyObject* v, void*) {
  return guarded([&]() -> int {
    require(v && is_tensor(v), "data", "", ErrorKind::Type, "expected a tensor");
    TensorImpl& t = *as_tensor(o).impl();
    const TensorImpl& s = *as_tensor(v).impl();
    require(!(t.requires_grad && !is_floating(s.dtype)), "data", "", ErrorKind::DType,
            "expected a floating point tensor for one that requires a gradient, got ", s.dtype);
    require(!t.meta || !t.meta->grad_fn || (t.sizes == s.sizes && t.dtype == s.dtype), "data", "", ErrorKind::Gradient,
            "expected ", t.dtype, " data of shape ", t.sizes, " for the result of a recorded operation, got ", s.dtype,
            " of shape ", s.sizes, "; use detach() to get a tensor without history");
    // What is given up dies at the end: memory of other owners may run Python code then.
    Ref<Storage> storage = s.storage;
    Ref<TensorImpl> base;
    const Alone alone("data");
    std::swap(t.storage, storage);
    std::swap(t.base, base);
    t.offset = s.offset;
    t.dtype = s.dtype;
    t.set_geometry(s.sizes, s.strides);
    return 0;
  });
}
PyObject* get_version(PyObject* o, void*) { return PyLong_FromUnsignedLong(as_tensor(o).impl()->storage->version); }
PyObject* get_transposed(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) {
    Dims order;
    for (int i = t.ndim() - 1; i >= 0; --i) order.push_back(i);
    return wrap(ops::permute(t, order));
  });
}
PyObject* get_matrix_transposed(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) {
    require(t.ndim() >= 2, "mT", "input", ErrorKind::Shape, "expected at least two dimensions, got shape ", t.sizes());
    return wrap(ops::transpose(t, -2, -1));
  });
}
PyObject* get_adjoint(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) {
    require(t.ndim() == 2 || t.ndim() == 0, "H", "input", ErrorKind::Shape, "expected a matrix, got shape ", t.sizes(),
            "; use mH for batches");
    return wrap(ops::t(t));
  });
}
PyObject* get_itemsize(PyObject* o, void*) { return PyLong_FromSize_t(itemsize(as_tensor(o).impl()->dtype)); }
PyObject* get_nbytes(PyObject* o, void*) {
  return PyLong_FromSize_t(static_cast<std::size_t>(as_tensor(o).impl()->numel) * itemsize(as_tensor(o).impl()->dtype));
}
PyObject* get_is_cuda(PyObject* o, void*) { return PyBool_FromLong(!as_tensor(o).impl()->storage->device.is_cpu()); }
PyObject* get_base(PyObject* o, void*) {
  return getter(o, [](const Tensor& t) { return wrap(Tensor(t.impl()->base)); });
}
PyObject* get_output_nr(PyObject* o, void*) {
  const auto& m = as_tensor(o).impl()->meta;
  return PyLong_FromUnsignedLong(m ? m->output_nr : 0);
}
PyObject* get_retains_grad(PyObject* o, void*) {
  const auto& m = as_tensor(o).impl()->meta;
  return PyBool_FromLong(m && m->retains_grad);
}

}  // namespace

PyGetSetDef tensor_attributes[] = {
    {"shape", get_shape, nullptr, "Sizes of the tensor.", nullptr},
    {"ndim", get_ndim, nullptr, "Number of dimensions.", nullptr},
    {"dtype", get_dtype, nullptr, "Element type.", nullptr},
    {"device", get_device, nullptr, "Where the data lives.", nullptr},
    {"requires_grad", get_requires_grad, set_requires_grad_attr, "Whether operations on the tensor are recorded.",
     nullptr},
    {"is_leaf", get_is_leaf, nullptr, "Whether the tensor was made by the user rather than by a recorded operation.",
     nullptr},
    {"grad", get_grad, set_grad, "Gradient accumulated by backward(), or None.", nullptr},
    {"_grad", get_grad, set_grad, nullptr, nullptr},
    {"grad_fn", get_grad_fn, nullptr, "The recorded operation that made the tensor, or None.", nullptr},
    {"data", get_data, set_data, "The same data without gradient history; changes are not tracked.", nullptr},
    {"_version", get_version, nullptr, "Number of in-place changes of the storage.", nullptr},
    {"_base", get_base, nullptr, "The tensor this is a view of, or None.", nullptr},
    {"output_nr", get_output_nr, nullptr, nullptr, nullptr},
    {"retains_grad", get_retains_grad, nullptr, nullptr, nullptr},
    {"T", get_transposed, nullptr, "The tensor with its axes reversed.", nullptr},
    {"mT", get_matrix_transposed, nullptr, "The tensor with its last two axes swapped.", nullptr},
    {"mH", get_matrix_transposed, nullptr, "The tensor with its last two axes swapped (there are no complex dtypes).",
     nullptr},
    {"H", get_adjoint, nullptr, "The transpose of a matrix (there are no complex dtypes).", nullptr},
    {"itemsize", get_itemsize, nullptr, "Bytes per element.", nullptr},
    {"nbytes", get_nbytes, nullptr, "Bytes of all elements.", nullptr},
    {"is_cuda", get_is_cuda, nullptr, nullptr, nullptr},
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, nullptr, nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

}  // namespace pydlx::bind
