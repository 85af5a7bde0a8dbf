#include "ops/sort.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/node.h"
#include "core/parallel.h"
#include "kernels/sort.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/index.h"
#include "ops/logic.h"
#include "ops/math.h"
#include "ops/reduce.h"
#include "ops/reduce_core.h"
#include "ops/scan.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

Tensor integer(std::int64_t v) { return wrap_scalar(v); }

// x with `axis` last and row-major, without gradient.
Tensor rows_of(const Tensor& x, int axis) {
  const Tensor d = detach(x);
  return contiguous(axis == x.ndim() - 1 || x.ndim() == 0 ? d : transpose(d, axis, -1));
}
// The way back: a fresh row-major tensor with the last axis at `axis`.
Tensor from_rows(const Tensor& y, int axis) {
  return axis == y.ndim() - 1 || y.ndim() == 0 ? y : contiguous(transpose(y, axis, -1));
}

struct Rows {
  FixedThreads fixed;  // the workspace has a part per thread
  Tensor workspace;
  Sort k;
};
Rows describe(const char* op, const Tensor& x, std::int64_t n) {
  // Elements of up to 32 bits sort together with a 32-bit position.
  require(n <= std::int64_t{0xffffffff}, op, "input", ErrorKind::Value,
          "expected at most 2^32 - 1 elements along the axis, got ", n);
  Rows r;
  const SortKernels& table = kernels<SortKernels>(x.device());
  r.k.workspace_bytes = kernel_or_fail(table.workspace_bytes, op, x.device(), x.dtype())(n);
  r.workspace = empty({checked_mul(r.k.workspace_bytes, num_threads(), op)}, DType::UInt8, x.device());
  r.k.workspace = r.workspace.data();
  r.k.in = x.data();
  r.k.n = n;
  r.k.rows = n == 0 ? 0 : x.numel() / n;
  return r;
}

using SortTable = void (*const[kDTypeCount])(const Sort&);

// Gradient of picking: values = gather(x, axis, index).
void record_pick(const char* name, Tensor& values, const Tensor& x, const Tensor& index, int axis) {
  if (!is_floating(x.dtype()) || !any_requires_grad(x)) return;
  record(name, values, {&x}, [is = x.sizes(), index = save(index), axis](Backward& bw) {
    const Tensor g = bw.grad(), at = index.get(bw);
    if (g.ndim() == 0) return bw.set(0, g);
    bw.set(0, scatter_add(full(is, 0, g.dtype(), g.device()), axis, at, g));
  });
}

// The element of 0-based rank k of every row, as if reduced with keepdim.
std::pair<Tensor, Tensor> kth(const char* name, const Tensor& x, std::int64_t k, int axis, bool keepdim,
                              bool nan_first) {
  const ReducePlan plan = reduce_plan(name, x.sizes(), Dims{axis}, keepdim);
  const Tensor rows = rows_of(x, axis);
  Tensor values = empty(plan.wide, x.dtype(), x.device()), index = empty(plan.wide, DType::Int64, x.device());
  if (values.numel() > 0) {
    // With the axis of size 1, moving it is only a reinterpretation when it was last; otherwise results come in the
    // moved order.
    Dims moved = plan.wide;
    if (x.ndim() > 0) std::swap(moved[axis], moved[moved.ndim() - 1]);
    Tensor v = empty(moved, x.dtype(), x.device()), i = empty(moved, DType::Int64, x.device());
    Rows r = describe(name, rows, plan.n);
    r.k.values = v.data();
    r.k.index = i.data_as<std::int64_t>();
    r.k.k = k;
    r.k.nan_first = nan_first;
    kernel_or_fail(kernels<SortKernels>(x.device()).kth[static_cast<int>(x.dtype())], name, x.device(), x.dtype())(r.k);
    values = from_rows(v, axis);
    index = from_rows(i, axis);
  }
  Tensor out = alias(values, plan.sizes, contiguous_strides(plan.sizes), 0);
  if (is_floating(x.dtype()) && any_requires_grad(x))
    record(name, out, {&x}, [is = x.sizes(), index = save(index), wide = plan.wide, axis](Backward& bw) {
      bw.set(0, scatter_one(restore_axes(bw.grad(), wide), index.get(bw), is, axis));
    });
  return {out, alias(index, plan.sizes, contiguous_strides(plan.sizes), 0)};
}

Tensor flat(const Tensor& x) { return reshape(x, {-1}); }

}  // namespace

// ---- sorting and selection
// -------------------------------------------------------------------------------------------------------

