#include "bind/autograd.h"

#include <algorithm>

#include "autograd/engine.h"
#include "bind/caster.h"
#include "bind/garbage.h"
#include "bind/hooks.h"
#include "bind/interpreter.h"
#include "bind/schema.h"
#include "core/in_flight.h"

namespace pydlx::bind {

namespace {

// A node as Python sees it: `grad_fn`.
struct PyNode {
  Ref<Node> node;
};

std::string class_name(const Node& n) {
  if (n.is_accumulator()) return "AccumulateGrad";
  if (n.is_custom()) return std::string(n.name) + "Backward";
  std::string s;
  bool upper = true;
  for (const char* p = n.name; *p; ++p) {
    if (*p == '_') {
      upper = true;
      continue;
    }
    s += upper ? static_cast<char>(std::toupper(*p)) : *p;
    upper = false;
  }
  return s + "Backward0";
}

TensorList tensors_from(py::handle h, bool none_allowed, const char* op, const char* argument) {
  TensorList out;
  if (h.is_none()) return out;
  if (is_tensor(h.ptr())) return {as_tensor(h.ptr())};
  if (!PyTuple_Check(h.ptr()) && !PyList_Check(h.ptr()))
    fail(op, argument, ErrorKind::Type, "expected a tensor or a list of tensors, got ", Py_TYPE(h.ptr())->tp_name);
  for (py::handle e : h) {
    if (e.is_none() && none_allowed) {
      out.emplace_back();
      continue;
    }
    if (!is_tensor(e.ptr())) fail(op, argument, ErrorKind::Type, "expected tensors, got ", Py_TYPE(e.ptr())->tp_name);
    out.push_back(as_tensor(e.ptr()));
  }
  return out;
}

py::tuple tuple_of(const std::vector<Tensor>& ts) {
  py::tuple t(ts.size());
  for (std::size_t i = 0; i < t.size(); ++i) t[i] = py::reinterpret_steal<py::object>(wrap(ts[i]));
  return t;
}

// What a hook of a node returned in place of `now`.
void replace_gradients(const char* hook, std::vector<Tensor>& now, const py::object& returned) {
  if (returned.is_none()) return;
  TensorList replaced = tensors_from(returned, true, hook, "result");
  require(replaced.size() == now.size(), hook, "", ErrorKind::Value, "expected ", now.size(), " gradients, got ",
          replaced.size());
  now = std::move(replaced);
}

NodeHooks& hooks_of(const PyNode& n) {
  if (!n.node->hooks) n.node->hooks = std::make_unique<NodeHooks>();
  return *n.node->hooks;
}

// The node behind a Python object; null while the object is being made.
Node* node_of(PyObject* o) {
  auto* instance = reinterpret_cast<py::detail::instance*>(o);
  if (!instance->get_value_and_holder().holder_constructed()) return nullptr;
  return py::cast<PyNode&>(py::handle(o)).node.get();
}
int traverse_node(PyObject* o, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(o));
  const Node* n = node_of(o);
  return n ? visit_node(*n, visit, arg) : 0;
}
int clear_node(PyObject* o) {
  if (Node* n = node_of(o)) forget_python(*n);
  return 0;
}

}  // namespace

Tensor TensorHook::operator()(const Tensor& gradient) const {
  leave_flight();
  const auto g = py::reinterpret_steal<py::object>(wrap(gradient));
  const py::object r = stay_at_shutdown([&] { return function(g); });
  if (r.is_none()) return {};
  require(is_tensor(r.ptr()), "hook", "", ErrorKind::Type, "expected a hook to return a tensor or None, got ",
          Py_TYPE(r.ptr())->tp_name);
  return as_tensor(r.ptr());
}

void NodePreHook::operator()(std::vector<Tensor>& grad_outputs) const {
  leave_flight();
  const auto outputs = tuple_of(grad_outputs);
  replace_gradients("prehook", grad_outputs, stay_at_shutdown([&] { return function(outputs); }));
}

void NodePostHook::operator()(std::vector<Tensor>& grad_inputs, const std::vector<Tensor>& grad_outputs) const {
  leave_flight();
  const auto inputs = tuple_of(grad_inputs), outputs = tuple_of(grad_outputs);
  replace_gradients("hook", grad_inputs, stay_at_shutdown([&] { return function(inputs, outputs); }));
}

Ref<PackedTensor> TensorKeeper::pack(const Tensor& t) {
  leave_flight();
  const auto tensor = py::reinterpret_steal<py::object>(wrap(t));
  const Ref<TensorKeeper> alive(this);  // the function may end the block
  return Ref<PackedTensor>(new KeptTensor(stay_at_shutdown([&] { return pack_function(tensor); }), unpack_function));
}

Tensor KeptTensor::unpack() const {
  leave_flight();
  const py::object function = unpack_function, packed = value;  // the call may free this
  const py::object r = stay_at_shutdown([&] { return function(packed); });
  require(is_tensor(r.ptr()), "saved_tensors_hooks", "unpack_hook", ErrorKind::Type,
          "expected it to return a tensor, got ", Py_TYPE(r.ptr())->tp_name);
  return as_tensor(r.ptr());
}

PyObject* wrap_node(const Ref<Node>& node) {
  if (!node) Py_RETURN_NONE;
  return py::cast(PyNode{node}).release().ptr();
}

