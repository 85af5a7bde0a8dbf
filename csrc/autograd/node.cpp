#include "autograd/node.h"

#include <atomic>
#include <thread>

#include "autograd/engine.h"
#include "autograd/leaf_casts.h"
#include "core/parallel.h"
#include "ops/elementwise.h"
#include "ops/views.h"

namespace pydlx {

namespace {
std::atomic<std::uint64_t> g_sequence{1};
std::atomic<std::int64_t> g_hook_id{1};
std::atomic<int> g_anomaly{0};
thread_local std::vector<Node*>* t_doomed = nullptr;
}  // namespace

bool anomaly_enabled() noexcept { return g_anomaly.load(std::memory_order_relaxed) != 0; }
bool anomaly_checks_nan() noexcept { return g_anomaly.load(std::memory_order_relaxed) == 2; }
void set_anomaly(bool on, bool check_nan) noexcept { g_anomaly.store(on ? (check_nan ? 2 : 1) : 0); }

Node::Node(const char* op_name)
    : name(op_name), sequence(g_sequence.fetch_add(1, std::memory_order_relaxed)), site(current_callsite()) {}

void destroy(Node* n) noexcept {
  if (t_doomed) {
    t_doomed->push_back(n);
    return;
  }
  std::vector<Node*> doomed{n};
  t_doomed = &doomed;
  while (!doomed.empty()) {
    Node* next = doomed.back();
    doomed.pop_back();
    delete next;  // may push its parents
  }
  t_doomed = nullptr;
}

void Node::set_edge_count(std::size_t n) {
  if (n > kInline) edges_ = std::make_unique<Edge[]>(n);
  edge_count_ = static_cast<std::uint32_t>(n);
}

void Node::set_edges(std::span<const Tensor* const> inputs) {
  set_edge_count(inputs.size());
  Edge* e = edge_begin();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& t = *inputs[i];
    if (t.defined() && t.requires_grad()) e[i] = gradient_edge(t);
  }
}

std::int64_t HookList::add(GradHook hook) {
  const auto id = g_hook_id.fetch_add(1);
  hooks.emplace_back(id, std::move(hook));
  return id;
}
void HookList::remove(std::int64_t id) {
  std::erase_if(hooks, [&](const auto& h) { return h.first == id; });
}
Tensor HookList::run(Tensor grad) const {
  const auto copy = hooks;  // a hook may remove itself
  for (const auto& [id, hook] : copy) {
    Tensor r = hook(grad);
    if (!r.defined()) continue;
    require(r.sizes() == grad.sizes() && r.dtype() == grad.dtype(), "hook", "", ErrorKind::Gradient,
            "expected a gradient of shape ", grad.sizes(), " and dtype ", grad.dtype(), ", got ", r.sizes(), " and ",
            r.dtype());
    grad = std::move(r);
  }
  return grad;
}
void HookList::call(const Tensor& t) const {
  const auto copy = hooks;
  for (const auto& [id, hook] : copy) hook(t);
}

// ---- saved tensors
// ---------------------------------------------------------------------------------------------------------------

namespace {

Ref<PackedTensor> packed(SavedTensorHooks& hooks, const Tensor& t) {
  const GradModeGuard plain(false);
  const std::uint32_t version = t.version();
  Ref<PackedTensor> p = hooks.pack(t);
  require(t.version() == version, "saved_tensors_hooks", "pack_hook", ErrorKind::Gradient,
          "expected it to leave the tensor as it is, but it was changed in place; change a clone()");
  p->geometry = geometry_key(*t.impl());
  return p;
}

thread_local std::vector<Ref<SavedTensorHooks>>* t_hooks = nullptr;  // while there are any

}  // namespace

SavedTensorHooks* saved_tensor_hooks() noexcept { return t_hooks ? t_hooks->back().get() : nullptr; }
void push_saved_tensor_hooks(Ref<SavedTensorHooks> hooks) {
  if (!t_hooks) t_hooks = new std::vector<Ref<SavedTensorHooks>>;
  t_hooks->push_back(std::move(hooks));
}
void pop_saved_tensor_hooks() {
  require(t_hooks != nullptr, "saved_tensors_hooks", "", ErrorKind::Runtime, "expected hooks of this thread to be set");
  const Ref<SavedTensorHooks> last = std::move(t_hooks->back());  // freed after the list is in order
  t_hooks->pop_back();
  if (t_hooks->empty()) delete std::exchange(t_hooks, nullptr);
}