namespace {

// Values, and positions unless these are integers on the CPU and nobody wants them.
std::pair<Tensor, Tensor> sort_along(const Tensor& x, std::int64_t wanted, bool descending, bool positions) {
  const int axis = wrap_axis(wanted, x.ndim(), "sort");
  const std::int64_t n = x.ndim() == 0 ? 1 : x.sizes()[axis];
  const Tensor rows = rows_of(x, axis);
  positions = positions || is_floating(x.dtype()) || !x.is_cpu();
  Tensor values = empty(rows.sizes(), x.dtype(), x.device()),
         index = positions ? empty(rows.sizes(), DType::Int64, x.device()) : Tensor();
  if (x.numel() > 0) {
    Rows r = describe("sort", rows, n);
    r.k.values = values.data();
    r.k.index = static_cast<std::int64_t*>(data_or_null(index));
    r.k.descending = descending;
    kernel_or_fail(kernels<SortKernels>(x.device()).sort[static_cast<int>(x.dtype())], "sort", x.device(),
                   x.dtype())(r.k);
  }
  values = from_rows(values, axis);
  if (!positions) return {values, index};
  index = from_rows(index, axis);
  record_pick("sort", values, x, index, axis);
  return {values, index};
}

}  // namespace

std::pair<Tensor, Tensor> sort(const Tensor& x, std::int64_t axis, bool descending, bool) {
  return sort_along(x, axis, descending, true);
}
Tensor sort_values(const Tensor& x, std::int64_t axis) { return sort_along(x, axis, false, false).first; }

Tensor argsort(const Tensor& x, std::int64_t axis, bool descending, bool stable) {
  return sort(detach(x), axis, descending, stable).second;
}
Tensor msort(const Tensor& x) { return sort_values(x, 0); }

std::pair<Tensor, Tensor> topk(const Tensor& x, std::int64_t k, std::int64_t wanted, bool largest, bool) {
  const int axis = wrap_axis(wanted, x.ndim(), "topk");
  const std::int64_t n = x.ndim() == 0 ? 1 : x.sizes()[axis];
  require(k >= 0 && k <= n, "topk", "k", ErrorKind::Value, "expected 0 to ", n, " (the size of the axis), got ", k);
  const Tensor rows = rows_of(x, axis);
  Dims sizes = rows.sizes();
  if (sizes.empty())
    k = 1;  // a 0-d tensor has its one element however few are asked for, as in PyTorch
  else
    sizes.back() = k;
  Tensor values = empty(sizes, x.dtype(), x.device()), index = empty(sizes, DType::Int64, x.device());
  if (values.numel() > 0) {
    Rows r = describe("topk", rows, n);
    r.k.values = values.data();
    r.k.index = index.data_as<std::int64_t>();
    r.k.k = k;
    r.k.descending = largest;
    kernel_or_fail(kernels<SortKernels>(x.device()).topk[static_cast<int>(x.dtype())], "topk", x.device(),
                   x.dtype())(r.k);
  }
  values = from_rows(values, axis);
  index = from_rows(index, axis);
  record_pick("topk", values, x, index, axis);
  return {values, index};
}

std::pair<Tensor, Tensor> kthvalue(const Tensor& x, std::int64_t k, std::int64_t wanted, bool keepdim) {
  const int axis = wrap_axis(wanted, x.ndim(), "kthvalue");
  const std::int64_t n = x.ndim() == 0 ? 1 : x.sizes()[axis];
  require(k >= 1 && k <= n, "kthvalue", "k", ErrorKind::Value, "expected 1 to ", n, " (the size of the axis), got ", k);
  return kth("kthvalue", x, k - 1, axis, keepdim, false);
}

// ---- order statistics
// ------------------------------------------------------------------------------------------------------------

std::pair<Tensor, Tensor> median_along(const Tensor& x, std::int64_t wanted, bool keepdim) {
  const int axis = wrap_axis(wanted, x.ndim(), "median");
  const std::int64_t n = x.ndim() == 0 ? 1 : x.sizes()[axis];
  require(n > 0, "median", "dim", ErrorKind::Index, "expected at least one element along the axis, got shape ",
          x.sizes());
  return kth("median", x, (n - 1) / 2, axis, keepdim, true);
}
namespace {
template <class Along>
Tensor median_of_all(const char* name, const Tensor& x, Along along) {
  if (x.numel() == 0) {
    require_floating(name, x);
    return full({}, std::numeric_limits<double>::quiet_NaN(), x.dtype(), x.device());
  }
  Tensor y = along(flat(detach(x)), 0, false).first;
  record_evenly(name, y, x);
  return y;
}
}  // namespace

Tensor median(const Tensor& x) { return median_of_all("median", x, median_along); }

