#include "autograd/autocast.h"

#include <algorithm>
#include <unordered_map>

#include "autograd/leaf_casts.h"
#include "autograd/node.h"
#include "ops/elementwise.h"

namespace pydlx {

namespace {

// The source is held, so that its address names it as long as the entry lives.
struct Cast {
  Tensor source, result;
  std::uint32_t version = 0;
  bool used = false;
};
thread_local std::unordered_map<const TensorImpl*, Cast> t_casts;

// On GPUs a cast costs a launch, so that the leaves of a region are cast together: those that the last region cast
// which began with the same leaf.
struct Weak {
  TensorImpl* leaf;
  std::weak_ptr<char> alive;
};
using Leaves = std::vector<Weak>;
constexpr std::size_t kMostKnown = 64;  // regions
thread_local std::unordered_map<const TensorImpl*, Leaves> t_known;
thread_local const TensorImpl* t_first = nullptr;  // of the present region
thread_local Leaves t_used;

bool kept(const Tensor& t) { return t.dtype() == DType::Float32 && t.requires_grad() && is_leaf(t); }

const Tensor& use(const Tensor& t, Cast& c) {
  if (!c.used) t_used.push_back({t.impl(), autograd_meta(t).alive_token()});
  c.used = true;
  return c.result;
}

// The casts of `t` and of those that are expected to follow.
void cast_with_others(const Tensor& t, DType dtype) {
  TensorList leaves{t};
  if (!t_first) {
    t_first = t.impl();
    const auto known = t_known.find(t.impl());
    if (known != t_known.end())
      for (const Weak& w : known->second) {
        if (w.leaf == t.impl() || w.alive.expired() || !w.leaf->try_retain()) continue;
        const Tensor other(Ref<TensorImpl>::adopt(w.leaf));
        if (kept(other) && other.device() == t.device() && !t_casts.contains(w.leaf)) leaves.push_back(other);
      }
  }
  const TensorList results = cast_leaves(leaves, dtype);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    Cast& c = t_casts[leaves[i].impl()];  // an older cast of a leaf that was changed has been used or not
    c.source = leaves[i];
    c.result = results[i];
    c.version = leaves[i].impl()->storage->version;
  }
}

}  // namespace

Autocast& autocast_state() noexcept {
  static thread_local Autocast state;
  return state;
}

Tensor autocast(const Tensor& t, CastPolicy policy) {
  const Autocast& a = autocast_state();
  const int device = static_cast<int>(t.device().type);
  if (policy == CastPolicy::none || !a.enabled[device] || !is_floating(t.dtype()) || t.dtype() == DType::Float64)
    return t;
  const DType dtype = policy == CastPolicy::full ? DType::Float32 : a.dtype[device];
  if (t.dtype() == dtype) return t;
  if (!(a.cache && policy == CastPolicy::lower && kept(t) && GradMode::enabled())) return ops::to_dtype(t, dtype);
  if (const auto it = t_casts.find(t.impl());
      it != t_casts.end() && it->second.version == t.impl()->storage->version && it->second.result.dtype() == dtype)
    return t.is_cpu() ? it->second.result : use(t, it->second);
  if (t.is_cpu()) {
    const Tensor result = ops::to_dtype(t, dtype);
    t_casts[t.impl()] = {t, result, t.impl()->storage->version, true};
    return result;
  }
  cast_with_others(t, dtype);
  return use(t, t_casts[t.impl()]);
}

void clear_autocast_cache() noexcept {
  t_casts.clear();
  if (!t_first) return;
  if (t_known.size() >= kMostKnown) t_known.clear();
  t_known[t_first] = std::move(t_used);
  t_used.clear();
  t_first = nullptr;
}

}  // namespace pydlx