Saved::Saved(const Tensor& t) : version_(t.version()) {
  require(!t.impl()->inference, "save", "", ErrorKind::Gradient,
          "inference tensors cannot be saved for backward; make the tensor outside inference_mode, or clone it first");
  SavedTensorHooks* hooks = saved_tensor_hooks();
  if (hooks && !t.impl()->wrapped_number) [[unlikely]] {  // a number of the operation's own is no tensor to its caller
    kind_ = Kind::interior;
    const bool leaf = t.requires_grad() && is_leaf(t);
    packed_ = packed(*hooks, leaf ? t : detach(t));
    if (t.requires_grad()) {
      const Edge source = gradient_edge(t);
      grad_fn_ = source.node;
      output_nr_ = source.input_nr;
    }
    return;
  }
  if (t.requires_grad() && is_leaf(t)) {
    impl_ = t.ref();
    output_nr_ = geometry_key(*t.impl());
    return;
  }
  kind_ = Kind::interior;
  impl_ = detach(t).ref();
  if (t.requires_grad()) {
    grad_fn_ = grad_fn_of(t);
    output_nr_ = t.impl()->meta->output_nr;
  }
}
Saved::Saved(const Tensor& output, std::uint32_t output_nr)
    : version_(output.version()), output_nr_(output_nr), kind_(Kind::output) {
  if (SavedTensorHooks* hooks = saved_tensor_hooks()) [[unlikely]]
    packed_ = packed(*hooks, alias(output));
  else
    impl_ = alias(output).ref();
}

Tensor Saved::unpacked(const Backward& bw) const {
  const Tensor t = [&] {
    const GradModeGuard plain(false);
    return packed_->unpack();
  }();
  require(geometry_key(*t.impl()) == packed_->geometry, bw.node.name, "", ErrorKind::Gradient,
          "a hook that unpacks saved tensors gave one of another shape or dtype: ", t.sizes(), ", ", t.dtype());
  const Ref<Node> source = kind_ == Kind::output ? Ref<Node>(&bw.node) : grad_fn_;
  Tensor result = alias(t);
  if (source && GradMode::enabled()) set_history(result, source, output_nr_);
  return result;
}

std::uint64_t& saved_reads() noexcept {
  static thread_local std::uint64_t count = 0;
  return count;
}

Tensor Saved::get(const Backward& bw) const {
  ++saved_reads();
  if (packed_) [[unlikely]]
    return unpacked(bw);
  if (!impl_) return {};
  const Storage& s = *impl_->storage;
  if (s.version != version_) [[unlikely]] {
    fail(bw.node.name, "", ErrorKind::Gradient, "a ", impl_->dtype, " tensor of shape ", impl_->sizes,
         " needed for the gradient",
         bw.node.site ? " (recorded at " + describe_callsite(bw.node.site) + ")" : std::string(),
         " was modified by an in-place operation: ", s.last_writer ? s.last_writer : "unknown",
         s.last_write_site ? " (at " + describe_callsite(s.last_write_site) + ")" : std::string(),
         "; expected version ", std::size_t{version_}, ", got ", std::size_t{s.version},
         ". Use the out-of-place form or clone() before changing it");
  }
  require(kind_ != Kind::leaf || geometry_key(*impl_) == output_nr_, bw.node.name, "", ErrorKind::Gradient,
          "a tensor needed for the gradient was given data of another shape or dtype: it now has shape ", impl_->sizes,
          " and dtype ", impl_->dtype, "; change it after backward()");
  if (kind_ == Kind::leaf || !GradMode::enabled()) return Tensor(impl_);
  const Ref<Node> source = kind_ == Kind::output ? Ref<Node>(&bw.node) : grad_fn_;
  if (!source) return Tensor(impl_);
  Tensor t = alias(Tensor(impl_));
  set_history(t, source, output_nr_);
  return t;
}

// ---- leaves
// ----------------------------------------------------------------------------------------------------------------------

namespace {

struct AccumulateGrad final : Node {
  explicit AccumulateGrad(Ref<TensorImpl> v) : Node("accumulate_grad"), variable(std::move(v)) {
    sequence = ~std::uint64_t{0};  // ready leaves go first: their gradient buffers are released soonest
  }
  ~AccumulateGrad() override {
    if (variable->meta && variable->meta->accumulator == this) variable->meta->accumulator = nullptr;
  }
  bool is_accumulator() const override { return true; }