std::pair<Tensor, Tensor> nanmedian_along(const Tensor& x, std::int64_t wanted, bool keepdim) {
  const int axis = wrap_axis(wanted, x.ndim(), "nanmedian");
  if (x.ndim() == 0 || !is_floating(x.dtype())) return median_along(x, axis, keepdim);
  require(x.sizes()[axis] > 0, "nanmedian", "dim", ErrorKind::Index,
          "expected at least one element along the axis, got shape ", x.sizes());
  // NaN sorts last, so the middle of the others is found by counting them.
  const auto [values, index] = sort(x, axis, false, true);
  const Tensor d = detach(x), count = sum(to_dtype(eq(d, d), DType::Int64), Dims{axis}, true);
  const Tensor middle = floor_divide(maximum(sub(count, integer(1)), integer(0)), integer(2));
  Tensor v = gather(values, axis, middle), i = gather(index, axis, middle);
  return keepdim ? std::pair(v, i) : std::pair(squeeze(v, {axis}), squeeze(i, {axis}));
}
Tensor nanmedian(const Tensor& x) { return median_of_all("nanmedian", x, nanmedian_along); }

std::pair<Tensor, Tensor> mode(const Tensor& x, std::int64_t wanted, bool keepdim) {
  const int axis = wrap_axis(wanted, x.ndim(), "mode");
  if (x.ndim() == 0) return {clone(x), full({}, 0, DType::Int64, x.device())};
  const std::int64_t n = x.sizes()[axis];
  require(n > 0, "mode", "dim", ErrorKind::Index, "expected at least one element along the axis, got shape ",
          x.sizes());
  const auto [values, index] = sort(detach(x), axis, false, true);
  // Length of the run of equals up to each sorted position; the first longest run wins, and its end is the last
  // occurrence.
  const Tensor at = axis_positions(n, axis, x.ndim(), x.device());
  Tensor start = full(x.sizes(), 0, DType::Int64, x.device());
  if (n > 1) {
    Tensor tail = narrow(start, axis, 1, n - 1);
    const Tensor fresh = ne(narrow(values, axis, 1, n - 1), narrow(values, axis, 0, n - 1));
    copy_(tail, where(fresh, expand(narrow(at, axis, 1, n - 1), tail.sizes()), integer(0)));
    start = cummax(start, axis).first;
  }
  const Tensor longest = max_along(sub(at, start), axis, true).second;
  Tensor i = gather(index, axis, longest);
  Tensor v = gather(x, axis, i);
  return keepdim ? std::pair(v, i) : std::pair(squeeze(v, {axis}), squeeze(i, {axis}));
}

Tensor quantile(const Tensor& input, const Tensor& q, std::optional<std::int64_t> wanted, bool keepdim,
                const std::string& how) {
  const char* op = "quantile";
  require(input.dtype() == DType::Float32 || input.dtype() == DType::Float64, op, "input", ErrorKind::DType,
          "expected float32 or float64, got ", input.dtype());
  require(q.ndim() <= 1, op, "q", ErrorKind::Shape, "expected a number or a 1-d tensor, got shape ", q.sizes());
  require(how == "linear" || how == "lower" || how == "higher" || how == "midpoint" || how == "nearest", op,
          "interpolation", ErrorKind::Value, "expected linear, lower, higher, midpoint or nearest, got '", how, "'");
  require(input.numel() > 0, op, "input", ErrorKind::Shape, "expected at least one element, got shape ", input.sizes());
  const Tensor qd = to_device(to_dtype(detach(q), input.dtype()), input.device());
  const Tensor inside = all(logical_and(ge(qd, integer(0)), le(qd, integer(1))), std::nullopt, false);
  require(item(inside).to_int() != 0, op, "q", ErrorKind::Value, "expected values in [0, 1]");
  Tensor x = wanted ? input : flat(input);
  if (x.ndim() == 0) x = flat(x);
  const int axis = wanted ? wrap_axis(*wanted, x.ndim(), op) : 0;
  const std::int64_t n = x.sizes()[axis];
  const Tensor sorted = transpose(sort(x, axis, false, true).first, axis, -1);  // rows along the last axis

  // Ranks per q; a row with NaN (sorted last) gives NaN throughout.
  const Tensor rank = mul(reshape(qd, {-1}), wrap_scalar(static_cast<double>(n - 1)));
  const Tensor low = how == "nearest" ? round(rank, 0) : how == "higher" ? ceil(rank) : floor(rank);
  const Tensor high = how == "linear" || how == "midpoint" ? ceil(rank) : low;
  const Tensor weight = how == "midpoint" ? mul(sub(high, low), wrap_scalar(0.5))
                        : how == "linear" ? sub(rank, low)
                                          : zeros_like(rank);
  // A rank in float32 may have been rounded up beyond the last element.
  const auto at = [n](const Tensor& r) { return minimum(to_dtype(r, DType::Int64), integer(n - 1)); };
  const Tensor a = index_select(sorted, -1, at(low)), b = index_select(sorted, -1, at(high));
  Tensor y = lerp(a, b, weight);
  const Tensor last = detach(narrow(sorted, -1, n - 1, 1));
  y = where(ne(last, last), wrap_scalar(std::numeric_limits<double>::quiet_NaN()), y);

  y = transpose(y, axis, -1);  // the reduced axis holds the qs
  if (q.ndim() == 1) {
    Dims order{axis};
    for (int i = 0; i < y.ndim(); ++i)
      if (i != axis) order.push_back(i);
    y = permute(y, order);
    if (keepdim)
      y = wanted ? unsqueeze(y, axis + 1) : reshape(y, [&] {
        Dims s = Dims::filled(input.ndim() + 1, 1);
        s[0] = q.numel();
        return s;
      }());
    return contiguous(y);
  }
  if (!keepdim) return contiguous(squeeze(y, {axis}));
  return wanted ? contiguous(y) : reshape(y, Dims::filled(input.ndim(), 1));
}

