#include "autograd/leaf_casts.h"

#include <algorithm>

#include "autograd/engine.h"
#include "autograd/node.h"
#include "ops/elementwise.h"
#include "ops/tensor_lists.h"

namespace pydlx {

namespace {

// Gradients wait until there are so many, or until they are so large that launches no longer matter.
constexpr std::size_t kMostWaiting = 120;
constexpr std::int64_t kMostBytes = std::int64_t{32} << 20;

thread_local LeafGradients* t_pass = nullptr;

struct LeafCast final : Node {
  explicit LeafCast(const Tensor& leaf) : Node("to"), leaf_(leaf.ref()) {}

  void apply(Backward& bw) override {
    const Tensor& g = bw.grad();
    if (!g.defined()) return;
    const Tensor leaf(leaf_);
    const bool observed = hooks || edges()[0].node->hooks || bw.create_graph;
    if (!observed && LeafGradients::keep(leaf, g)) return;
    bw.set(0, ops::to_dtype(g, leaf.dtype()));
  }

 private:
  const Ref<TensorImpl> leaf_;  // which the edge keeps alive anyway
};

}  // namespace

TensorList cast_leaves(const TensorList& leaves, DType dtype) {
  TensorList results;
  for (const Tensor& leaf : leaves) results.push_back(empty_like(leaf, dtype));
  if (!ops::cast_all(results, leaves, std::vector<unsigned char>(leaves.size(), 0)))
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      const GradModeGuard off(false);
      results[i] = ops::to_dtype(leaves[i], dtype);
    }
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const Tensor* inputs[] = {&leaves[i]};
    Ref<Node> node(new LeafCast(leaves[i]));
    node->set_edges(inputs);
    set_history(results[i], node);
  }
  return results;
}

LeafGradients::LeafGradients(bool active) : active_(active), before_(t_pass) { t_pass = this; }
LeafGradients::~LeafGradients() { t_pass = before_; }

bool LeafGradients::keep(const Tensor& leaf, const Tensor& grad) {
  LeafGradients* pass = t_pass;
  const AutogradMeta& m = *leaf.impl()->meta;
  const DType dtype = grad.dtype();
  const int kind = dtype == DType::Float16 ? 0 : dtype == DType::BFloat16 ? 1 : dtype == DType::Float32 ? 2 : -1;
  if (!pass || !pass->active_ || kind < 0 || m.leaf_hooks || m.post_accumulate || leaf.is_cpu() ||
      leaf.dtype() != DType::Float32 || grad.sizes() != leaf.sizes() || grad.strides() != leaf.strides() ||
      !(leaf.contiguous_layout() || is_dense(leaf.sizes(), leaf.strides())))
    return false;
  // A launch takes gradients of one device, and each leaf once.
  const auto conflicts = [&](const Tensor& t) { return t.is_same(leaf) || !(t.device() == leaf.device()); };
  for (const Waiting& w : pass->waiting_)
    if (std::any_of(w.leaves.begin(), w.leaves.end(), conflicts)) {
      pass->flush();
      break;
    }
  Waiting& mine = pass->waiting_[static_cast<std::size_t>(kind)];
  mine.leaves.push_back(leaf);
  mine.grads.push_back(grad);
  pass->bytes_ += grad.numel() * static_cast<std::int64_t>(itemsize(dtype));
  if (++pass->count_ >= kMostWaiting || pass->bytes_ >= kMostBytes) pass->flush();
  return true;
}

void LeafGradients::flush() {
  if (count_ == 0) return;
  const std::array<Waiting, 3> waiting = std::exchange(waiting_, {});
  count_ = 0;
  bytes_ = 0;
  for (const Waiting& w : waiting)
    if (!w.leaves.empty()) add(w);
}

void LeafGradients::add(const Waiting& waiting) {
  const auto& [leaves, grads] = waiting;
  const GradModeGuard off(false);
  TensorList to, from, targets;
  std::vector<unsigned char> add;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    AutogradMeta& m = autograd_meta(leaves[i]);
    const bool fresh = !m.grad.defined();
    const bool fits = fresh || (m.grad.dtype() == DType::Float32 && m.grad.strides() == leaves[i].strides() &&
                                m.grad.sizes() == leaves[i].sizes() && !m.grad.requires_grad() &&
                                !m.grad.impl()->storage->read_only && !m.adding.load(std::memory_order_relaxed));
    if (!fits) {
      const Tensor wide = ops::to_dtype(grads[i], leaves[i].dtype());
      add_to_grad(leaves[i], wide, false, true);
      continue;
    }
    targets.push_back(leaves[i]);
    to.push_back(fresh ? empty_like(leaves[i]) : m.grad);
    from.push_back(grads[i]);
    add.push_back(!fresh);
  }
  if (!ops::cast_all(to, from, add)) {
    for (std::size_t i = 0; i < targets.size(); ++i)
      add_to_grad(targets[i], ops::to_dtype(from[i], DType::Float32), false, true);
    return;
  }
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (add[i])
      bump_version(to[i], "add_");
    else
      autograd_meta(targets[i]).grad = to[i];
  }
}

}  // namespace pydlx
