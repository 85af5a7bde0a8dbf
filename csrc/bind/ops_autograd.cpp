// Rows of the methods that steer gradients, conversion and placement.
#include "autograd/engine.h"
#include "bind/memory_format.h"
#include "bind/rows.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"

namespace pydlx::bind {

namespace {

TensorList inputs_from(PyObject* o) {
  TensorList out;
  if (o == Py_None) return out;
  if (is_tensor(o)) return {as_tensor(o)};
  if (!PyTuple_Check(o) && !PyList_Check(o))
    fail("backward", "inputs", ErrorKind::Type, "expected tensors, got ", Py_TYPE(o)->tp_name);
  for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i) {
    PyObject* e = PySequence_Fast_ITEMS(o)[i];
    if (!is_tensor(e)) fail("backward", "inputs", ErrorKind::Type, "expected tensors, got ", Py_TYPE(e)->tp_name);
    out.push_back(as_tensor(e));
  }
  require(!out.empty(), "backward", "inputs", ErrorKind::Value, "expected at least one tensor");
  return out;
}

void backward(const Tensor& t, const Tensor& gradient, std::optional<bool> retain_graph, bool create_graph,
              PyObject* inputs) {
  run_backward({t}, {gradient}, inputs_from(inputs), {retain_graph.value_or(create_graph), create_graph});
}

Tensor requires_grad_(const Tensor& t, bool on) {
  set_requires_grad(t, on);
  return t;
}

Tensor detach_(const Tensor& t) {
  require(!t.impl()->base, "detach_", "input", ErrorKind::Gradient, "a view cannot be detached in place; use detach()");
  t.impl()->requires_grad = false;
  if (t.impl()->meta) t.impl()->meta->grad_fn = nullptr;
  return t;
}

using Format = std::optional<MemoryFormat>;

// Moves and converts; the tensor itself when nothing changes and no copy was asked for.
Tensor to_place(const Tensor& t, std::optional<Device> device, std::optional<DType> dtype, bool non_blocking, bool copy,
                Format format) {
  // Conversion first when it makes fewer bytes to move.
  const bool narrower = dtype && itemsize(*dtype) < itemsize(t.dtype());
  Tensor r = narrower ? ops::to_dtype(t, *dtype) : t;
  if (device) r = ops::to_device(r, *device, non_blocking);
  if (dtype) r = ops::to_dtype(r, *dtype);
  if (format && *format != MemoryFormat::preserve) r = ops::to_format(r, *format);
  return copy && r.is_same(t) ? ops::clone(t) : r;
}
Tensor to_type(const Tensor& t, DType dtype, bool, bool copy, Format format) {
  return to_place(t, std::nullopt, dtype, false, copy, format);
}
Tensor to_like(const Tensor& t, const Tensor& other, bool, bool copy, Format format) {
  return to_place(t, other.device(), other.dtype(), false, copy, format);
}
template <DType dtype>
Tensor convert(const Tensor& t, Format format) {
  return to_place(t, std::nullopt, dtype, false, false, format);
}
Tensor type_as(const Tensor& t, const Tensor& other) {
  return to_place(t, other.device(), other.dtype(), false, false, std::nullopt);
}
Tensor cpu(const Tensor& t, Format format) { return to_place(t, Device{}, std::nullopt, false, false, format); }
Tensor cuda(const Tensor& t, std::optional<Device> device, bool non_blocking, Format format) {
  return to_place(t, device.value_or(Device{DeviceType::CUDA, 0}), std::nullopt, non_blocking, false, format);
}

}  // namespace

void bind_autograd(OpRegistry& r) {
  r.add({
      {"backward(Tensor input, Tensor? gradient=None, bool? retain_graph=None, bool create_graph=False, object "
       "inputs=None) -> None",
       call<&backward>, kMethod, "Adds the gradient of the tensor to the .grad of the leaves it depends on."},
      {"requires_grad_(Tensor input, bool requires_grad=True) -> Tensor", call<&requires_grad_>, kMethod,
       "Switches recording for a leaf; returns the tensor."},
      {"detach_(Tensor input) -> Tensor", call<&detach_>, kMethod, "Drops the gradient history in place."},
      {"retain_grad(Tensor input) -> None", call<&pydlx::retain_grad>, kMethod,
       "Keeps the .grad of a tensor that is not a leaf."},
      {"to(Tensor input, dtype dtype, bool non_blocking=False, bool copy=False, *, object? memory_format=None) -> "
       "Tensor",
       call<&to_type>, kMethod, "Converts to a dtype."},
      {"to(Tensor input, device? device=None, dtype? dtype=None, bool non_blocking=False, bool copy=False, *, object? "
       "memory_format=None) -> "
       "Tensor",
       call<&to_place>, kMethod, "Moves to a device and converts."},
      {"to(Tensor input, Tensor other, bool non_blocking=False, bool copy=False, *, object? memory_format=None) -> "
       "Tensor",
       call<&to_like>, kMethod, "Moves and converts to another tensor's device and dtype."},
      {"type_as(Tensor input, Tensor other) -> Tensor", call<&type_as>, kMethod, "Converts to another tensor's dtype."},
      {"cpu(Tensor input, *, object? memory_format=None) -> Tensor", call<&cpu>, kMethod, "Moves to the CPU."},
      {"cuda(Tensor input, device? device=None, bool non_blocking=False, *, object? memory_format=None) -> Tensor",
       call<&cuda>, kMethod, "Moves to a GPU."},
      {"float(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Float32>>, kMethod,
       "Converts to float32."},
      {"double(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Float64>>, kMethod,
       "Converts to float64."},
      {"half(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Float16>>, kMethod,
       "Converts to float16."},
      {"bfloat16(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::BFloat16>>, kMethod,
       "Converts to bfloat16."},
      {"long(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Int64>>, kMethod,
       "Converts to int64."},
      {"int(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Int32>>, kMethod,
       "Converts to int32."},
      {"short(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Int16>>, kMethod,
       "Converts to int16."},
      {"char(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Int8>>, kMethod,
       "Converts to int8."},
      {"byte(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::UInt8>>, kMethod,
       "Converts to uint8."},
      {"bool(Tensor input, *, object? memory_format=None) -> Tensor", call<&convert<DType::Bool>>, kMethod,
       "Converts to bool."},
  });
}

}  // namespace pydlx::bind
