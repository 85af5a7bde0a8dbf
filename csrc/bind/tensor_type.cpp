#include "bind/tensor_type.h"

#include <structmember.h>

#include "autograd/engine.h"
#include "autograd/node.h"
#include "bind/autocast.h"
#include "bind/autograd.h"
#include "bind/garbage.h"
#include "bind/indexing.h"
#include "bind/interchange.h"
#include "bind/schema.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
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

// ---- operators
// -------------------------------------------------------------------------------------------------------------------

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

// ---- attributes
// ------------------------------------------------------------------------------------------------------------------

PyObject* dims_tuple(const Dims& d) {
  PyObject* t = PyTuple_New(static_cast<Py_ssize_t>(d.size()));
  for (std::size_t i = 0; t && i < d.size(); ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(d[i]));
  return t;
}
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

PyGetSetDef getset[] = {
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

template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}
PyType_Slot slots[] = {slot(Py_tp_new, tensor_new),
                       slot(Py_tp_dealloc, dealloc),
                       slot(Py_tp_traverse, traverse),
                       slot(Py_tp_clear, clear),
                       slot(Py_tp_repr, repr),
                       slot(Py_tp_hash, hash),
                       slot(Py_tp_richcompare, compare),
                       slot(Py_tp_iter, iterate),
                       slot(Py_tp_getset, getset),
                       slot(Py_tp_methods, methods),
                       slot(Py_tp_members, members),
                       slot(Py_mp_length, length),
                       slot(Py_mp_subscript, subscript),
                       slot(Py_mp_ass_subscript, assign_subscript),
                       slot(Py_bf_getbuffer, get_buffer),
                       slot(Py_bf_releasebuffer, release_buffer),
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
                       slot(Py_nb_index, to_index),
                       {0, nullptr}};
PyType_Spec spec = {"pydlx.Tensor", sizeof(PyTensor), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
                    slots};

}  // namespace

PyObject* wrap(Tensor t) {
  if (!t.defined()) Py_RETURN_NONE;
  if (t.impl()->python) return Py_NewRef(static_cast<PyObject*>(t.impl()->python));
  return new_object(g_tensor_type, std::move(t));
}

PyObject* wrap_as(PyTypeObject* cls, Tensor t) { return new_object(cls, std::move(t)); }

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
PyObject* set_repr(PyObject*, PyObject* f) {
  PyObject* old = g_repr;
  g_repr = Py_NewRef(f);
  Py_XDECREF(old);
  Py_RETURN_NONE;
}
PyMethodDef module_functions[] = {{"_set_repr", set_repr, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
}  // namespace

void init_tensor_type(PyObject* m) {
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
