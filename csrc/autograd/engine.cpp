#include "autograd/engine.h"

#include <algorithm>

#include "autograd/leaf_casts.h"
#include "core/in_flight.h"
#include "core/operation.h"
#include "ops/elementwise.h"

namespace pydlx {

namespace {

// State of one node during one backward pass. Kept in a map of the pass, not in the node: several passes (threads,
// nested calls) may walk overlapping graphs at the same time.
struct NodeState {
  Node* node = nullptr;
  std::uint32_t pending = 0;    // edges from unfinished nodes
  bool needed = true;           // some wanted gradient lies behind this node
  bool queued = false;          // a tensor may be a root several times, its node runs once
  bool reached = false;         // something was delivered, defined or not
  Tensor single;                // the gradient of the only output, or
  std::vector<Tensor> several;  // one per output

  Tensor& gradient(std::uint32_t nr) {
    reached = true;
    if (nr == 0 && node->output_count == 1 && several.empty()) return single;
    if (several.size() <= nr) {
      several.resize(std::max<std::uint32_t>(node->output_count, nr + 1));
      if (single.defined()) several[0] = std::move(single);
    }
    return several[nr];
  }
};

// Open addressing, pointer keys, no erasure. States live in a deque-like vector of indices so that references stay
// cheap to move.
class StateMap {
 public:
  StateMap() : slots_(64, 0) {}

  std::uint32_t find_or_add(Node* n, bool& added) {
    if (states_.size() * 2 >= slots_.size()) grow();
    std::size_t i = probe(n);
    added = slots_[i] == 0;
    if (added) {
      states_.emplace_back();
      states_.back().node = n;
      slots_[i] = static_cast<std::uint32_t>(states_.size());
    }
    return slots_[i] - 1;
  }
  NodeState& operator[](std::uint32_t i) { return states_[i]; }
  std::uint32_t index(Node* n) { return slots_[probe(n)] - 1; }
  void clear() {
    states_.clear();
    std::fill(slots_.begin(), slots_.end(), 0);
  }
  std::size_t capacity() const { return slots_.size(); }

 private:
  std::size_t probe(Node* n) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = (reinterpret_cast<std::uintptr_t>(n) >> 4) * 0x9E3779B97F4A7C15ull >> 20 & mask;
    while (slots_[i] != 0 && states_[slots_[i] - 1].node != n) i = (i + 1) & mask;
    return i;
  }
  void grow() {
    slots_.assign(slots_.size() * 2, 0);
    for (std::uint32_t s = 0; s < states_.size(); ++s) slots_[probe(states_[s].node)] = s + 1;
  }

  std::vector<std::uint32_t> slots_;
  std::vector<NodeState> states_;
};

// Marks a node as being run. Another thread may finish a pass over the same node meanwhile (kernels give up the
// interpreter lock), and must not free what this one is reading.
class Running {
 public:
  explicit Running(Node& n) : node_(n) { ++node_.running; }
  ~Running() {
    if (--node_.running == 0 && node_.released) node_.release_saved();
  }
  Running(const Running&) = delete;

 private:
  Node& node_;
};

struct Capture {
  Node* node;
  std::uint32_t output_nr;
  std::size_t slot;  // position in the result list
  const Tensor* input;
};

// The containers of a pass, kept by the thread for its next one: for a small graph their allocation took a third of the
// time. A nested pass finds none and makes its own.
struct Workspace {
  StateMap states;
  std::vector<std::uint32_t> ready;
  std::vector<Node*> stack, order;
  std::vector<Edge> root_edges;
  std::vector<Tensor> results;
  std::vector<char> needed;

  static std::unique_ptr<Workspace> take() {
    auto w = std::move(spare());
    return w ? std::move(w) : std::make_unique<Workspace>();
  }
  static void give_back(std::unique_ptr<Workspace> w) {
    constexpr std::size_t kLargest = 1u << 14;  // the containers of a huge graph are not worth clearing every time
    if (w->states.capacity() > kLargest) return;
    w->states.clear();
    w->ready.clear();
    w->stack.clear();
    w->order.clear();
    w->root_edges.clear();
    w->results.clear();
    spare() = std::move(w);
  }

