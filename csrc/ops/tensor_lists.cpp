#include "ops/tensor_lists.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "autograd/node.h"
#include "kernels/tensor_lists.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/logic.h"
#include "ops/math.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

// Tensors of one dtype as kernels take them.
struct Dense {
  std::vector<void*> data;
  std::vector<std::int64_t> size;

  void add(const Tensor& t) {
    data.push_back(t.data());
    size.push_back(t.numel());
  }
  void describe(DenseList& k) const {
    k.count = static_cast<std::int64_t>(data.size());
    k.data = data.data();
    k.size = size.data();
  }
};

// The lists by dtype; none where a tensor is not dense, not on one device with all others, or of a dtype without a
// kernel.
template <class Fn>
std::map<DType, Dense> by_dtype(const TensorList& tensors, Fn (TensorListKernels::*table)[kDTypeCount]) {
  std::map<DType, Dense> lists;
  const Device device = tensors[0].device();
  if (device.is_cpu()) return lists;
  const TensorListKernels& k = kernels<TensorListKernels>(device);
  for (const Tensor& t : tensors) {
    const bool dense = t.contiguous_layout() || is_dense(t.sizes(), t.strides());
    if (!dense || t.device() != device || !(k.*table)[static_cast<int>(t.dtype())]) return {};
    lists[t.dtype()].add(t);
  }
  return lists;
}

Tensor moved(const Tensor& t, const Tensor& like) { return to_dtype(to_device(t, like.device()), like.dtype()); }

void check_written(const TensorList& tensors) {
  for (const Tensor& t : tensors) check_inplace(t, "mul_");
}
void count_written(const TensorList& tensors) {
  for (const Tensor& t : tensors) bump_version(t, "mul_");
}

}  // namespace

Tensor total_norm(const TensorList& tensors, double order) {
  constexpr const char* kOp = "total_norm";
  require(!tensors.empty(), kOp, "tensors", ErrorKind::Value, "expected at least one");
  const bool infinite = std::isinf(order) && order > 0;
  require(order == 1 || order == 2 || infinite, kOp, "order", ErrorKind::Value, "expected 1, 2 or inf, got ", order);
  const GradModeGuard off(false);
  const auto lists = by_dtype(tensors, &TensorListKernels::norm_parts);
  if (lists.empty()) {
    TensorList norms;
    for (const Tensor& t : tensors) {
      const Tensor norm = vector_norm(reshape(detach(t), {-1}), order, Dims{0}, false);
      norms.push_back(norms.empty() ? norm : moved(norm, norms[0]));
    }
    return vector_norm(stack(norms, 0), order, Dims{0}, false);
  }
  const DType dtype = tensors[0].dtype();
  const Device device = tensors[0].device();
  std::int64_t parts = 0;
  for (const auto& [type, list] : lists)
    for (const std::int64_t n : list.size) parts += (n + kNormTile - 1) / kNormTile;
  const Tensor scratch = empty({parts}, DType::Float64, device);
  const TensorListKernels& table = kernels<TensorListKernels>(device);
  NormParts k;
  k.kind = order == 1 ? ListNorm::magnitude : infinite ? ListNorm::largest : ListNorm::square;
  k.parts = static_cast<double*>(scratch.data());
  for (const auto& [type, list] : lists) {
    list.describe(k);
    table.norm_parts[static_cast<int>(type)](k);
    for (const std::int64_t n : list.size) k.parts += (n + kNormTile - 1) / kNormTile;
  }
  const Tensor total = empty({}, dtype, device);
  table.norm_of_parts[static_cast<int>(dtype)](
      {k.kind, parts, static_cast<const double*>(scratch.data()), total.data()});
  return total;
}

void clip_to_norm_(const TensorList& tensors, double max_norm, const Tensor& norm) {
  constexpr const char* kOp = "clip_to_norm_";
  require(norm.numel() == 1 && is_floating(norm.dtype()), kOp, "norm", ErrorKind::Value,
          "expected one floating point number, got shape ", norm.sizes(), " of dtype ", norm.dtype());
  if (tensors.empty()) return;
  const GradModeGuard off(false);
  const bool known =
      norm.device() == tensors[0].device() && (norm.dtype() == DType::Float32 || norm.dtype() == DType::Float64);
  const auto lists = known ? by_dtype(tensors, &TensorListKernels::scale) : std::map<DType, Dense>{};
  if (lists.empty()) {
    const Tensor factor = clamp_max(div(wrap_scalar(max_norm), add(detach(norm), wrap_scalar(1e-6))), wrap_scalar(1.0));
    for (Tensor t : tensors) mul_(t, moved(factor, t));
    return;
  }
  check_written(tensors);
  ScaleList k;
  k.factor = max_norm;
  k.norm = norm.data();
  k.wide = norm.dtype() == DType::Float64;
  for (const auto& [type, list] : lists) {
    list.describe(k);
    kernels<TensorListKernels>(norm.device()).scale[static_cast<int>(type)](k);
  }
  count_written(tensors);
}

Tensor scale_and_check_(const TensorList& tensors, double factor) {
  require(!tensors.empty(), "scale_and_check_", "tensors", ErrorKind::Value, "expected at least one");
  const GradModeGuard off(false);
  const Device device = tensors[0].device();
  const auto lists = by_dtype(tensors, &TensorListKernels::scale);
  Tensor found = full({}, Scalar(0.0), DType::Float32, device);
  if (lists.empty()) {
    for (Tensor t : tensors) {
      mul_(t, wrap_scalar(factor));
      if (t.numel() > 0)  // NaN and infinity win
        found = maximum(found, moved(logical_not(isfinite(amax(abs(detach(t)), {}, false))), found));
    }
    return found;
  }
  check_written(tensors);
  ScaleList k;
  k.factor = factor;
  k.found = static_cast<float*>(found.data());
  for (const auto& [type, list] : lists) {
    list.describe(k);
    kernels<TensorListKernels>(device).scale[static_cast<int>(type)](k);
  }
  count_written(tensors);
  return found;
}

bool cast_all(const TensorList& to, const TensorList& from, const std::vector<unsigned char>& add) {
  if (to.empty()) return true;
  const Device device = to[0].device();
  if (device.is_cpu()) return false;
  const auto kernel =
      kernels<TensorListKernels>(device).cast[static_cast<int>(to[0].dtype())][static_cast<int>(from[0].dtype())];
  if (!kernel) return false;
  Dense list;
  std::vector<const void*> sources;
  for (std::size_t i = 0; i < to.size(); ++i) {
    const Tensor &t = to[i], &s = from[i];
    const bool fits = t.dtype() == to[0].dtype() && s.dtype() == from[0].dtype() && t.device() == device &&
                      s.device() == device && t.sizes() == s.sizes() && t.strides() == s.strides() &&
                      (t.contiguous_layout() || is_dense(t.sizes(), t.strides()));
    if (!fits) return false;
    list.add(t);
    sources.push_back(s.data());
  }
  CastList k;
  list.describe(k);
  k.from = sources.data();
  k.add = add.data();
  kernel(k);
  return true;
}

}  // namespace pydlx::ops