// ---- searching
// ------------------------------------------------------------------------------------------------------

Tensor searchsorted(const Tensor& sorted, const Tensor& values, bool out_int32, bool right,
                    const std::optional<std::string>& side, const Tensor& sorter) {
  const char* op = "searchsorted";
  if (side) {
    require(*side == "left" || *side == "right", op, "side", ErrorKind::Value, "expected 'left' or 'right', got '",
            *side, "'");
    require(!(right && *side == "left"), op, "side", ErrorKind::Value,
            "expected no contradiction with right=True, got 'left'");
    right = *side == "right";
  }
  require(sorted.ndim() > 0, op, "sorted_sequence", ErrorKind::Shape,
          "expected at least one dimension, got a 0-d tensor");
  if (sorted.ndim() > 1) {
    bool match = values.ndim() == sorted.ndim();
    for (int i = 0; match && i < sorted.ndim() - 1; ++i) match = sorted.sizes()[i] == values.sizes()[i];
    require(match, op, "input", ErrorKind::Shape, "expected the leading sizes of ", sorted.sizes(), ", got shape ",
            values.sizes());
  }
  const Device device = common_device(op, {&sorted, &values});
  const DType dtype = promote(
      sorted.dtype(), values.is_wrapped_number() && dtype_category(values.dtype()) <= dtype_category(sorted.dtype())
                          ? sorted.dtype()
                          : values.dtype());
  const Tensor s = contiguous(to_dtype(detach(sorted), dtype)),
               v = to_device(contiguous(to_dtype(detach(values), dtype)), device);  // a number may come from the CPU
  Tensor order;
  if (sorter.defined()) {
    require(sorter.sizes() == sorted.sizes(), op, "sorter", ErrorKind::Shape, "expected shape ", sorted.sizes(),
            ", got ", sorter.sizes());
    require(sorter.dtype() == DType::Int64, op, "sorter", ErrorKind::DType, "expected int64, got ", sorter.dtype());
    require(sorter.device() == device, op, "sorter", ErrorKind::Device, "expected ", device,
            " like the sorted sequence, got ", sorter.device(), "; move it with .to()");
    order = clone(contiguous(sorter));  // what is searched is what was checked, whatever other threads do
    if (order.numel() > 0) {
      const bool in_range =
          item(amin(order, {}, false)).to_int() >= 0 && item(amax(order, {}, false)).to_int() < sorted.sizes().back();
      require(in_range, op, "sorter", ErrorKind::Index, "expected positions in [0, ", sorted.sizes().back(), ")");
    }
  }
  Tensor out = empty(v.sizes(), DType::Int64, device);
  if (out.numel() > 0) {
    SearchSorted k;
    k.sorted = s.data();
    k.values = v.data();
    k.sorter = order.defined() ? order.data_as<std::int64_t>() : nullptr;
    k.out = out.data_as<std::int64_t>();
    k.n = s.sizes().back();
    k.m = sorted.ndim() == 1 ? v.numel() : v.sizes().back();
    k.rows = v.numel() / k.m;
    k.sorted_rows = sorted.ndim() == 1 ? 1 : k.rows;
    k.right = right;
    kernel_or_fail(kernels<SortKernels>(device).search[static_cast<int>(dtype)], op, device, dtype)(k);
  }
  return out_int32 ? to_dtype(out, DType::Int32) : out;
}

Tensor bucketize(const Tensor& values, const Tensor& boundaries, bool out_int32, bool right) {
  require(boundaries.ndim() == 1, "bucketize", "boundaries", ErrorKind::Shape, "expected a 1-d tensor, got shape ",
          boundaries.sizes());
  return searchsorted(boundaries, values, out_int32, right, std::nullopt, Tensor());
}

}  // namespace pydlx::ops