 private:
  static std::unique_ptr<Workspace>& spare() {
    static thread_local std::unique_ptr<Workspace> w;
    return w;
  }
};

class Pass {
 public:
  Pass(BackwardOptions options, bool accumulate) : options_(options), accumulate_(accumulate) {}
  ~Pass() { Workspace::give_back(std::move(work_)); }
  Pass(const Pass&) = delete;

  TensorList run(const TensorList& roots, const TensorList& grads, const TensorList& inputs) {
    const char* op = accumulate_ ? "backward" : "grad";
    require(roots.size() == grads.size(), op, "grad_outputs", ErrorKind::Value, "expected one gradient per output (",
            roots.size(), "), got ", grads.size());
    std::vector<Edge>& root_edges = work_->root_edges;
    for (std::size_t i = 0; i < roots.size(); ++i) root_edges.push_back(root_edge(op, roots[i]));
    TensorList seeds;
    for (std::size_t i = 0; i < roots.size(); ++i) seeds.push_back(seed(op, roots[i], grads[i]));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      require(inputs[i].requires_grad(), op, "inputs", ErrorKind::Gradient,
              "expected tensors that require gradients; number ", i, " does not");
      if (accumulate_ && std::any_of(inputs.begin(), inputs.begin() + static_cast<std::ptrdiff_t>(i),
                                     [&](const Tensor& t) { return t.is_same(inputs[i]); }))
        continue;  // named twice, added once
      Edge e = gradient_edge(inputs[i]);
      wanted_.push_back(e);
      captures_.push_back({e.node.get(), e.input_nr, i, &inputs[i]});
    }
    results_.resize(inputs.size());
    explore();
    if (!inputs.empty()) mark_needed();

    const GradModeGuard mode(options_.create_graph);
    LeafGradients casts(accumulate_ && captures_.empty() && !anomaly_checks_nan());
    casts_ = &casts;
    for (std::size_t i = 0; i < roots.size(); ++i) deliver(root_edges[i], std::move(seeds[i]));
    for (const Edge& e : root_edges) {
      const auto s = states_.index(e.node.get());
      if (states_[s].pending == 0 && states_[s].reached) push(s);
    }
    while (!ready_.empty()) {
      std::pop_heap(ready_.begin(), ready_.end(), older_);
      const auto s = ready_.back();
      ready_.pop_back();
      execute(s);
    }
    casts.flush();
    if (accumulate_)
      for (std::size_t i = 0; i < inputs.size(); ++i) accumulate_into(inputs[i], results_[i]);
    return std::move(results_);
  }

 private:
  Edge root_edge(const char* op, const Tensor& root) {
    require(root.requires_grad(), op, "tensor", ErrorKind::Gradient,
            "expected a tensor that requires grad and has a grad_fn; this one was computed without recording (no input "
            "requires a "
            "gradient, or no_grad was active)");
    return gradient_edge(root);
  }

  Tensor seed(const char* op, const Tensor& root, const Tensor& grad) {
    if (!grad.defined()) {
      require(root.numel() == 1, op, "gradient", ErrorKind::Gradient,
              "grad can be implicitly created only for scalar outputs; the output has shape ", root.sizes(),
              ", so pass gradient= with that shape");
      return ops::ones_like(root);
    }
    require(grad.sizes() == root.sizes(), op, "gradient", ErrorKind::Shape, "expected shape ", root.sizes(), ", got ",
            grad.sizes());
    return grad.dtype() == root.dtype() ? grad : ops::to_dtype(grad, root.dtype());
  }

  // Counts, for every reachable node, the edges that will deliver a gradient to it.
  void explore() {
    auto& stack = work_->stack;
    bool added;
    for (const Edge& e : work_->root_edges) {
      states_.find_or_add(e.node.get(), added);
      if (added) stack.push_back(e.node.get());
    }
    while (!stack.empty()) {
      Node* n = stack.back();
      stack.pop_back();
      if (!captures_.empty()) order_.push_back(n);
      for (Edge& e : n->edges()) {
        if (!e.node) continue;
        const auto s = states_.find_or_add(e.node.get(), added);
        ++states_[s].pending;
        if (added) stack.push_back(e.node.get());
      }
    }
  }

