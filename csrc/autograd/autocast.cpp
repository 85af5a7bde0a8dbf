#include "autograd/autocast.h"

#include <unordered_map>

#include "autograd/node.h"
#include "ops/elementwise.h"

namespace pydlx {

namespace {

// The source is held, so that its address names it as long as the entry lives.
struct Cast {
  Tensor source, result;
  std::uint32_t version;
};
thread_local std::unordered_map<const TensorImpl*, Cast> t_casts;

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
  const bool keep = a.cache && policy == CastPolicy::lower && t.dtype() == DType::Float32 && t.requires_grad() &&
                    is_leaf(t) && GradMode::enabled();
  if (!keep) return ops::to_dtype(t, dtype);
  if (const auto it = t_casts.find(t.impl());
      it != t_casts.end() && it->second.version == t.impl()->storage->version && it->second.result.dtype() == dtype)
    return it->second.result;
  const Tensor result = ops::to_dtype(t, dtype);
  t_casts[t.impl()] = {t, result, t.impl()->storage->version};
  return result;
}

void clear_autocast_cache() noexcept { t_casts.clear(); }

}  // namespace pydlx