  void apply(Backward& bw) override {
    Tensor g = bw.grad();
    if (!g.defined()) return;
    AutogradMeta& m = *variable->meta;
    const Tensor self{Ref<TensorImpl>(variable.get())};
    require(g.sizes() == self.sizes(), "backward", "", ErrorKind::Gradient, "expected a gradient of shape ",
            self.sizes(), " for the leaf, got ", g.sizes());
    if (m.leaf_hooks) g = m.leaf_hooks->run(std::move(g));
    if (m.grad.defined() && !hooks && !bw.create_graph && LeafGradients::keep(self, g)) return;
    add_to_grad(self, g, bw.create_graph, g.ref()->use_count() <= 2);
    if (m.post_accumulate) m.post_accumulate->call(self);
  }

  Ref<TensorImpl> variable;
};

// Kernels give the interpreter lock up, so two threads may be adding to one `.grad` at a time, and one sum would be
// lost. A thread that finds the gradient taken waits without that lock, which the other one needs to finish. Finalizers
// may run in between and come back here on the same thread; those do not wait for themselves.
class GradLock {
 public:
  explicit GradLock(std::atomic<const void*>& owner) : owner_(owner) {
    static thread_local char self;
    const void* seen = nullptr;
    if (owner_.compare_exchange_strong(seen, &self, std::memory_order_acquire)) return;
    if (seen == &self) {
      held_ = false;
      return;
    }
    const BlockingHooks& hooks = blocking_hooks();
    void* token = hooks.release ? hooks.release() : nullptr;
    do {
      std::this_thread::yield();
      seen = nullptr;
    } while (!owner_.compare_exchange_weak(seen, &self, std::memory_order_acquire));
    if (token) hooks.acquire(token);
  }
  ~GradLock() {
    if (held_) owner_.store(nullptr, std::memory_order_release);
  }
  GradLock(const GradLock&) = delete;

 private:
  std::atomic<const void*>& owner_;
  bool held_ = true;
};

}  // namespace

void add_to_grad(const Tensor& t, const Tensor& g, bool create_graph, bool own) {
  AutogradMeta& m = autograd_meta(t);
  Tensor replaced;  // dies after the lock: its memory may belong to Python
  const GradLock lock(m.adding);
  if (!m.grad.defined()) {
    own = own && !create_graph && g.impl()->storage->use_count() == 1 && g.strides() == t.strides() &&
          g.dtype() == t.dtype() && !g.impl()->wrapped_number;
    if (own)
      m.grad = g.requires_grad() ? detach(g) : g;
    else
      m.grad = create_graph ? ops::clone(g) : detach(ops::clone_as(g, t));
  } else if (create_graph) {
    replaced = std::exchange(m.grad, ops::add(m.grad, g));
  } else {
    const GradModeGuard off(false);
    Tensor target = detach(m.grad);
    ops::add_(target, g);
  }
}

AutogradMeta& autograd_meta(const Tensor& t) {
  if (!t.impl()->meta) t.impl()->meta = std::make_unique<AutogradMeta>();
  return *t.impl()->meta;
}

const Tensor& grad_of(const Tensor& t) {
  static const Tensor none;
  return t.impl()->meta ? t.impl()->meta->grad : none;
}

bool is_leaf(const Tensor& t) {
  if (!t.requires_grad()) return true;
  if (t.impl()->base) return !grad_fn_of(t);
  return !t.impl()->meta || !t.impl()->meta->grad_fn;
}

void set_requires_grad(const Tensor& t, bool on) {
  if (t.requires_grad() == on) return;
  require(!on || is_floating(t.dtype()), "requires_grad_", "", ErrorKind::DType,
          "expected a floating point tensor, got ", t.dtype(), "; only floating point tensors can require gradients");
  require(on || is_leaf(t), "requires_grad_", "", ErrorKind::Gradient,
          "expected a leaf tensor, got the result of an operation; use detach() to get a tensor without gradient");
  require(!(on && t.impl()->inference), "requires_grad_", "", ErrorKind::Gradient,
          "inference tensors cannot require gradients; make the tensor outside inference_mode");
  if (on) autograd_meta(t);
  t.impl()->requires_grad = on;
}

Edge gradient_edge(const Tensor& t) {
  TensorImpl& impl = *t.impl();
  if (!t.requires_grad()) return {};
  AutogradMeta& m = autograd_meta(t);
  if (impl.base) grad_fn_of(t);  // refresh
  const std::uint32_t geometry = geometry_key(impl);
  if (m.grad_fn) return {m.grad_fn, m.output_nr, geometry};
  if (m.accumulator && m.accumulator->try_retain()) return {Ref<Node>::adopt(m.accumulator), 0, geometry};
  Ref<Node> node(new AccumulateGrad(t.ref()));
  m.accumulator = node.get();
  return {std::move(node), 0, geometry};
}