  // With explicit inputs only nodes on a path to one of them run. Depth-first order is not topological, so iterate over
  // nodes from oldest to newest: edges always point to older nodes, leaves first.
  void mark_needed() {
    std::sort(order_.begin(), order_.end(), [](Node* a, Node* b) {
      const bool la = a->is_accumulator(), lb = b->is_accumulator();
      return la != lb ? la : a->sequence < b->sequence;
    });
    for (Node* n : order_) {
      const bool wanted =
          std::any_of(captures_.begin(), captures_.end(), [&](const Capture& c) { return c.node == n; });
      bool needed = wanted;
      for (Edge& e : n->edges())
        if (e.node && states_[states_.index(e.node.get())].needed) needed = true;
      states_[states_.index(n)].needed = needed;
    }
  }

  void push(std::uint32_t s) {
    if (states_[s].queued) return;
    states_[s].queued = true;
    ready_.push_back(s);
    std::push_heap(ready_.begin(), ready_.end(), older_);
  }

  // A gradient in the dtype of what it belongs to; any other shape is an error.
  static Tensor fitted(const Edge& e, Tensor g) {
    const auto dtype = static_cast<DType>(e.geometry & 15);
    if (g.dtype() != dtype) g = ops::to_dtype(g, dtype);
    require(geometry_key(*g.impl()) == e.geometry, e.node->name, "", ErrorKind::Gradient,
            "expected a gradient of the shape of the operation's result, got ", g.sizes());
    return g;
  }

  void deliver(const Edge& e, Tensor g) {
    NodeState& st = states_[states_.index(e.node.get())];
    Tensor& slot = st.gradient(e.input_nr);
    if (!g.defined()) return;
    if (geometry_key(*g.impl()) != e.geometry) [[unlikely]]
      g = fitted(e, std::move(g));
    if (!slot.defined()) {
      slot = std::move(g);
      return;
    }
    // Add into the buffer when it is ours alone, so that a tensor used many times does not cost a temporary per use.
    const bool own = !options_.create_graph && slot.ref()->use_count() == 1 && slot.impl()->storage->use_count() == 1 &&
                     !may_self_overlap(slot.sizes(), slot.strides()) && !slot.impl()->storage->read_only &&
                     slot.dtype() == g.dtype() && slot.sizes() == g.sizes();
    if (own)
      ops::add_(slot, g);
    else
      slot = ops::add(slot, g);
  }

