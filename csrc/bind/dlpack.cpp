// DLPack 1.x exchange and the buffer protocol. The structs below are the ABI of the DLPack specification (dmlc/dlpack,
// dlpack.h 1.0).
#include <memory>

#include "bind/caster.h"
#include "bind/errors.h"
#include "bind/interchange.h"
#include "bind/interpreter.h"
#include "bind/schema.h"
#include "core/allocator.h"

namespace pydlx::bind {

namespace {

struct DLDevice {
  std::int32_t device_type, device_id;
};
struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
struct DLPackVersion {
  std::uint32_t major, minor;
};
struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned*);
  std::uint64_t flags;
  DLTensor dl_tensor;
};
constexpr std::uint64_t kReadOnly = 1, kIsCopied = 2;
constexpr std::int32_t kDLCPU = 1, kDLCUDA = 2;
constexpr std::uint8_t kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4, kDLBool = 6;

DLDataType to_dl(DType t) {
  const auto bits = static_cast<std::uint8_t>(itemsize(t) * 8);
  if (t == DType::Bool) return {kDLBool, 8, 1};
  if (t == DType::UInt8) return {kDLUInt, 8, 1};
  if (t == DType::BFloat16) return {kDLBfloat, 16, 1};
  return {is_floating(t) ? kDLFloat : kDLInt, bits, 1};
}

DType from_dl(DLDataType d) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const DLDataType t = to_dl(static_cast<DType>(i));
    if (d.lanes == 1 && d.code == t.code && d.bits == t.bits) return static_cast<DType>(i);
  }
  fail("from_dlpack", "x", ErrorKind::DType, "unsupported DLPack type code ", int{d.code}, " with ", int{d.bits},
       " bits and ", int{d.lanes}, " lanes");
}

// What an exported tensor keeps alive.
template <class Managed>
struct Exported {
  Managed managed;
  Tensor owner;
  std::vector<std::int64_t> shape, strides;
};

template <class Managed>
Managed* export_as(const Tensor& t) {
  auto e = std::make_unique<Exported<Managed>>();
  e->owner = alias(t);
  e->shape.assign(t.sizes().begin(), t.sizes().end());
  e->strides.assign(t.strides().begin(), t.strides().end());
  e->managed.manager_ctx = e.get();
  e->managed.deleter = [](Managed* m) { delete static_cast<Exported<Managed>*>(m->manager_ctx); };
  DLTensor& d = e->managed.dl_tensor;
  d.data = t.data();
  d.device = {t.is_cpu() ? kDLCPU : kDLCUDA, t.device().index};
  d.ndim = t.ndim();
  d.dtype = to_dl(t.dtype());
  d.shape = e->shape.data();
  d.strides = e->strides.data();
  d.byte_offset = 0;
  return &e.release()->managed;
}

template <class Managed>
void free_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;  // consumed: the new owner frees it
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (m->deleter) m->deleter(m);
}

py::object to_dlpack(const Tensor& t, py::object max_version, py::object copy) {
  require(!t.requires_grad(), "__dlpack__", "", ErrorKind::Gradient,
          "expected a tensor without gradient; use detach()");
  Tensor source = t;
  const bool copied = !copy.is_none() && copy.cast<bool>();
  if (copied) source = py::cast(t).attr("clone")().cast<Tensor>();
  const bool versioned = !max_version.is_none() && max_version.cast<py::tuple>()[0].cast<int>() >= 1;
  const bool read_only = source.impl()->storage->read_only;
  if (versioned) {
    auto* m = export_as<DLManagedTensorVersioned>(source);
    m->version = {1, 0};
    m->flags = (read_only ? kReadOnly : 0) | (copied ? kIsCopied : 0);
    PyObject* c = PyCapsule_New(m, "dltensor_versioned",
                                [](PyObject* p) { free_capsule<DLManagedTensorVersioned>(p, "dltensor_versioned"); });
    if (!c) m->deleter(m);
    return py::reinterpret_steal<py::object>(Object::checked(c).release());
  }
  require(!read_only, "__dlpack__", "", ErrorKind::Runtime,
          "read-only memory needs a consumer of DLPack 1.0 or newer; use clone()");
  auto* m = export_as<DLManagedTensor>(source);
  PyObject* c = PyCapsule_New(m, "dltensor", [](PyObject* p) { free_capsule<DLManagedTensor>(p, "dltensor"); });
  if (!c) m->deleter(m);
  return py::reinterpret_steal<py::object>(Object::checked(c).release());
}