void init_autograd(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  py::class_<PyNode>(m, "Node", "A recorded operation.", py::custom_type_setup([](PyHeapTypeObject* type) {
                       type->ht_type.tp_flags |= Py_TPFLAGS_HAVE_GC;
                       type->ht_type.tp_traverse = traverse_node;
                       type->ht_type.tp_clear = clear_node;
                     }))
      .def("name", [](const PyNode& n) { return class_name(*n.node); })
      .def_property_readonly("next_functions",
                             [](const PyNode& n) {
                               py::tuple t(n.node->edge_count());
                               for (std::size_t i = 0; i < t.size(); ++i) {
                                 const Edge& e = n.node->edges()[i];
                                 t[i] =
                                     py::make_tuple(py::reinterpret_steal<py::object>(wrap_node(e.node)), e.input_nr);
                               }
                               return t;
                             })
      .def_property_readonly("_sequence_nr", [](const PyNode& n) { return n.node->sequence; })
      // Python's register_hook and register_prehook make handles of these numbers.
      .def("_add_prehook",
           [](const PyNode& n, py::object f) {
             NodeHooks& h = hooks_of(n);
             h.pre.emplace_back(h.next_id, NodePreHook{std::move(f)});
             return h.next_id++;
           })
      .def("_add_hook",
           [](const PyNode& n, py::object f) {
             NodeHooks& h = hooks_of(n);
             h.post.emplace_back(h.next_id, NodePostHook{std::move(f)});
             return h.next_id++;
           })
      .def("_remove_hook",
           [](const PyNode& n, std::int64_t id) {
             NodeHooks& h = hooks_of(n);
             const auto has_id = [id](const auto& entry) { return entry.first == id; };
             // Dropped only after the lists are consistent again: freeing a function may run any code.
             std::vector<std::pair<std::int64_t, NodeHooks::PreHook>> pre;
             std::vector<std::pair<std::int64_t, NodeHooks::PostHook>> post;
             if (const auto i = std::find_if(h.pre.begin(), h.pre.end(), has_id); i != h.pre.end()) {
               pre.push_back(std::move(*i));
               h.pre.erase(i);
             }
             if (const auto i = std::find_if(h.post.begin(), h.post.end(), has_id); i != h.post.end()) {
               post.push_back(std::move(*i));
               h.post.erase(i);
             }
           })
      .def("__eq__", [](const PyNode& a, const PyNode& b) { return a.node == b.node; })
      .def("__hash__", [](const PyNode& n) { return reinterpret_cast<std::uintptr_t>(n.node.get()); })
      .def("__repr__", [](const PyNode& n) { return "<" + class_name(*n.node) + ">"; });
  // Nodes come from recorded operations only; Node.__new__ would make one of nothing.
  reinterpret_cast<PyTypeObject*>(m.attr("Node").ptr())->tp_new = nullptr;

  m.def("_is_grad_enabled", &GradMode::enabled);
  m.def("_set_grad_enabled", &GradMode::set);
  m.def("_is_inference_mode", &InferenceMode::enabled);
  m.def("_set_inference_mode", &InferenceMode::set);
  m.def("_set_anomaly", &set_anomaly);
  m.def("_anomaly_enabled", &anomaly_enabled);
  m.def("_anomaly_checks_nan", &anomaly_checks_nan);
  m.def(
      "_backward",
      [](py::handle roots, py::handle grads, bool retain_graph, bool create_graph, py::handle inputs) {
        TensorList r = tensors_from(roots, false, "backward", "tensors"),
                   g = tensors_from(grads, true, "backward", "grad_tensors");
        if (g.empty()) g.resize(r.size());
        run_backward(r, g, tensors_from(inputs, false, "backward", "inputs"), {retain_graph, create_graph});
      },
      py::call_guard<Flight>());
  m.def(
      "_grad",
      [](py::handle roots, py::handle inputs, py::handle grads, bool retain_graph, bool create_graph) {
        TensorList r = tensors_from(roots, false, "grad", "outputs"),
                   g = tensors_from(grads, true, "grad", "grad_outputs");
        if (g.empty()) g.resize(r.size());
        const TensorList result =
            run_grad(r, g, tensors_from(inputs, false, "grad", "inputs"), {retain_graph, create_graph});
        py::tuple t(result.size());
        for (std::size_t i = 0; i < result.size(); ++i) t[i] = py::reinterpret_steal<py::object>(wrap(result[i]));
        return t;
      },
      py::call_guard<Flight>());
  m.def("_add_hook", [](const Tensor& t, py::object f) { return add_tensor_hook(t, TensorHook{std::move(f)}); });
  m.def("_add_post_accumulate_hook",
        [](const Tensor& t, py::object f) { return add_post_accumulate_hook(t, TensorHook{std::move(f)}); });
  m.def("_remove_hook", &remove_tensor_hook);
  m.def("_push_saved_tensors_hooks", [](py::object pack, py::object unpack) {
    push_saved_tensor_hooks(Ref<SavedTensorHooks>(new TensorKeeper(std::move(pack), std::move(unpack))));
  });
  m.def("_pop_saved_tensors_hooks", &pop_saved_tensor_hooks);
  m.def("_saved_tensors_hooks", []() -> py::object {
    const auto* keeper = dynamic_cast<const TensorKeeper*>(saved_tensor_hooks());
    if (!keeper) return py::none();
    return py::make_tuple(keeper->pack_function, keeper->unpack_function);
  });
  m.def("_retain_grad", &retain_grad);
}

}  // namespace pydlx::bind
