// pydlx._C._cuda: what the Python package pydlx.cuda is made of. Devices are numbers here; the package turns whatever
// the user gave into one.
#include "bind/cuda.h"

#include <pybind11/stl.h>

#include "autograd/node.h"
#include "bind/caster.h"
#include "bind/tensor_type.h"
#include "core/backend.h"
#include "core/check.h"
#include "ops/missing_kernels.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

namespace {

Backend& backend(int device = 0) {
  require(device >= 0 && device < 128, "cuda", "device", ErrorKind::Value, "expected a device number, got ", device);
  return require_backend({DeviceType::CUDA, static_cast<std::int8_t>(device)});
}

int device_count() {
  Backend* b = backend_of(DeviceType::CUDA);
  return b ? b->device_count() : 0;
}

// Waiting for a device lets other Python threads run.
using Release = py::call_guard<py::gil_scoped_release>;

struct StreamObject {
  StreamHandle handle;
  Backend& owner() const { return *backend_of(DeviceType::CUDA); }
};

struct EventObject : ReadyMemory<EventObject> {
  EventHandle handle = nullptr;
  bool timing;
  explicit EventObject(bool enable_timing = false) : timing(enable_timing) {}
  EventObject(const EventObject&) = delete;
  ~EventObject() {
    if (handle) backend_of(DeviceType::CUDA)->delete_event(handle);
  }
};

struct GraphObject : ReadyMemory<GraphObject> {
  GraphHandle handle = nullptr;
  GraphObject() = default;
  GraphObject(const GraphObject&) = delete;
  ~GraphObject() { reset(); }
  void reset() {
    if (handle) backend_of(DeviceType::CUDA)->delete_graph(handle);
    handle = nullptr;
  }
};

EventHandle recorded(const EventObject& e, const char* method) {
  require(e.handle != nullptr, method, "", ErrorKind::Runtime, "expected an event that was recorded");
  return e.handle;
}

py::dict memory_stats(int device) { return stats_dict(backend(device).allocator(device).stats()); }

py::dict properties(int device) {
  const DeviceProperties p = backend(device).properties(device);
  py::dict d;
  d["name"] = p.name;
  d["major"] = p.major;
  d["minor"] = p.minor;
  d["total_memory"] = p.total_memory;
  d["multi_processor_count"] = p.multi_processor_count;
  d["warp_size"] = p.warp_size;
  d["max_threads_per_block"] = p.max_threads_per_block;
  d["shared_memory_per_block"] = p.shared_memory_per_block;
  d["l2_cache_size"] = p.l2_cache_size;
  return d;
}

Tensor pin_memory(const Tensor& t) {
  require(t.is_cpu(), "pin_memory", "input", ErrorKind::Device, "expected a CPU tensor, got ", t.device());
  Allocator& a = backend().pinned_allocator();
  const std::size_t bytes = static_cast<std::size_t>(t.numel()) * itemsize(t.dtype());
  Ref<TensorImpl> out(new TensorImpl);
  out->storage = foreign_storage(
      a.allocate(bytes), bytes, {},
      [](void* p, std::size_t n, void* context) noexcept { static_cast<Allocator*>(context)->deallocate(p, n); }, &a,
      false);
  out->dtype = t.dtype();
  out->set_geometry(t.sizes(), contiguous_strides(t.sizes()));
  Tensor pinned(std::move(out));
  if (t.numel() > 0) copy_raw(pinned, detach(t));
  return pinned;
}

}  // namespace