template <class Managed>
Tensor import_from(PyObject* capsule, const char* name, const char* used, bool read_only) {
  auto* m = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  if (!m) throw PythonError{};
  const DLTensor& d = m->dl_tensor;
  const DType dtype = from_dl(d.dtype);
  require(d.device.device_type == kDLCPU || d.device.device_type == kDLCUDA, "from_dlpack", "x", ErrorKind::Device,
          "expected CPU or CUDA memory, got DLPack device type ", int{d.device.device_type});
  require(d.device.device_id >= 0 && d.device.device_id < 128, "from_dlpack", "x", ErrorKind::Device,
          "expected a device number from 0 to 127, got ", int{d.device.device_id});
  const bool cpu = d.device.device_type == kDLCPU;
  const Device device{cpu ? DeviceType::CPU : DeviceType::CUDA, static_cast<std::int8_t>(cpu ? 0 : d.device.device_id)};
  allocator_for(device);  // DeviceError when the backend is absent
  require(d.ndim >= 0 && d.ndim <= kMaxDims, "from_dlpack", "x", ErrorKind::Shape, "expected at most ", kMaxDims,
          " dimensions, got ", int{d.ndim});
  Dims sizes(d.shape, static_cast<std::size_t>(d.ndim));
  const std::int64_t n = checked_numel(sizes, "from_dlpack");
  Dims strides = d.strides ? Dims(d.strides, static_cast<std::size_t>(d.ndim)) : contiguous_strides(sizes);
  std::int64_t span = 1;
  for (int i = 0; i < d.ndim; ++i) {
    if (sizes[i] <= 1) strides[i] = 1;
    require(strides[i] >= 0, "from_dlpack", "x", ErrorKind::Value, "expected non-negative strides");
    if (n > 0) span = checked_add(span, checked_mul(sizes[i] - 1, strides[i], "from_dlpack"), "from_dlpack");
  }
  const auto size = static_cast<std::int64_t>(itemsize(dtype));
  const std::int64_t bytes = n ? checked_mul(span, size, "from_dlpack") : 0;
  char* data = static_cast<char*>(d.data) + d.byte_offset;
  require(n == 0 || d.data, "from_dlpack", "x", ErrorKind::Value, "the capsule has no data");
  require(n == 0 || reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(size) == 0, "from_dlpack", "x",
          ErrorKind::Value, "expected aligned memory; pass a copy");
  Ref<TensorImpl> t(new TensorImpl);
  t->dtype = dtype;
  t->set_geometry(std::move(sizes), std::move(strides));
  if (PyCapsule_SetName(capsule, used) < 0) throw PythonError{};  // from here on we own it
  t->storage = foreign_storage(
      data, static_cast<std::size_t>(bytes), device,
      [](void*, std::size_t, void* context) noexcept {
        auto* managed = static_cast<Managed*>(context);
        if (!managed->deleter || !Py_IsInitialized()) return;
        const InterpreterLock lock;  // the producer may be Python code
        managed->deleter(managed);
      },
      m, read_only);
  return Tensor(std::move(t));
}

Tensor from_capsule(PyObject* capsule) {
  require(PyCapsule_CheckExact(capsule), "from_dlpack", "x", ErrorKind::Type,
          "expected an object with __dlpack__ or a DLPack capsule, got ", Py_TYPE(capsule)->tp_name);
  const char* name = PyCapsule_GetName(capsule);
  const std::string_view n = name ? name : "";
  if (n == "dltensor_versioned") {
    auto* m = static_cast<DLManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, name));
    require(m->version.major == 1, "from_dlpack", "x", ErrorKind::Value, "expected DLPack major version 1, got ",
            int(m->version.major));
    return import_from<DLManagedTensorVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned",
                                                 m->flags & kReadOnly);
  }
  require(n == "dltensor", "from_dlpack", "x", ErrorKind::Value, "the capsule was consumed already (its name is '", n,
          "')");
  return import_from<DLManagedTensor>(capsule, "dltensor", "used_dltensor", false);
}

