#include "bind/garbage.h"

#include "bind/hooks.h"

namespace pydlx::bind {

namespace {

int visit_hooks(const HookList* list, visitproc visit, void* arg) {
  if (!list) return 0;
  for (const auto& [id, hook] : list->hooks)
    if (const auto* h = hook.target<TensorHook>()) Py_VISIT(h->function.ptr());
  return 0;
}

}  // namespace

int visit_node(const Node& n, visitproc visit, void* arg) {
  if (n.use_count() != 1) return 0;
  if (n.is_custom()) {
    if (const int stop = visit_function(n, visit, arg)) return stop;
  }
  if (!n.hooks) return 0;
  for (const auto& [id, hook] : n.hooks->pre)
    if (const auto* h = hook.target<NodePreHook>()) Py_VISIT(h->function.ptr());
  for (const auto& [id, hook] : n.hooks->post)
    if (const auto* h = hook.target<NodePostHook>()) Py_VISIT(h->function.ptr());
  for (const auto& [nr, list] : n.hooks->tensor_hooks)
    if (list.use_count() == 1) {
      if (const int stop = visit_hooks(list.get(), visit, arg)) return stop;
    }
  return 0;
}

int visit_tensor(const TensorImpl& t, visitproc visit, void* arg) {
  // A gradient has a gradient of its own after create_graph: the chain is short, but need not be.
  for (const TensorImpl* p = &t; p && p->use_count() == 1 && p->meta; p = p->meta->grad.impl()) {
    const AutogradMeta& m = *p->meta;
    if (const int stop = visit_hooks(m.leaf_hooks.get(), visit, arg)) return stop;
    if (const int stop = visit_hooks(m.post_accumulate.get(), visit, arg)) return stop;
    if (m.grad_fn) {
      if (const int stop = visit_node(*m.grad_fn, visit, arg)) return stop;
    }
  }
  return 0;
}

void forget_python(TensorImpl& t) {
  if (!t.meta || t.use_count() != 1) return;
  // Into locals first: what dies here may run Python code that looks at the tensor.
  AutogradMeta& m = *t.meta;
  const auto leaf = std::move(m.leaf_hooks), post = std::move(m.post_accumulate);
  const Tensor grad = std::move(m.grad);
  const Ref<Node> fn = std::move(m.grad_fn);
  if (fn) t.requires_grad = false;
}

void forget_python(Node& n) {
  if (n.use_count() != 1) return;
  const auto hooks = std::move(n.hooks);
}

}  // namespace pydlx::bind
