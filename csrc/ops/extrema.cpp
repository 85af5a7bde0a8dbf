#include "ops/extrema.h"

#include "autograd/node.h"
#include "kernels/reduce.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/logic.h"
#include "ops/reduce.h"
#include "ops/reduce_core.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

void require_elements(const char* op, const Tensor& x, const ReducePlan& plan) {
  require(plan.n > 0, op, "dim", ErrorKind::Index, "expected at least one element to reduce, got shape ", x.sizes(),
          "; the maximum or minimum of nothing is undefined");
}

Tensor extremum(ReduceOp op, const char* name, const Tensor& x, const ReducePlan& plan) {
  require_elements(name, x, plan);
  Tensor y = run_reduce(op, name, x, plan, x.dtype());
  if (is_floating(x.dtype()) && any_requires_grad(x))
    record(name, y, {&x}, [x = save(x), y = Saved(y, 0), plan](Backward& bw) {
      const Tensor t = detach(x.get(bw)), r = restore_axes(detach(y.get(bw)), plan.wide);
      const Tensor hit = to_dtype(eq(t, r), t.dtype());
      const Tensor share = div(restore_axes(bw.grad(), plan.wide), sum(hit, plan.axes, true));
      bw.set(0, mul(share, hit));
    });
  return y;
}

Tensor extremum_of_all(ReduceOp op, const char* name, const Tensor& x) {
  Tensor y;
  {
    const GradModeGuard off(false);
    y = extremum(op, name, x, reduce_plan(name, x.sizes(), std::nullopt, false));
  }
  record_evenly(name, y, x);
  return y;
}

std::pair<Tensor, Tensor> extremum_along(ReduceOp op, const char* name, const Tensor& x, std::int64_t axis,
                                         bool keepdim) {
  const ReducePlan plan = reduce_plan(name, x.sizes(), Dims{wrap_axis(axis, x.ndim(), name)}, keepdim);
  require_elements(name, x, plan);
  Tensor index, values = run_reduce(op, name, x, plan, x.dtype(), {}, &index, DType::Int64, true);
  if (is_floating(x.dtype()) && any_requires_grad(x))
    record(name, values, {&x},
           [is = x.sizes(), index = save(index), wide = plan.wide,
            axis = x.ndim() ? static_cast<int>(plan.axes[0]) : 0](Backward& bw) {
             bw.set(0, scatter_one(restore_axes(bw.grad(), wide), restore_axes(index.get(bw), wide), is, axis));
           });
  return {values, index};
}

Tensor position(ReduceOp op, const char* name, const Tensor& input, std::optional<std::int64_t> axis, bool keepdim) {
  require(input.dtype() != DType::Bool, name, "input", ErrorKind::DType,
          "expected numbers, got bool; convert it first, for example with .to(pydlx.uint8)");
  const Tensor x = axis ? detach(input) : contiguous(detach(input));
  const ReducePlan plan =
      reduce_plan(name, x.sizes(), axis ? Axes(Dims{wrap_axis(*axis, x.ndim(), name)}) : std::nullopt, keepdim);
  require_elements(name, x, plan);
  Tensor index;
  run_reduce(op, name, x, plan, x.dtype(), {}, &index, DType::Int64, true);
  return index;
}

}  // namespace

void record_evenly(const char* name, Tensor& y, const Tensor& x) {
  if (!is_floating(x.dtype()) || !any_requires_grad(x)) return;
  record(name, y, {&x}, [x = save(x), y = Saved(y, 0)](Backward& bw) {
    const Tensor t = detach(x.get(bw)), r = detach(y.get(bw));
    const Tensor hit = to_dtype(where(isnan(r), isnan(t), eq(t, r)), t.dtype());
    bw.set(0, mul(div(bw.grad(), sum(hit, std::nullopt, false, std::nullopt)), hit));
  });
}

Tensor amax(const Tensor& x, const Dims& axes, bool keepdim) {
  return extremum(ReduceOp::amax, "amax", x, reduce_plan("amax", x.sizes(), axes, keepdim));
}
Tensor amin(const Tensor& x, const Dims& axes, bool keepdim) {
  return extremum(ReduceOp::amin, "amin", x, reduce_plan("amin", x.sizes(), axes, keepdim));
}
std::pair<Tensor, Tensor> aminmax(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim) {
  const ReducePlan plan = reduce_plan("aminmax", x.sizes(),
                                      axis ? Axes(Dims{wrap_axis(*axis, x.ndim(), "aminmax")}) : std::nullopt, keepdim);
  return {extremum(ReduceOp::amin, "aminmax", x, plan), extremum(ReduceOp::amax, "aminmax", x, plan)};
}
Tensor max_all(const Tensor& x) { return extremum_of_all(ReduceOp::amax, "max", x); }
Tensor min_all(const Tensor& x) { return extremum_of_all(ReduceOp::amin, "min", x); }
std::pair<Tensor, Tensor> max_along(const Tensor& x, std::int64_t axis, bool keepdim) {
  return extremum_along(ReduceOp::argmax, "max", x, axis, keepdim);
}
std::pair<Tensor, Tensor> min_along(const Tensor& x, std::int64_t axis, bool keepdim) {
  return extremum_along(ReduceOp::argmin, "min", x, axis, keepdim);
}
Tensor argmax(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim) {
  return position(ReduceOp::argmax, "argmax", x, axis, keepdim);
}
Tensor argmin(const Tensor& x, std::optional<std::int64_t> axis, bool keepdim) {
  return position(ReduceOp::argmin, "argmin", x, axis, keepdim);
}

}  // namespace pydlx::ops