  void execute(std::uint32_t s) {
    Node* n = states_[s].node;
    const NamedOperation named(n->name, true);
    if (n->hooks || n->is_custom()) casts_->flush();
    const Ref<Node> keep(n);
    Tensor single = std::move(states_[s].single);
    std::vector<Tensor> several = std::move(states_[s].several);
    if (several.empty() && n->output_count > 1) several.resize(n->output_count);
    std::span<Tensor> grads = several.empty() ? std::span(&single, 1) : std::span(several);
    const bool any = std::any_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); });
    if (n->hooks && any) run_pre_hooks(*n, grads);
    for (const Capture& c : captures_)
      if (c.node == n) results_[c.slot] = captured_gradient(grads[c.output_nr], *c.input);
    const auto edges = n->edges();
    std::vector<Tensor>& results = work_->results;
    results.assign(edges.size(), Tensor());
    const bool skip = !any || !states_[s].needed || (n->is_accumulator() && (!captures_.empty() || !accumulate_));
    if (!skip) {
      std::vector<char>& needed = work_->needed;
      needed.assign(edges.size(), 0);
      bool any_needed = n->is_accumulator();
      for (std::size_t i = 0; i < edges.size(); ++i)
        if (edges[i].node && states_[states_.index(edges[i].node.get())].needed) needed[i] = any_needed = true;
      if (any_needed) {
        require(!n->released, n->name, "", ErrorKind::Gradient,
                "trying to go backward through the graph a second time; its saved tensors have been freed. Pass "
                "retain_graph=True "
                "to the first backward");
        Backward bw(*n, grads, results, needed, options_.create_graph);
        const Running running(*n);
        const std::uint64_t reads = saved_reads();
        n->apply(bw);
        leave_flight();
        // What needed nothing it saved (a view, a sum, a cast) can run again, and a loop over the steps may share it.
        if (!options_.retain_graph && saved_reads() != reads) n->released = true;
        if (anomaly_checks_nan()) check_nan(*n, results);
      }
    }
    if (n->hooks && any && !n->hooks->post.empty()) {
      const std::vector<Tensor> outputs(grads.begin(), grads.end());
      const auto post = n->hooks->post;  // a hook may add hooks
      for (const auto& [id, hook] : post) hook(results, outputs);
    }
    for (std::size_t i = 0; i < edges.size(); ++i) {
      if (!edges[i].node) continue;
      deliver(edges[i], std::move(results[i]));
      const auto t = states_.index(edges[i].node.get());
      if (--states_[t].pending == 0) push(t);
    }
  }

  // A leaf's tensor hooks run where its gradient is complete: in the accumulator, or here when the gradient is only
  // captured.
  Tensor captured_gradient(const Tensor& g, const Tensor& input) {
    const auto& meta = input.impl()->meta;
    return g.defined() && meta && meta->leaf_hooks && is_leaf(input) ? meta->leaf_hooks->run(g) : g;
  }

  void run_pre_hooks(Node& n, std::span<Tensor> grads) {
    for (std::size_t i = 0; i < n.hooks->tensor_hooks.size(); ++i) {
      auto [nr, list] = n.hooks->tensor_hooks[i];
      if (nr < grads.size() && grads[nr].defined()) grads[nr] = list->run(std::move(grads[nr]));
    }
    if (n.hooks->pre.empty()) return;
    std::vector<Tensor> replaceable(grads.begin(), grads.end());
    const auto pre = n.hooks->pre;  // a hook may add hooks
    for (const auto& [id, hook] : pre) {
      const std::vector<Tensor> before = replaceable;
      hook(replaceable);
      for (std::size_t i = 0; i < before.size(); ++i)
        require(!replaceable[i].defined() ||
                    (before[i].defined() && geometry_key(*replaceable[i].impl()) == geometry_key(*before[i].impl())),
                "prehook", "", ErrorKind::Gradient, "expected gradients of the shapes and dtypes that came in, got ",
                replaceable[i].defined() ? replaceable[i].sizes() : Dims{}, " for number ", i);
    }
    std::move(replaceable.begin(), replaceable.end(), grads.begin());
  }

  void check_nan(Node& n, const std::vector<Tensor>& results) {
    for (std::size_t i = 0; i < results.size(); ++i)
      if (results[i].defined() && ops::has_nan(results[i]))
        fail(n.name, "", ErrorKind::Gradient, "the backward of this operation returned NaN for input ", i,
             n.site ? "; the operation ran at " + describe_callsite(n.site) : std::string());
  }

  void accumulate_into(const Tensor& t, const Tensor& g) {
    if (g.defined()) add_to_grad(t, g, options_.create_graph, false);
  }

  // Newest node first: max-heap on the sequence number.
  struct Older {
    StateMap* states;
    bool operator()(std::uint32_t a, std::uint32_t b) const {
      const Node *x = (*states)[a].node, *y = (*states)[b].node;
      return x->sequence != y->sequence ? x->sequence < y->sequence : a > b;
    }
  };

  const BackwardOptions options_;
  const bool accumulate_;
  std::unique_ptr<Workspace> work_ = Workspace::take();
  StateMap& states_ = work_->states;
  Older older_{&states_};
  std::vector<std::uint32_t>& ready_ = work_->ready;
  std::vector<Node*>& order_ = work_->order;
  LeafGradients* casts_ = nullptr;
  std::vector<Edge> wanted_;
  std::vector<Capture> captures_;
  TensorList results_;
};

}  // namespace

void run_backward(const TensorList& roots, const TensorList& grads, const TensorList& inputs, BackwardOptions options) {
  Pass(options, true).run(roots, grads, inputs);
}

TensorList run_grad(const TensorList& roots, const TensorList& grads, const TensorList& inputs,
                    BackwardOptions options) {
  return Pass(options, false).run(roots, grads, inputs);
}

}  // namespace pydlx