// After a change in place, the gradient to keep is that of the new value.
static void keep_retaining(const Tensor& t) {
  AutogradMeta& m = *t.impl()->meta;
  if (!m.retains_grad) [[likely]]
    return;
  m.retains_grad = false;
  retain_grad(t);
}

Ref<Node> grad_fn_of(const Tensor& t) {
  TensorImpl& impl = *t.impl();
  const bool follows = impl.base && impl.base->requires_grad && !impl.made_without_grad;
  if (!impl.meta && !follows) return {};
  AutogradMeta& m = autograd_meta(t);
  if (follows && m.view_version != impl.storage->version) {
    const Tensor base(impl.base);
    if (base.impl()->meta && base.impl()->meta->grad_fn) {
      // The base was changed in place since: this view now is a strided window onto the new base.
      m.grad_fn = ops::as_strided_node(base, t.sizes(), t.strides(), t.offset());
      m.output_nr = 0;
      impl.requires_grad = true;
    }
    m.view_version = impl.storage->version;
    keep_retaining(t);
  }
  return m.grad_fn;
}

void set_history(Tensor& output, const Ref<Node>& node, std::uint32_t output_nr) {
  AutogradMeta& m = autograd_meta(output);
  m.grad_fn = node;
  m.output_nr = output_nr;
  m.view_version = output.version();
  output.impl()->requires_grad = true;
  keep_retaining(output);
}

bool any_requires_grad(const TensorList& ts) {
  if (!GradMode::enabled()) return false;
  for (const auto& t : ts)
    if (t.defined() && t.requires_grad()) return true;
  return false;
}

// ---- in-place changes
// ------------------------------------------------------------------------------------------------------------

void check_inplace(const Tensor& t, const char* op) {
  const TensorImpl& impl = *t.impl();
  require(!impl.storage->read_only, op, "input", ErrorKind::Runtime,
          "expected a writable tensor, got one that shares read-only memory; use clone() first");
  require(!may_self_overlap(impl.sizes, impl.strides), op, "input", ErrorKind::Runtime,
          "expected a tensor whose elements are all distinct in memory, got an expanded view of shape ", impl.sizes,
          "; use clone() before writing to it");
  if (!GradMode::enabled()) return;
  require(!(impl.inference && !InferenceMode::enabled()), op, "input", ErrorKind::Gradient,
          "inference tensors may only be changed inside inference_mode; clone it first");
  if (impl.requires_grad && is_leaf(t) && !impl.base)
    fail(op, "input", ErrorKind::Gradient,
         "a leaf tensor that requires grad is being changed in place; wrap the change in no_grad(), or use the "
         "out-of-place form");
  if (impl.base) {
    const Tensor base(impl.base);
    if (base.requires_grad() && is_leaf(base))
      fail(op, "input", ErrorKind::Gradient,
           "a view of a leaf tensor that requires grad is being changed in place; wrap the change in no_grad(), or "
           "clone() first");
    if (impl.made_without_grad && base.requires_grad())
      fail(op, "input", ErrorKind::Gradient,
           "this view came from no_grad mode or from an op with several outputs, so it cannot be changed in place "
           "while gradients "
           "are recorded; use the out-of-place form");
  }
}

namespace {

// Gradient of "write into a window of the base": the window's gradient goes through the in-place op, the rest passes
// unchanged.
struct CopySlices final : Node {
  CopySlices(Ref<Node> inner, Dims base_sizes, Dims base_strides, std::int64_t base_offset, Dims sizes, Dims strides,
             std::int64_t offset)
      : Node(inner->name),
        inner(std::move(inner)),
        base_sizes(std::move(base_sizes)),
        base_strides(std::move(base_strides)),
        base_offset(base_offset),
        sizes(std::move(sizes)),
        strides(std::move(strides)),
        offset(offset) {}

  void apply(Backward& bw) override {
    const Tensor& g = bw.grad();
    if (!g.defined()) return;
    // as_strided_scatter works on the base's own layout, so bring the gradient into it.
    Tensor full = ops::clone_with_strides(g, base_strides);
    const std::int64_t shift = full.offset() - base_offset;
    Tensor window = ops::clone(ops::as_strided(full, sizes, strides, offset + shift));
    std::vector<Tensor> grads{window}, results(inner->edge_count());
    std::vector<char> needed(inner->edge_count());
    for (std::size_t i = 0; i < needed.size(); ++i) needed[i] = bw.needs(i);
    Backward sub(*inner, grads, results, needed, bw.create_graph);
    inner->apply(sub);
    for (std::size_t i = 1; i < results.size(); ++i)
      if (bw.needs(i)) bw.set(i, results[i]);
    if (bw.needs(0)) {
      Tensor r = results[0].defined() ? results[0] : ops::zeros_like(window);
      bw.set(0, ops::as_strided_scatter(full, r, sizes, strides, offset + shift));
    }
  }
  void release_saved() override { inner->release_saved(); }

