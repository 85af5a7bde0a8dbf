// autograd.Function: gradients written in Python.
#include <set>

#include "bind/autograd.h"
#include "bind/caster.h"
#include "bind/errors.h"
#include "bind/garbage.h"
#include "bind/interpreter.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

namespace {

struct OutputInfo {
  Dims sizes;
  DType dtype;
  Device device;
};

// The Python side is `ctx` (an instance of FunctionCtx) and the user's class with its static method `backward`.
struct FunctionNode final : Node {
  FunctionNode(const std::string& label, py::object cls, py::object ctx)
      : Node(lasting(label)), cls(std::move(cls)), ctx(std::move(ctx)) {}
  ~FunctionNode() override {
    if (!Py_IsInitialized()) {  // the interpreter is gone: its objects must not be touched
      cls.release();
      ctx.release();
      return;
    }
    const InterpreterLock lock;
    cls = py::object();
    ctx = py::object();
  }
  bool is_custom() const override { return true; }
  void release_saved() override { saved.clear(); }

  void apply(Backward& bw) override {
    const InterpreterLock lock;
    leave_flight();
    py::tuple grads(outputs.size());
    const bool materialize = ctx.attr("materialize_grads").cast<bool>();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      Tensor g = bw.has_grad(i) ? bw.grad(i) : Tensor();
      if (!g.defined() && materialize) g = ops::full(outputs[i].sizes, 0, outputs[i].dtype, outputs[i].device);
      grads[i] = py::reinterpret_steal<py::object>(wrap(g));
    }
    py::tuple tensors(saved.size());
    for (std::size_t i = 0; i < saved.size(); ++i)
      tensors[i] = py::reinterpret_steal<py::object>(wrap(saved[i].get(bw)));
    ctx.attr("_saved") = tensors;
    py::object result = stay_at_shutdown([&]() -> py::object { return cls.attr("backward")(ctx, *grads); });
    ctx.attr("_saved") = py::none();
    if (!py::isinstance<py::tuple>(result)) result = py::make_tuple(result);
    const auto t = result.cast<py::tuple>();
    // One gradient per argument of forward; extra trailing Nones are allowed, as in PyTorch.
    std::size_t n = t.size();
    while (n > arguments && t[n - 1].is_none()) --n;
    require(n == arguments, name, "backward", ErrorKind::Gradient, "expected one gradient per argument of forward (",
            arguments, "), got ", n);
    for (std::size_t e = 0; e < positions.size(); ++e) {
      const py::object g = t[positions[e]];
      if (g.is_none() || !bw.needs(e)) continue;
      require(is_tensor(g.ptr()), name, "backward", ErrorKind::Gradient, "expected a tensor or None for argument ",
              positions[e], ", got ", Py_TYPE(g.ptr())->tp_name);
      Tensor v = as_tensor(g.ptr());
      const OutputInfo& in = inputs[e];
      if (v.sizes() != in.sizes) {
        require(broadcast_sizes(name, in.sizes, v.sizes()) == v.sizes(), name, "backward", ErrorKind::Shape,
                "expected a gradient of shape ", in.sizes, " for argument ", positions[e], ", got ", v.sizes());
        v = ops::sum_to(v, in.sizes);
      }
      bw.set(e, v.dtype() == in.dtype ? v : ops::to_dtype(v, in.dtype));
    }
  }

  // The name outlives the node: a tensor remembers which op wrote to it last.
  static const char* lasting(const std::string& label) {
    static auto* known = new std::set<std::string>;
    return known->insert(label).first->c_str();
  }

  py::object cls, ctx;
  std::size_t arguments = 0;
  std::vector<std::size_t> positions;  // edge -> argument of forward
  std::vector<OutputInfo> inputs, outputs;
  std::vector<Saved> saved;
};

OutputInfo info(const Tensor& t) { return {t.sizes(), t.dtype(), t.device()}; }

