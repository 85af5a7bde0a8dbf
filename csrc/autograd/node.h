// The recorded graph. A node is one executed op: it knows the nodes its inputs came from and how to turn the gradient
// of its outputs into gradients of its inputs. Ops create nodes with `record`, giving the backward formula as a lambda
// next to the forward code.
#pragma once
#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "autograd/meta.h"
#include "autograd/mode.h"
#include "autograd/saved_hooks.h"
#include "core/callsite.h"
#include "core/tensor.h"

namespace pydlx {

class Backward;

struct Edge {
  Ref<Node> node;              // null: this input needs no gradient
  std::uint32_t input_nr = 0;  // which output of `node` the input was
  std::uint32_t geometry = 0;  // geometry_key of the input: kernels rely on gradients that have its shape and dtype
};

// Hooks on a node. Rare, so they live behind one pointer.
struct NodeHooks {
  using PreHook = std::function<void(std::vector<Tensor>& grad_outputs)>;
  using PostHook = std::function<void(std::vector<Tensor>& grad_inputs, const std::vector<Tensor>& grad_outputs)>;
  std::int64_t next_id = 0;
  std::vector<std::pair<std::int64_t, PreHook>> pre;
  std::vector<std::pair<std::int64_t, PostHook>> post;
  std::vector<std::pair<std::uint32_t, std::shared_ptr<HookList>>> tensor_hooks;  // per output of the node
};

struct Node : RefCounted {
  explicit Node(const char* op_name);
  virtual ~Node() = default;
  virtual void apply(Backward& bw) = 0;
  // Frees saved tensors; a second backward through the node then reports that they are gone.
  virtual void release_saved() {}
  virtual bool is_accumulator() const { return false; }
  virtual bool is_custom() const { return false; }  // a user's autograd.Function

  Edge* edge_begin() { return edges_ ? edges_.get() : inline_edges_.data(); }
  std::span<Edge> edges() { return {edge_begin(), edge_count_}; }
  std::size_t edge_count() const { return edge_count_; }
  void set_edges(std::span<const Tensor* const> inputs);
  void set_edge_count(std::size_t n);

  const char* name;        // "mul"; Python shows "MulBackward"
  std::uint64_t sequence;  // newer nodes have larger numbers
  std::uint32_t output_count = 1;
  bool released = false;
  std::uint32_t running = 0;  // passes inside apply right now: saved tensors are freed when the last one leaves
  CallSite site;
  std::unique_ptr<NodeHooks> hooks;
  void* python = nullptr;  // borrowed Python wrapper

 private:
  static constexpr std::size_t kInline = 3;
  std::uint32_t edge_count_ = 0;
  std::array<Edge, kInline> inline_edges_;
  std::unique_ptr<Edge[]> edges_;
};

// Destruction is deferred to a loop, so that releasing a chain of a million nodes uses constant stack.
void destroy(Node* n) noexcept;

// What a node sees while it runs.
class Backward {
 public:
  Backward(Node& node, std::span<const Tensor> grads, std::span<Tensor> results, std::span<const char> needed,
           bool create_graph)
      : node(node), create_graph(create_graph), grads_(grads), results_(results), needed_(needed) {}

  Node& node;
  const bool create_graph;  // gradients will be differentiated again: use differentiable formulas only

  // Gradient of output i; undefined when nothing flowed into it.
  const Tensor& grad(std::size_t i = 0) const { return grads_[i]; }
  bool has_grad(std::size_t i) const { return grads_[i].defined(); }
  // True when somebody wants the gradient of input i.
  bool needs(std::size_t i) const { return needed_[i] != 0; }
  void set(std::size_t i, Tensor g) { results_[i] = std::move(g); }
  std::size_t input_count() const { return results_.size(); }

 private:
  std::span<const Tensor> grads_;
  std::span<Tensor> results_;
  std::span<const char> needed_;
};

// A tensor kept for backward. `get` checks that it was not changed in place since. Except for leaves it keeps a plain
// view plus the place in the graph, never the tensor object itself: an in-place op would otherwise own itself through
// its own history. Hooks of the thread, where there are any, keep the tensor instead.
class Saved {
 public:
  Saved() = default;
  explicit Saved(const Tensor& t);                       // an input, or any tensor that is not an output of the node
  Saved(const Tensor& output, std::uint32_t output_nr);  // an output of the node that saves it
  bool defined() const { return impl_ || packed_; }
  bool in_other_hands() const { return static_cast<bool>(packed_); }  // a hook's, which may change the values
  Tensor get(const Backward& bw) const;