  Ref<Node> inner;
  Dims base_sizes, base_strides;
  std::int64_t base_offset;
  Dims sizes, strides;
  std::int64_t offset;
};

}  // namespace

void set_history_inplace(Tensor& changed, const Ref<Node>& node) {
  TensorImpl& impl = *changed.impl();
  if (!impl.base) {
    set_history(changed, node);
    return;
  }
  Tensor base(impl.base);
  // Edge 0 of every in-place node is the changed tensor itself; it is rerouted to the base's history.
  Ref<Node> slices(
      new CopySlices(node, base.sizes(), base.strides(), base.offset(), impl.sizes, impl.strides, impl.offset));
  slices->set_edge_count(node->edge_count());
  for (std::size_t i = 1; i < node->edge_count(); ++i) slices->edge_begin()[i] = node->edges()[i];
  slices->edge_begin()[0] = gradient_edge(base);
  node->edge_begin()[0] = {};
  set_history(base, slices);
  AutogradMeta& m = autograd_meta(changed);
  m.grad_fn = ops::as_strided_node(base, impl.sizes, impl.strides, impl.offset);
  m.output_nr = 0;
  m.view_version = impl.storage->version;
  impl.requires_grad = true;
  keep_retaining(changed);
}

// ---- hooks
// -----------------------------------------------------------------------------------------------------------------------

namespace {
HookList& hooks_of(const Tensor& t) {
  AutogradMeta& m = autograd_meta(t);
  Ref<Node> fn = grad_fn_of(t);
  if (!fn) {
    if (!m.leaf_hooks) m.leaf_hooks = std::make_unique<HookList>();
    return *m.leaf_hooks;
  }
  if (!fn->hooks) fn->hooks = std::make_unique<NodeHooks>();
  for (auto& [nr, list] : fn->hooks->tensor_hooks)
    if (nr == m.output_nr) return *list;
  fn->hooks->tensor_hooks.emplace_back(m.output_nr, std::make_shared<HookList>());
  return *fn->hooks->tensor_hooks.back().second;
}
}  // namespace

std::int64_t add_tensor_hook(const Tensor& t, GradHook hook) {
  require(t.requires_grad(), "register_hook", "", ErrorKind::Gradient, "expected a tensor that requires a gradient");
  return hooks_of(t).add(std::move(hook));
}
void remove_tensor_hook(const Tensor& t, std::int64_t id) {
  if (t.impl()->meta) {
    hooks_of(t).remove(id);
    if (t.impl()->meta->post_accumulate) t.impl()->meta->post_accumulate->remove(id);
  }
}
std::int64_t add_post_accumulate_hook(const Tensor& t, GradHook hook) {
  require(t.requires_grad() && is_leaf(t), "register_post_accumulate_grad_hook", "", ErrorKind::Gradient,
          "expected a leaf tensor that requires a gradient");
  AutogradMeta& m = autograd_meta(t);
  if (!m.post_accumulate) m.post_accumulate = std::make_unique<HookList>();
  return m.post_accumulate->add(std::move(hook));
}

void retain_grad(const Tensor& t) {
  require(t.requires_grad(), "retain_grad", "", ErrorKind::Gradient, "expected a tensor that requires a gradient");
  AutogradMeta& m = autograd_meta(t);
  if (is_leaf(t) || m.retains_grad) return;
  m.retains_grad = true;
  // The hook lives on the node, the node may outlive the tensor: hold the tensor weakly through a promotion that can
  // fail.
  TensorImpl* weak = t.impl();
  HookList& hooks = hooks_of(t);
  const Node* source = m.grad_fn.get();
  hooks.add([weak, source, guard = m.alive_token()](const Tensor& g) -> Tensor {
    if (guard.expired() || !weak->try_retain()) return {};
    const Tensor self(Ref<TensorImpl>::adopt(weak));
    if (self.impl()->meta->grad_fn.get() != source) return {};  // changed in place since
    Tensor& grad = self.impl()->meta->grad;
    grad = GradMode::enabled() ? g : detach(g);
    return {};
  });
}

Tensor detach(const Tensor& t) {
  Tensor d = alias(t);
  d.impl()->wrapped_number = t.impl()->wrapped_number;
  return d;
}

}  // namespace pydlx
