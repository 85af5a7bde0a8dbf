// What autograd stores on a tensor. Allocated only for tensors that need it.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace pydlx {

// A gradient hook: returns a replacement, or an undefined tensor to leave the gradient as it is.
using GradHook = std::function<Tensor(const Tensor&)>;

struct HookList {
  std::vector<std::pair<std::int64_t, GradHook>> hooks;  // id, hook; called in order of registration
  std::int64_t add(GradHook hook);
  void remove(std::int64_t id);
  Tensor run(Tensor grad) const;
  void call(const Tensor& t) const;  // every hook with `t`, whatever they return
};

struct AutogradMeta {
  Ref<Node> grad_fn;            // null for leaves
  std::uint32_t output_nr = 0;  // which output of grad_fn this tensor is
  Tensor grad;
  Node* accumulator = nullptr;     // weak; the node keeps the tensor alive, not the other way round
  std::uint32_t view_version = 0;  // storage version at which grad_fn of a view was last valid
  bool retains_grad = false;
  std::unique_ptr<HookList> leaf_hooks;       // tensor hooks of a leaf, run before accumulation
  std::unique_ptr<HookList> post_accumulate;  // run after accumulation, argument is the tensor itself
  std::shared_ptr<char> alive;                // expires with the tensor; made on demand
  std::atomic<const void*> adding{nullptr};   // the thread that is adding to `grad`, see add_to_grad

  std::weak_ptr<char> alive_token() {
    if (!alive) alive = std::make_shared<char>();
    return alive;
  }
};

}  // namespace pydlx