void init_cuda(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module).def_submodule("_cuda", "The CUDA backend.");
  m.def("device_count", &device_count);
  m.def("why_unavailable", [] {
    Backend* b = backend_of(DeviceType::CUDA);
    return b ? b->why_unavailable() : std::string("this pydlx was built without CUDA");
  });
  m.def("properties", &properties);
  m.def("memory_info", [](int device) {
    std::size_t free = 0, total = 0;
    backend(device).memory_info(device, free, total);
    return std::pair(free, total);
  });
  m.def("current_device", [] { return backend().current_device(); });
  m.def("set_device", [](int device) { backend(device).set_device(device); });
  m.def("missing_kernels",
        [](int device) { return missing_kernels({DeviceType::CUDA, static_cast<std::int8_t>(device)}); });
  m.def("synchronize", [](int device) { backend(device).synchronize(device); }, Release());
  m.def("empty_cache", [] {
    for (int d = 0; d < device_count(); ++d) backend(d).allocator(d).empty_cache();
    if (device_count() > 0) backend().pinned_allocator().empty_cache();
  });
  m.def("memory_stats", &memory_stats);
  m.def("reset_peak_memory_stats", [](int device) { backend(device).allocator(device).reset_peak(); });
  m.def("generator", [](int device) { return &backend(device).generator(device); }, py::return_value_policy::reference);

  py::class_<StreamObject>(m, "Stream")
      .def_property_readonly("device", [](const StreamObject& s) { return s.owner().stream_device(s.handle); })
      .def_property_readonly("native", [](const StreamObject& s) { return s.owner().native_stream(s.handle); })
      .def("query", [](const StreamObject& s) { return s.owner().stream_done(s.handle); })
      .def(
          "synchronize", [](const StreamObject& s) { s.owner().synchronize_stream(s.handle); }, Release())
      .def("wait_event", [](const StreamObject& s,
                            const EventObject& e) { s.owner().wait_event(s.handle, recorded(e, "wait_event")); })
      .def("same", [](const StreamObject& a, const StreamObject& b) { return a.handle == b.handle; });
  // Streams come from the functions below; Stream.__new__ would make one of nothing.
  reinterpret_cast<PyTypeObject*>(m.attr("Stream").ptr())->tp_new = nullptr;
  m.def("new_stream",
        [](int device, int priority) { return StreamObject{backend(device).new_stream(device, priority)}; });
  m.def("default_stream", [](int device) { return StreamObject{backend(device).default_stream(device)}; });
  m.def("current_stream", [](int device) { return StreamObject{backend(device).current_stream(device)}; });
  m.def("set_stream", [](const StreamObject& s) { s.owner().set_stream(s.handle); });
  m.def("record_stream", [](const Tensor& x, const StreamObject& s) {
    require(!x.is_cpu(), "record_stream", "input", ErrorKind::Device, "expected a CUDA tensor, got one on the CPU");
    s.owner().record_stream(x.impl()->storage->data, s.handle);
  });

  py::class_<EventObject>(m, "Event")
      .def(py::init<bool>())
      .def("record",
           [](EventObject& e, const StreamObject& s) {
             if (!e.handle) e.handle = s.owner().new_event(e.timing, s.handle);
             s.owner().record_event(e.handle, s.handle);
           })
      .def("query", [](const EventObject& e) { return !e.handle || backend().event_done(e.handle); })
      .def(
          "synchronize",
          [](const EventObject& e) {
            if (e.handle) backend().synchronize_event(e.handle);
          },
          Release())
      .def("elapsed_time", [](const EventObject& from, const EventObject& to) {
        require(from.timing && to.timing, "elapsed_time", "", ErrorKind::Value,
                "expected events made with enable_timing=True");
        return backend().elapsed_ms(recorded(from, "elapsed_time"), recorded(to, "elapsed_time"));
      });

  py::class_<GraphObject>(m, "Graph")
      .def(py::init<>())
      .def("begin",
           [](GraphObject& g) {
             require(g.handle == nullptr, "cuda.graph", "", ErrorKind::Runtime,
                     "expected an empty graph; call reset() first");
             backend().begin_capture();
           })
      .def("end", [](GraphObject& g) { g.handle = backend().end_capture(); })
      .def("replay",
           [](GraphObject& g) {
             require(g.handle != nullptr, "replay", "", ErrorKind::Runtime, "expected a graph that was recorded");
             backend().replay(g.handle);
           })
      .def("reset", &GraphObject::reset);
  m.def("is_capturing", [] { return device_count() > 0 && backend().is_capturing(); });
  m.def("pin_memory", [](const Tensor& t) { return py::reinterpret_steal<py::object>(wrap(pin_memory(t))); });
  m.def("is_pinned", [](const Tensor& x) {
    return x.is_cpu() && device_count() > 0 && backend().is_pinned(x.impl()->storage->data);
  });
}

}  // namespace pydlx::bind
