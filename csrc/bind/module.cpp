// The extension module pydlx._C.
#include <pybind11/pybind11.h>

#include <cstdio>

#include "bind/autocast.h"
#include "bind/autograd.h"
#include "bind/caster.h"
#include "bind/cuda.h"
#include "bind/errors.h"
#include "bind/interchange.h"
#include "bind/interpreter.h"
#include "bind/schema.h"
#include "bind/tensor_type.h"
#include "bind_families.h"  // generated: declares bind_<family> for every bind/ops_<family>.cpp, and bind_all
#include "core/backend.h"
#include "core/in_flight.h"
#include "core/parallel.h"
#include "core/precision.h"
#include "core/verbose.h"
#include "kernels/probe.h"
#include "ops/dispatch.h"

namespace pydlx::bind {

namespace {

// ---- hooks of the engine into the interpreter
// ------------------------------------------------------------------------------------

void* give_up_interpreter() { return Py_IsInitialized() && PyGILState_Check() ? PyEval_SaveThread() : nullptr; }
void* release_interpreter() {
  if (!Py_IsInitialized() || !PyGILState_Check() || !enter_flight()) return nullptr;
  return PyEval_SaveThread();
}
void acquire_interpreter(void* state) {
  stay_at_shutdown([=] { PyEval_RestoreThread(static_cast<PyThreadState*>(state)); });
}

py::dict build_info() {
  py::dict d;
  d["version"] = PYDLX_VERSION;
  d["compiler"] = __VERSION__;
  d["build_type"] = PYDLX_BUILD_TYPE;
  d["blas"] = PYDLX_BLAS_NAME;
  d["cuda"] = PYDLX_CUDA_NAME;  // version of the compiler, "emulated" or "none"
  d["openmp"] = _OPENMP;
  d["cpu_isa"] = kernels_for({}).name;
  py::list isas;
  for (const char* n : cpu_isas()) isas.append(n);
  d["cpu_isas"] = isas;
  d["threads"] = num_threads();
  d["hardware_threads"] = hardware_threads();
  return d;
}

}  // namespace

py::dict stats_dict(const AllocatorStats& s) {
  py::dict d;
  d["in_use"] = s.in_use;
  d["peak_in_use"] = s.peak_in_use;
  d["reserved"] = s.reserved;
  d["peak_reserved"] = s.peak_reserved;
  d["allocations"] = s.allocations;
  d["cache_hits"] = s.cache_hits;
  return d;
}

namespace {

// ---- limits of the machine, for the benchmark program (pydlx.bench.limits)

const ProbeKernels& probe(Device device) { return kernels<ProbeKernels>(device); }

// One-dimensional float32 tensors keep the probes' loops trivial; anything else is a mistake of the caller.
void check_probe(const char* op, const char* argument, const Tensor& t, std::int64_t n, std::int64_t repeats) {
  require(t.defined() && t.dtype() == DType::Float32 && t.contiguous_layout() && t.numel() == n, op, argument,
          ErrorKind::Value, "expected a contiguous float32 tensor of ", n, " elements");
  require(repeats >= 0, op, "repeats", ErrorKind::Value, "expected at least 0, got ", repeats);
}

double probe_fma(std::int64_t rounds, py::object where) {
  require(rounds >= 0, "_probe_fma", "rounds", ErrorKind::Value, "expected at least 0, got ", rounds);
  Device device;
  require(where.is_none() || device_from(where.ptr(), device), "_probe_fma", "device", ErrorKind::Type,
          "expected a device");
  return probe(device).fma(rounds);
}
void probe_read(const Tensor& from, std::int64_t repeats) {
  check_probe("_probe_read", "source", from, from.defined() ? from.numel() : 0, repeats);
  probe(from.device()).read(from.data_as<float>(), from.numel(), repeats);
}
void probe_copy(const Tensor& to, const Tensor& from, std::int64_t repeats) {
  check_probe("_probe_copy", "source", from, from.defined() ? from.numel() : 0, repeats);
  check_probe("_probe_copy", "target", to, from.numel(), repeats);
  require(to.device() == from.device(), "_probe_copy", "target", ErrorKind::Device, "expected ", from.device(),
          " like the source, got ", to.device());
  probe(from.device()).copy(to.data_as<float>(), from.data_as<float>(), from.numel(), repeats);
}

}  // namespace

}  // namespace pydlx::bind

