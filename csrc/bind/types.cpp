// Python objects for dtype, device and Generator.
#include <charconv>
#include <cstring>
#include <vector>

#include "bind/caster.h"
#include "bind/schema.h"
#include "core/backend.h"

namespace pydlx::bind {

namespace {

struct PyDType {
  DType value;
};
PyObject* g_dtypes[kDTypeCount] = {};
struct PyDevice : Device, ReadyMemory<PyDevice> {
  PyDevice() = default;
  PyDevice(Device d) : Device(d) {}
};
PyTypeObject* g_device_type = nullptr;
std::vector<Device> g_outer_devices;  // defaults to return to at the end of `with device:` blocks
PyTypeObject* g_generator_type = nullptr;

bool parse_device_text(const std::string& s, Device& d) {
  const auto colon = s.find(':');
  const std::string type = s.substr(0, colon);
  int index = 0;
  if (colon != std::string::npos) {
    const char *b = s.data() + colon + 1, *e = s.data() + s.size();
    const auto [end, error] = std::from_chars(b, e, index);
    if (error != std::errc() || end != e || b == e || index < 0 || index > 127) return false;
  }
  if (type != "cpu" && type != "cuda") return false;
  if (type == "cuda" && colon == std::string::npos)  // the thread's current device
    if (Backend* b = backend_of(DeviceType::CUDA); b && b->device_count() > 1) index = b->current_device();
  d = {type == "cpu" ? DeviceType::CPU : DeviceType::CUDA, static_cast<std::int8_t>(type == "cpu" ? 0 : index)};
  return true;
}

}  // namespace

PyObject* dtype_object(DType t) { return Py_NewRef(g_dtypes[static_cast<int>(t)]); }

bool dtype_from(PyObject* o, DType& t) {
  for (int i = 0; i < kDTypeCount; ++i)
    if (g_dtypes[i] == o) {
      t = static_cast<DType>(i);
      return true;
    }
  if (o == reinterpret_cast<PyObject*>(&PyFloat_Type)) return t = DType::Float64, true;
  if (o == reinterpret_cast<PyObject*>(&PyLong_Type)) return t = DType::Int64, true;
  if (o == reinterpret_cast<PyObject*>(&PyBool_Type)) return t = DType::Bool, true;
  return false;
}

PyObject* device_object(Device d) { return py::cast(PyDevice(d)).release().ptr(); }

bool device_from(PyObject* o, Device& d) {
  if (PyUnicode_Check(o)) {
    const char* s = PyUnicode_AsUTF8(o);
    if (!s) {
      PyErr_Clear();
      return false;
    }
    return parse_device_text(s, d);
  }
  if (Py_TYPE(o) != g_device_type) return false;
  d = py::handle(o).cast<const PyDevice&>();
  return true;
}

Generator* generator_from(PyObject* o) {
  return Py_TYPE(o) == g_generator_type ? py::handle(o).cast<Generator*>() : nullptr;
}

namespace {

newfunc g_pybind_new = nullptr;
// pybind11 throws through the interpreter when its own base class is instantiated, as copy protocols 0 and 1 do.
PyObject* new_unless_base(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  if (reinterpret_cast<PyObject*>(type) != py::detail::get_internals().instance_base)
    return g_pybind_new(type, args, kwargs);
  PyErr_SetString(PyExc_TypeError, "expected a class that can be instantiated, got pybind11_object");
  return nullptr;
}
void protect_base() {
  auto* base = reinterpret_cast<PyTypeObject*>(py::detail::get_internals().instance_base);
  if (base->tp_new == new_unless_base) return;
  g_pybind_new = base->tp_new;
  base->tp_new = new_unless_base;
}

}  // namespace

void init_types(PyObject* module) {
  protect_base();
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  py::class_<PyDType>(m, "dtype", "An element type, such as pydlx.float32.")
      .def_property_readonly("is_floating_point", [](const PyDType& t) { return is_floating(t.value); })
      .def_property_readonly("is_complex", [](const PyDType&) { return false; })
      .def_property_readonly("is_signed",
                             [](const PyDType& t) { return t.value != DType::Bool && t.value != DType::UInt8; })
      .def_property_readonly("itemsize", [](const PyDType& t) { return itemsize(t.value); })
      .def("__repr__", [](const PyDType& t) { return std::string("pydlx.") + dtype_name(t.value); })
      .def("__reduce__", [](const PyDType& t) { return std::string(dtype_name(t.value)); })
      .def("__copy__", [](py::object self) { return self; })
      .def("__deepcopy__", [](py::object self, py::object) { return self; })
      .attr("__module__") = "pydlx";
  // There are no others than those below; dtype.__new__ would make one without a value.
  reinterpret_cast<PyTypeObject*>(m.attr("dtype").ptr())->tp_new = nullptr;
  for (int i = 0; i < kDTypeCount; ++i) {
    py::object o = py::cast(PyDType{static_cast<DType>(i)});
    m.attr(dtype_name(static_cast<DType>(i))) = o;
    g_dtypes[i] = o.release().ptr();
  }
  for (const auto& [alias, name] : {std::pair("float", "float32"),
                                    {"double", "float64"},
                                    {"half", "float16"},
                                    {"long", "int64"},
                                    {"int", "int32"},
                                    {"short", "int16"}})
    m.attr(alias) = m.attr(name);

  auto device =
      py::class_<PyDevice>(m, "device", "Where tensors live: device('cpu'), device('cuda', 0), device('cuda:0').");
  device
      .def(py::init([](py::object type, py::object index) {
             Device d;
             if (!device_from(type.ptr(), d) && !(py::isinstance<py::int_>(type) && index.is_none()))
               fail("device", "type", ErrorKind::Value, "expected 'cpu', 'cuda' or 'cuda:N', got ",
                    std::string(py::repr(type)));
             if (py::isinstance<py::int_>(type)) index = type, d.type = DeviceType::CUDA;
             if (!index.is_none()) {
               const auto i = index.cast<std::int64_t>();
               require(i >= 0 && i < 128, "device", "index", ErrorKind::Value, "expected 0 to 127, got ", i);
               d.index = d.is_cpu() ? std::int8_t{0} : static_cast<std::int8_t>(i);
             }
             return PyDevice(d);
           }),
           py::arg("type"), py::arg("index") = py::none())
      .def_property_readonly("type", [](const PyDevice& d) { return d.is_cpu() ? "cpu" : "cuda"; })
      .def_property_readonly(
          "index",
          [](const PyDevice& d) -> py::object { return d.is_cpu() ? py::object(py::none()) : py::int_(d.index); })
      .def("__eq__",
           [](const PyDevice& a, py::object b) {
             Device d;
             return Py_TYPE(b.ptr()) == g_device_type && device_from(b.ptr(), d) && static_cast<const Device&>(a) == d;
           })
      .def("__hash__", [](const PyDevice& d) { return static_cast<int>(d.type) * 256 + d.index; })
      .def("__str__", [](const PyDevice& d) { return d.str(); })
      .def("__repr__",
           [](const PyDevice& d) {
             return d.is_cpu() ? std::string("device(type='cpu')")
                               : "device(type='cuda', index=" + std::to_string(d.index) + ")";
           })
      .def("__enter__",
           [](const PyDevice& d) {
             if (!d.is_cpu()) require_backend(d);
             g_outer_devices.push_back(default_device());
             set_default_device(d);
             return d;
           })
      .def("__exit__",
           [](const PyDevice&, const py::args&) {
             require(!g_outer_devices.empty(), "device", "", ErrorKind::Runtime, "expected a block that was entered");
             set_default_device(g_outer_devices.back());
             g_outer_devices.pop_back();
           })
      .def("__reduce__", [device_class = py::handle(device)](const PyDevice& d) {
        return py::make_tuple(device_class, py::make_tuple(d.str()));
      });
  device.attr("__module__") = "pydlx";
  g_device_type = reinterpret_cast<PyTypeObject*>(device.ptr());

  m.def("_generator", [](const std::string& where, std::uint64_t seed, std::uint64_t offset) {
    auto g = std::make_unique<Generator>();
    require(parse_device_text(where, g->device), "Generator", "device", ErrorKind::Value, "expected a device, got ",
            where);
    g->set_state({seed, offset});
    return g;
  });
  auto generator = py::class_<Generator>(
      m, "Generator", "A stream of random numbers (Philox 4x32-10). Equal seeds give equal bits on every device.");
  generator
      .def(py::init([](py::object dev) {
             auto g = std::make_unique<Generator>();
             if (!dev.is_none() && !device_from(dev.ptr(), g->device))
               fail("Generator", "device", ErrorKind::Type, "expected a device, got ", std::string(py::repr(dev)));
             return g;
           }),
           py::arg("device") = py::none())
      .def(
          "manual_seed",
          [](py::object self, py::handle seed) {
            require(PyIndex_Check(seed.ptr()), "manual_seed", "seed", ErrorKind::Type, "expected an integer, got ",
                    Py_TYPE(seed.ptr())->tp_name);
            const auto bits = PyLong_AsUnsignedLongLongMask(seed.ptr());
            if (PyErr_Occurred()) throw py::error_already_set();
            self.cast<Generator&>().manual_seed(bits);
            return self;
          },
          py::arg("seed"), "Restarts the stream; returns the generator.")
      .def("initial_seed", &Generator::initial_seed)
      .def(
          "seed",
          [](Generator& g) {
            const auto s = py::module_::import("secrets").attr("randbits")(63).cast<std::uint64_t>();
            g.manual_seed(s);
            return s;
          },
          "Seeds from the operating system; returns the seed.")
      .def(
          "get_state",
          [](const Generator& g) {
            const PhiloxState s = g.state();
            const Tensor t = empty({sizeof s}, DType::UInt8);
            std::memcpy(t.data(), &s, sizeof s);
            return t;
          },
          "Seed and offset as a uint8 tensor.")
      .def(
          "set_state",
          [](Generator& g, py::handle state) {
            PhiloxState s;
            const Tensor t = is_tensor(state.ptr()) ? as_tensor(state.ptr()) : Tensor();
            require(t.defined() && t.dtype() == DType::UInt8 && t.sizes() == Dims{sizeof s} && t.is_cpu() &&
                        t.contiguous_layout(),
                    "set_state", "new_state", ErrorKind::Value, "expected a uint8 tensor of ", sizeof s,
                    " elements made by get_state()");
            std::memcpy(&s, t.data(), sizeof s);
            g.set_state(s);
            return &g;
          },
          py::arg("new_state"), py::return_value_policy::reference,
          "Restores a state made by get_state; returns the generator.")
      .def("clone_state",
           [](const Generator& g) {
             auto copy = std::make_unique<Generator>();
             copy->set_state(g.state());
             copy->device = g.device;
             return copy;
           })
      .def("_get_state", [](const Generator& g) { return py::make_tuple(g.state().seed, g.state().offset); })
      .def("_set_state", [](Generator& g, std::uint64_t seed, std::uint64_t offset) { g.set_state({seed, offset}); })
      .def_property_readonly("device", [](const Generator& g) { return PyDevice(g.device); })
      .def("__reduce__", [make = py::handle(m.attr("_generator"))](const Generator& g) {
        return py::make_tuple(make, py::make_tuple(g.device.str(), g.state().seed, g.state().offset));
      });
  generator.attr("__module__") = "pydlx";
  g_generator_type = reinterpret_cast<PyTypeObject*>(generator.ptr());
  m.attr("default_generator") = py::cast(&default_generator(), py::return_value_policy::reference);
}

}  // namespace pydlx::bind