// Attaches a FunctionNode to the outputs of a forward that ran without recording. Returns the outputs in the form they
// came.
py::object record_function(py::object cls, py::object ctx, py::tuple args, py::object outputs, py::tuple to_save,
                           py::tuple dirty, py::tuple non_differentiable) {
  const bool single = !py::isinstance<py::tuple>(outputs) && !py::isinstance<py::list>(outputs);
  py::list outs;
  if (single)
    outs.append(outputs);
  else
    for (py::handle o : outputs) outs.append(o);

  Ref<FunctionNode> node(new FunctionNode(py::str(cls.attr("__name__")), cls, ctx));
  node->arguments = args.size();
  std::vector<Tensor> in;
  bool wanted = false;
  for (std::size_t i = 0; i < args.size(); ++i) {
    if (!is_tensor(py::handle(args[i]).ptr())) continue;
    in.push_back(as_tensor(py::handle(args[i]).ptr()));
    node->positions.push_back(i);
    node->inputs.push_back(info(in.back()));
    wanted |= in.back().requires_grad();
  }
  auto listed = [](const py::tuple& list, py::handle o) {
    for (py::handle e : list)
      if (e.ptr() == o.ptr()) return true;
    return false;
  };
  if (!wanted || !GradMode::enabled()) return outputs;
  std::vector<const Tensor*> pointers;
  for (const auto& t : in) pointers.push_back(&t);
  node->set_edges(pointers);
  node->output_count = static_cast<std::uint32_t>(outs.size());

  for (std::size_t i = 0; i < outs.size(); ++i) {
    const py::object o = outs[i];
    if (!is_tensor(o.ptr())) {
      node->outputs.push_back({});
      continue;
    }
    Tensor t = as_tensor(o.ptr());
    node->outputs.push_back(info(t));
    if (listed(non_differentiable, o) || !is_floating(t.dtype())) continue;
    if (listed(dirty, o)) {
      require(!t.impl()->base, node->name, "mark_dirty", ErrorKind::Gradient,
              "views cannot be changed in place by a custom function; clone() first");
      check_inplace(t, node->name);
      bump_version(t, node->name);
      set_history(t, Ref<Node>(node.get()), static_cast<std::uint32_t>(i));
      continue;
    }
    // An input handed through becomes a new tensor on the same memory, so that the input keeps its own history.
    if (listed(args, o) || t.requires_grad()) t = alias(t);
    set_history(t, Ref<Node>(node.get()), static_cast<std::uint32_t>(i));
    outs[i] = py::reinterpret_steal<py::object>(wrap(t));
  }
  for (py::handle s : to_save) {
    if (s.is_none()) {
      node->saved.emplace_back();
      continue;
    }
    require(is_tensor(s.ptr()), node->name, "save_for_backward", ErrorKind::Type, "expected tensors or None, got ",
            Py_TYPE(s.ptr())->tp_name, "; keep other values as attributes of ctx");
    const Tensor t = as_tensor(s.ptr());
    std::size_t output = outs.size();
    for (std::size_t i = 0; i < outs.size(); ++i)
      if (py::object(outs[i]).ptr() == s.ptr()) output = i;
    node->saved.push_back(output < outs.size() ? Saved(t, static_cast<std::uint32_t>(output)) : Saved(t));
  }
  if (single) return outs[0];
  return py::tuple(outs);
}

}  // namespace

int visit_function(const Node& n, visitproc visit, void* arg) {
  const auto* f = dynamic_cast<const FunctionNode*>(&n);
  if (!f) return 0;
  Py_VISIT(f->cls.ptr());
  Py_VISIT(f->ctx.ptr());
  return 0;
}

void init_function(PyObject* module) {
  py::module_ m = py::reinterpret_borrow<py::module_>(module);
  m.def("_record_function", &record_function, py::call_guard<Flight>());
}

}  // namespace pydlx::bind