Tensor from_dlpack(py::object x) {
  if (!py::hasattr(x, "__dlpack__")) return from_capsule(x.ptr());
  py::object capsule;
  try {
    capsule = x.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_TypeError)) throw;
    capsule = x.attr("__dlpack__")();  // a producer from before DLPack 1.0
  }
  return from_capsule(capsule.ptr());
}

// Memory of an exported buffer stays alive even if the tensor is given other storage meanwhile.
struct BufferHold {
  Ref<Storage> storage;
  std::vector<Py_ssize_t> geometry;
};

const char* buffer_format(DType t) {
  constexpr const char* table[kDTypeCount] = {"?", "B", "b", "h", "i", "q", "e", nullptr, "f", "d"};
  return table[static_cast<int>(t)];
}

// Column-major without gaps.
bool transposed_layout(const Tensor& t) {
  std::int64_t expected = 1;
  for (int i = 0; i < t.ndim(); ++i) {
    if (t.sizes()[i] != 1 && t.strides()[i] != expected) return t.numel() == 0;
    expected *= t.sizes()[i];
  }
  return true;
}

}  // namespace

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  return guarded([&]() -> int {
    view->obj = nullptr;
    const Tensor t = as_tensor(self);
    auto refuse = [](const char* why) {
      PyErr_SetString(PyExc_BufferError, why);
      return -1;
    };
    if (!t.is_cpu()) return refuse("[buffer] expected a CPU tensor; use .cpu()");
    if (t.requires_grad()) return refuse("[buffer] expected a tensor without gradient; use .detach()");
    const char* format = buffer_format(t.dtype());
    if (!format) return refuse("[buffer] bfloat16 has no buffer format; convert with .float()");
    const bool read_only = t.impl()->storage->read_only;
    if (read_only && (flags & PyBUF_WRITABLE)) return refuse("[buffer] the tensor shares read-only memory");
    if (!(flags & PyBUF_STRIDES) && !t.contiguous_layout())
      return refuse("[buffer] expected a contiguous tensor; use .contiguous()");
    const auto asked = [flags](int what) { return (flags & what) == what; };
    const bool columns = transposed_layout(t);
    if ((asked(PyBUF_C_CONTIGUOUS) && !t.contiguous_layout()) ||
        (asked(PyBUF_ANY_CONTIGUOUS) && !t.contiguous_layout() && !columns))
      return refuse("[buffer] expected a contiguous tensor; use .contiguous()");
    if (asked(PyBUF_F_CONTIGUOUS) && !columns)
      return refuse("[buffer] expected column-major order; use .mT.contiguous().mT");
    const int n = t.ndim();
    auto hold = std::make_unique<BufferHold>();
    hold->storage = t.impl()->storage;
    hold->geometry.resize(2 * static_cast<std::size_t>(n));
    Py_ssize_t* geometry = hold->geometry.data();
    for (int i = 0; i < n; ++i) {
      geometry[i] = t.sizes()[i];
      geometry[n + i] = t.strides()[i] * static_cast<Py_ssize_t>(itemsize(t.dtype()));
    }
    view->buf = t.data();
    view->len = t.numel() * static_cast<Py_ssize_t>(itemsize(t.dtype()));
    view->readonly = read_only;
    view->itemsize = static_cast<Py_ssize_t>(itemsize(t.dtype()));
    view->format = flags & PyBUF_FORMAT ? const_cast<char*>(format) : nullptr;
    view->ndim = n;
    view->shape = flags & PyBUF_ND ? geometry : nullptr;
    view->strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? geometry + n : nullptr;
    view->suboffsets = nullptr;
    view->internal = hold.release();
    view->obj = Py_NewRef(self);
    return 0;
  });
}

void release_buffer(PyObject*, Py_buffer* view) { delete static_cast<BufferHold*>(view->internal); }

void init_dlpack(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  m.def("_to_dlpack", &to_dlpack, py::call_guard<Flight>());
  m.def("from_dlpack", &from_dlpack, py::arg("x"),
        "from_dlpack(x) -> Tensor that shares the memory of any DLPack producer.");
}

}  // namespace pydlx::bind
