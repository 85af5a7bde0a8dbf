// NumPy both ways without copies.
#include <pybind11/numpy.h>

#include "bind/caster.h"
#include "bind/interchange.h"
#include "bind/interpreter.h"
#include "bind/schema.h"
#include "ops/elementwise.h"

namespace pydlx::bind {

namespace {

py::dtype numpy_dtype(DType t) {
  switch (t) {
    case DType::Bool:
      return py::dtype::of<bool>();
    case DType::UInt8:
      return py::dtype::of<std::uint8_t>();
    case DType::Int8:
      return py::dtype::of<std::int8_t>();
    case DType::Int16:
      return py::dtype::of<std::int16_t>();
    case DType::Int32:
      return py::dtype::of<std::int32_t>();
    case DType::Int64:
      return py::dtype::of<std::int64_t>();
    case DType::Float16:
      return py::dtype("float16");
    case DType::Float32:
      return py::dtype::of<float>();
    case DType::Float64:
      return py::dtype::of<double>();
    case DType::BFloat16:
      break;
  }
  fail("numpy", "", ErrorKind::DType, "NumPy has no bfloat16; convert with .float() first");
}

DType from_numpy_dtype(const py::dtype& d) {
  const char kind = d.kind();
  const auto size = d.itemsize();
  const char order = d.byteorder();
  const bool native = order == '=' || order == '|' || order == '<';
  if (native) {
    if (kind == 'b') return DType::Bool;
    if (kind == 'u' && size == 1) return DType::UInt8;
    if (kind == 'i' && size == 1) return DType::Int8;
    if (kind == 'i' && size == 2) return DType::Int16;
    if (kind == 'i' && size == 4) return DType::Int32;
    if (kind == 'i' && size == 8) return DType::Int64;
    if (kind == 'f' && size == 2) return DType::Float16;
    if (kind == 'f' && size == 4) return DType::Float32;
    if (kind == 'f' && size == 8) return DType::Float64;
  }
  fail("from_numpy", "array", ErrorKind::DType,
       "expected bool, uint8, int8/16/32/64 or float16/32/64 in native byte order, got ", std::string(py::str(d)),
       "; convert with astype()");
}

void drop_reference(void*, std::size_t, void* context) noexcept {
  if (!Py_IsInitialized()) return;  // interpreter is gone, and the array with it
  const InterpreterLock lock;
  Py_DECREF(static_cast<PyObject*>(context));
}

}  // namespace

Tensor tensor_from_numpy(py::array a) {
  const DType dtype = from_numpy_dtype(a.dtype());
  Dims sizes, strides;
  const auto size = static_cast<py::ssize_t>(itemsize(dtype));
  for (py::ssize_t i = 0; i < a.ndim(); ++i) {
    sizes.push_back(a.shape(i));
    const py::ssize_t s = a.strides(i);
    require(s >= 0 || a.shape(i) <= 1, "from_numpy", "array", ErrorKind::Value,
            "expected non-negative strides; use array.copy()");
    require(s % size == 0 || a.shape(i) <= 1, "from_numpy", "array", ErrorKind::Value,
            "expected strides that are multiples of the item size; use array.copy()");
    // NumPy says nothing about the strides of axes that have no second element.
    strides.push_back(a.shape(i) <= 1 && (s < 0 || s % size != 0) ? 1 : s / size);
  }
  require(sizes.ndim() <= kMaxDims, "from_numpy", "array", ErrorKind::Shape, "expected at most ", kMaxDims,
          " dimensions");
  require(reinterpret_cast<std::uintptr_t>(a.data()) % std::min<std::size_t>(itemsize(dtype), 8) == 0, "from_numpy",
          "array", ErrorKind::Value, "expected aligned memory; use array.copy()");
  std::int64_t span = 1;
  for (int i = 0; i < sizes.ndim(); ++i) span += sizes[i] > 0 ? (sizes[i] - 1) * strides[i] : 0;
  Ref<TensorImpl> t(new TensorImpl);
  void* data = const_cast<void*>(a.data());
  const bool writable = a.writeable();
  t->dtype = dtype;
  t->set_geometry(std::move(sizes), std::move(strides));
  t->storage = foreign_storage(data, static_cast<std::size_t>(t->numel ? span : 0) * itemsize(dtype), {},
                               drop_reference, a.release().ptr(), !writable);
  return Tensor(std::move(t));
}

py::array numpy_from_tensor(const Tensor& t, bool force) {
  require(force || !t.requires_grad(), "numpy", "", ErrorKind::Gradient,
          "expected a tensor without gradient; use .detach().numpy()");
  require(t.is_cpu(), "numpy", "", ErrorKind::Device, "expected a CPU tensor, got ", t.device(),
          "; use .cpu().numpy()");
  const py::dtype dtype = numpy_dtype(t.dtype());
  const auto size = static_cast<py::ssize_t>(itemsize(t.dtype()));
  std::vector<py::ssize_t> shape(t.sizes().begin(), t.sizes().end()), strides;
  for (auto s : t.strides()) strides.push_back(s * size);
  // The array keeps the storage alive through a capsule that owns one reference to the tensor.
  Tensor* owner = new Tensor(alias(t));
  const py::capsule base(owner, [](void* p) { delete static_cast<Tensor*>(p); });
  py::array a(dtype, shape, strides, t.data(), base);
  if (t.impl()->storage->read_only)
    py::detail::array_proxy(a.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
  return a;
}

void init_numpy(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  m.def(
      "from_numpy",
      [](py::object o) {
        require(py::isinstance<py::array>(o), "from_numpy", "array", ErrorKind::Type, "expected a numpy.ndarray, got ",
                Py_TYPE(o.ptr())->tp_name);
        return tensor_from_numpy(py::reinterpret_borrow<py::array>(o));
      },
      py::arg("array"), "from_numpy(array) -> Tensor that shares the array's memory.");
  m.def("_to_numpy", &numpy_from_tensor);
}

}  // namespace pydlx::bind