 private:
  enum class Kind : std::uint8_t { leaf, interior, output };
  Tensor unpacked(const Backward& bw) const;

  Ref<TensorImpl> impl_;
  Ref<PackedTensor> packed_;  // in place of impl_
  Ref<Node> grad_fn_;         // of an interior tensor; with hooks also the accumulator of a leaf
  std::uint32_t version_ = 0;
  std::uint32_t output_nr_ = 0;
  Kind kind_ = Kind::leaf;
};

inline Saved save(const Tensor& t) { return t.defined() ? Saved(t) : Saved(); }
inline Saved save_if(bool wanted, const Tensor& t) { return wanted ? save(t) : Saved(); }

// Where gradients of `t` go: its grad_fn, or the accumulator of a leaf; an empty edge when it needs none.
Edge gradient_edge(const Tensor& t);

template <class... Ts>
bool any_requires_grad(const Ts&... ts) {
  return GradMode::enabled() && ((ts.defined() && ts.requires_grad()) || ...);
}
bool any_requires_grad(const TensorList& ts);

template <class F>
struct LambdaNode final : Node {
  LambdaNode(const char* op_name, F f) : Node(op_name), fn(std::move(f)) {}
  void apply(Backward& bw) override { (*fn)(bw); }
  void release_saved() override { fn.reset(); }
  std::optional<F> fn;
};

// Attaches `node` to a fresh result.
void set_history(Tensor& output, const Ref<Node>& node, std::uint32_t output_nr = 0);
// Attaches `node` to a tensor that was just changed in place; rewrites the history of its base when it is a view.
void set_history_inplace(Tensor& changed, const Ref<Node>& node);
// Refuses in-place changes that autograd forbids (leaf that requires grad, view of such a leaf, ...). Call before
// writing.
void check_inplace(const Tensor& t, const char* op);

// Records `backward` as the gradient of `output` with respect to `inputs` (see Backward for what it may do). The caller
// has checked any_requires_grad, so nothing is saved in vain; the lambda captures what it needs through save().
template <std::invocable<Backward&> F>
Ref<Node> make_node(const char* name, std::span<const Tensor* const> inputs, F backward) {
  Ref<Node> node(new LambdaNode<F>(name, std::move(backward)));
  node->set_edges(inputs);
  return node;
}
template <std::invocable<Backward&> F>
Ref<Node> make_node(const char* name, std::initializer_list<const Tensor*> inputs, F backward) {
  return make_node(name, std::span(inputs.begin(), inputs.size()), std::move(backward));
}
template <std::invocable<Backward&> F>
void record(const char* name, Tensor& output, std::initializer_list<const Tensor*> inputs, F backward) {
  set_history(output, make_node(name, inputs, std::move(backward)));
}
template <std::invocable<Backward&> F>
void record(const char* name, Tensor& output, const TensorList& inputs, F backward) {
  std::vector<const Tensor*> p;
  p.reserve(inputs.size());
  for (const auto& t : inputs) p.push_back(&t);
  set_history(output, make_node(name, std::span<const Tensor* const>(p), std::move(backward)));
}
template <std::invocable<Backward&> F>
void record_many(const char* name, TensorList& outputs, std::initializer_list<const Tensor*> inputs, F backward) {
  auto node = make_node(name, inputs, std::move(backward));
  node->output_count = static_cast<std::uint32_t>(outputs.size());
  for (std::uint32_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].defined() && is_floating(outputs[i].dtype())) set_history(outputs[i], node, i);
}

// t.grad += g. The first gradient is taken over without a copy when `own` says that nobody else can see it.
void add_to_grad(const Tensor& t, const Tensor& g, bool create_graph, bool own);

// Leaf bookkeeping.
AutogradMeta& autograd_meta(const Tensor& t);  // creates it
const Tensor& grad_of(const Tensor& t);
void set_requires_grad(const Tensor& t, bool on);
bool is_leaf(const Tensor& t);
Ref<Node> grad_fn_of(const Tensor& t);  // regenerates the grad_fn of a view whose base was changed in place
std::int64_t add_tensor_hook(const Tensor& t, GradHook hook);
void remove_tensor_hook(const Tensor& t, std::int64_t id);
std::int64_t add_post_accumulate_hook(const Tensor& t, GradHook hook);
void retain_grad(const Tensor& t);
Tensor detach(const Tensor& t);

}  // namespace pydlx