PYBIND11_MODULE(_C, m) {
  using namespace pydlx;
  using namespace pydlx::bind;
  m.doc() = "The native core of pydlx.";
  init_errors(m.ptr());
  init_types(m.ptr());
  init_size(m.ptr());
  init_tensor_type(m.ptr());
  init_autograd(m.ptr());
  init_function(m.ptr());
  init_numpy(m.ptr());
  init_dlpack(m.ptr());
  init_cuda(m.ptr());
  init_autocast(m.ptr());

  OpRegistry registry;
  bind_all(registry);
  registry.finish(m.ptr());

  blocking_hooks() = {release_interpreter, acquire_interpreter};
  pause_interpreter = give_up_interpreter;
  init_callsite();

  py::register_exception_translator([](std::exception_ptr p) {
    if (!p) return;
    try {
      std::rethrow_exception(p);
    } catch (const Error&) {
      set_python_error();
    }
  });

  if (verbose_on)
    std::fprintf(stderr, "pydlx: %s; %d threads; BLAS %s\n", describe_cpu_path().c_str(), num_threads(),
                 PYDLX_BLAS_NAME);

  m.def(
      "memory_stats", [] { return stats_dict(cpu_allocator().stats()); },
      "Bytes in use, cached and at peak of the CPU allocator.");
  m.def("empty_cache", [] { cpu_allocator().empty_cache(); }, "Returns cached CPU memory to the system.");
  m.def("reset_peak_memory_stats", [] { cpu_allocator().reset_peak(); });
  m.def("get_num_threads", &num_threads);
  m.def("set_num_threads", [](py::handle n) {
    int overflow = 0;
    const long v = PyIndex_Check(n.ptr()) ? PyLong_AsLongAndOverflow(n.ptr(), &overflow) : -1;
    if (PyErr_Occurred()) throw py::error_already_set();
    require(PyIndex_Check(n.ptr()), "set_num_threads", "n", ErrorKind::Type, "expected an integer, got ",
            Py_TYPE(n.ptr())->tp_name);
    set_num_threads(overflow || v != static_cast<int>(v) ? 0 : static_cast<int>(v));
  });
  m.def("_probe_fma", &probe_fma, py::arg("rounds"), py::arg("device") = py::none());
  m.def("_probe_read", &probe_read);
  m.def("_probe_copy", &probe_copy);
  m.def("_set_matmul_precision", [](int p) { set_matmul_precision(static_cast<MatmulPrecision>(p)); });
  m.def("_set_conv_tf32", &set_conv_tf32);
  m.def("_conv_tf32", &conv_tf32);
  m.def("_matmul_precision", [] { return static_cast<int>(matmul_precision()); });
  m.def("_set_cpu_isa", [](const std::string& s) { set_cpu_isa(s.c_str()); });
  m.def("get_default_dtype", [] { return py::reinterpret_steal<py::object>(dtype_object(default_dtype())); });
  m.def("set_default_dtype", [](py::handle h) {
    DType t;
    require(dtype_from(h.ptr(), t) && is_floating(t), "set_default_dtype", "d", ErrorKind::Type,
            "expected a floating point dtype");
    set_default_dtype(t);
  });
  m.def(
      "get_default_device", [] { return py::reinterpret_steal<py::object>(device_object(default_device())); },
      "Where factory functions put tensors by default.");
  m.def("set_default_device", [](py::handle h) {
    Device d;
    require(h.is_none() || device_from(h.ptr(), d), "set_default_device", "device", ErrorKind::Type,
            "expected a device such as 'cpu' or 'cuda:0', or None");
    if (!d.is_cpu()) require_backend(d);
    set_default_device(d);
  });
  registry.list_public(m.ptr());
  m.def("build_info", &build_info, "Version, compiler, BLAS, CPU path, threads.");  // public as pydlx.__config__
}
