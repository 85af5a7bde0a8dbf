// Distinct values, and counting.
#include <algorithm>
#include <cmath>

#include "autograd/mode.h"
#include "core/parallel.h"
#include "kernels/sort.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/index.h"
#include "ops/logic.h"
#include "ops/math.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/reduce_core.h"
#include "ops/scan.h"
#include "ops/shape.h"
#include "ops/sort.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

Tensor integer(std::int64_t v) { return wrap_scalar(v); }
Tensor flat(const Tensor& x) { return reshape(x, {-1}); }

constexpr std::int64_t kFewBins = 4096;    // counted for in the first look at integers: mostly they are small
constexpr std::int64_t kMostBins = 65536;  // a table of every thread in its second-level cache

// The range of flat integers, and their counts if it lies in [from, from + bins). Only where `can_tally` said so.
struct Tallied {
  std::int64_t least, greatest, from;
  Tensor counts;  // int64 [bins], or undefined
};
bool can_tally(const Tensor& x) {
  return x.numel() > 0 && x.numel() < (std::int64_t{1} << 32) &&
         kernels<SortKernels>(x.device()).tally[static_cast<int>(x.dtype())] != nullptr;
}
Tallied tally(const Tensor& x, std::int64_t from, std::int64_t bins) {
  const FixedThreads fixed;  // the workspace has a part per thread
  const SortKernels& table = kernels<SortKernels>(x.device());
  const Tensor in = contiguous(x), counts = empty({bins}, DType::Int64, x.device()),
               workspace = empty({table.tally_bytes(bins)}, DType::UInt8, x.device());
  Tally k;
  k.in = in.data();
  k.n = in.numel();
  k.from = from;
  k.bins = bins;
  k.out = counts.data_as<std::int64_t>();
  k.workspace = workspace.data();
  table.tally[static_cast<int>(x.dtype())](k);
  return {k.least, k.greatest, from, k.counted ? counts : Tensor()};
}
std::int64_t first_bins(const Tensor& x) { return std::clamp<std::int64_t>(x.numel(), 256, kFewBins); }

}  // namespace

// ---- unique
// ----------------------------------------------------------------------------------------------------------------------

namespace {

struct Wanted {
  bool inverse, counts;
};

// From items in sorted (or original) order: which start a new group; then values, each item's group, and group sizes,
// the latter two where they are wanted. `order` undefined: items already stand in their original order.
std::tuple<Tensor, Tensor, Tensor> groups(const Tensor& items, const Tensor& fresh, const Tensor& order,
                                          Wanted wanted) {
  const Device device = items.device();
  const std::int64_t n = fresh.numel();
  const Tensor starts = flat(nonzero(fresh));
  Tensor inverse, counts;
  if (wanted.inverse) {
    Tensor later = clone(fresh);  // the first group is number 0
    if (n > 0) fill_raw(narrow(later, 0, 0, 1), std::int64_t{0});
    inverse = cumsum(later, 0, std::nullopt);
    if (order.defined()) inverse = scatter(full({n}, 0, DType::Int64, device), 0, order, inverse);
  }
  if (wanted.counts) {
    const Tensor ends = cat(
        {narrow(starts, 0, std::min<std::int64_t>(1, starts.numel()), std::max<std::int64_t>(starts.numel() - 1, 0)),
         full({std::min<std::int64_t>(1, n)}, n, DType::Int64, device)},
        0);
    counts = sub(ends, starts);
  }
  return {index_select(items, 0, starts), inverse, counts};
}

// Neighbouring slices along axis 0 that differ; the first always counts as new.
Tensor changes(const Tensor& items) {
  const std::int64_t n = items.sizes()[0];
  Tensor fresh = full({n}, true, DType::Bool, items.device());
  if (n > 1) {
    Tensor tail = narrow(fresh, 0, 1, n - 1);
    Tensor differ = ne(narrow(items, 0, 1, n - 1), narrow(items, 0, 0, n - 1));
    if (items.ndim() > 1) differ = any(reshape(differ, {n - 1, items.numel() / n}), Dims{1}, false);
    copy_(tail, differ);
  }
  return fresh;
}

}  // namespace

namespace {

// Integers of a small range are counted; no bins: the range is too wide.
std::optional<std::tuple<Tensor, Tensor, Tensor>> unique_by_counting(const Tensor& x, bool inverse) {
  if (!can_tally(x)) return {};
  Tallied t = tally(x, 0, first_bins(x));
  if (!t.counts.defined()) {
    const auto last = static_cast<std::uint64_t>(t.greatest) - static_cast<std::uint64_t>(t.least);
    if (last >= static_cast<std::uint64_t>(std::min(kMostBins, std::max(kFewBins, x.numel())))) return {};
    t = tally(x, t.least, static_cast<std::int64_t>(last) + 1);
    if (!t.counts.defined()) return {};  // another thread has changed it
  }
  const Tensor occurs = gt(t.counts, integer(0)), at = flat(nonzero(occurs));
  Tensor where;
  if (inverse) {
    const Tensor bins = sub(to_dtype(flat(x), DType::Int64), integer(t.from));
    where = reshape(index_select(sub(cumsum(occurs, 0, std::nullopt), integer(1)), 0, bins), x.sizes());
  }
  return std::tuple{to_dtype(add(at, integer(t.from)), x.dtype()), where, index_select(t.counts, 0, at)};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> unique(const Tensor& input, std::optional<std::int64_t> axis_wanted,
                                          bool inverse_too, bool counts_too) {
  const GradModeGuard off(false);
  const Tensor x = detach(input);
  const Wanted wanted{inverse_too, counts_too};
  if (!axis_wanted) {
    if (auto counted = unique_by_counting(x, inverse_too)) return *std::move(counted);
    Tensor values, order;
    if (inverse_too)
      std::tie(values, order) = sort(flat(x), 0, false, true);
    else
      values = sort_values(flat(x), 0);
    auto [u, inverse, counts] = groups(values, changes(values), order, wanted);
    return {u, inverse_too ? reshape(inverse, x.sizes()) : inverse, counts};
  }
  require(x.ndim() > 0, "unique", "dim", ErrorKind::Index, "expected a tensor with at least one dimension");
  const int axis = wrap_axis(*axis_wanted, x.ndim(), "unique");
  const Tensor slices = contiguous(movedim(x, {axis}, {0}));
  const std::int64_t n = slices.sizes()[0];
  // Slices in lexicographic order: stable sorts from the last element to the first.
  Tensor order = n > 0 ? flat(axis_positions(n, 0, 1, x.device())) : full({0}, 0, DType::Int64, x.device());
  if (slices.numel() > 0) {
    const Tensor table = reshape(slices, {n, -1});
    for (std::int64_t c = table.sizes()[1] - 1; c >= 0; --c)
      order = index_select(order, 0, argsort(index_select(select(table, 1, c), 0, order), 0, false, true));
  }
  const Tensor sorted = index_select(slices, 0, order);
  auto [u, inverse, counts] = groups(sorted, changes(sorted), order, wanted);
  return {contiguous(movedim(u, {0}, {axis})), inverse, counts};
}

std::tuple<Tensor, Tensor, Tensor> unique_consecutive(const Tensor& input, std::optional<std::int64_t> axis_wanted,
                                                      bool inverse_too, bool counts_too) {
  const GradModeGuard off(false);
  const Tensor x = detach(input);
  const Wanted wanted{inverse_too, counts_too};
  if (!axis_wanted) {
    const Tensor items = contiguous(flat(x));
    auto [u, inverse, counts] = groups(items, changes(items), Tensor(), wanted);
    return {u, inverse_too ? reshape(inverse, x.sizes()) : inverse, counts};
  }
  require(x.ndim() > 0, "unique_consecutive", "dim", ErrorKind::Index, "expected a tensor with at least one dimension");
  const int axis = wrap_axis(*axis_wanted, x.ndim(), "unique_consecutive");
  const Tensor slices = contiguous(movedim(x, {axis}, {0}));
  auto [u, inverse, counts] = groups(slices, changes(slices), Tensor(), wanted);
  return {contiguous(movedim(u, {0}, {axis})), inverse, counts};
}

// ---- counting
// ------------------------------------------------------------------------------------------------------------------------

namespace {

// Adds one (or weights) per bin; `in` is int64 and every value must lie in [0, bins).
Tensor count_into(const char* op, const Tensor& in, const Tensor& weights, std::int64_t bins) {
  const SortKernels& table = kernels<SortKernels>(in.device());
  const DType dtype = weights.defined() ? weights.dtype() : DType::Int64;
  if (in.numel() > 0 && !weights.defined() && bins <= kMostBins && can_tally(in)) {
    const Tallied t = tally(in, 0, bins);
    if (t.counts.defined()) return t.counts;
  }
  Tensor out = full({bins}, 0, dtype, in.device());
  if (in.numel() == 0) return out;
  Bincount k;
  k.in = in.data_as<std::int64_t>();
  k.weights = data_or_null(weights);
  k.out = out.data();
  k.n = in.numel();
  k.bins = bins;
  const auto fn = weights.defined() ? table.weigh[static_cast<int>(dtype)] : table.count;
  const std::int64_t bad = kernel_or_fail(fn, op, in.device(), dtype)(k);
  require(bad < 0, op, "input", ErrorKind::Value, "expected values in [0, ", bins, "), found another at position ",
          bad);
  return out;
}

}  // namespace

Tensor bincount(const Tensor& x, const Tensor& weights, std::int64_t minlength) {
  const char* op = "bincount";
  require(x.ndim() == 1, op, "input", ErrorKind::Shape, "expected a 1-d tensor, got shape ", x.sizes());
  require(is_integral(x.dtype()), op, "input", ErrorKind::DType, "expected integers, got ", x.dtype());
  require(minlength >= 0, op, "minlength", ErrorKind::Value, "expected a non-negative length, got ", minlength);
  Tensor w;
  if (weights.defined()) {
    require(weights.sizes() == x.sizes(), op, "weights", ErrorKind::Shape, "expected shape ", x.sizes(), ", got ",
            weights.sizes());
    require(weights.device() == x.device(), op, "weights", ErrorKind::Device, "expected ", x.device(),
            " like the input, got ", weights.device(), "; move one with .to()");
    w = detach(weights);
    w = contiguous(w.dtype() == DType::Float32 ? w : to_dtype(w, DType::Float64));
  }
  std::int64_t bins = minlength;
  if (x.numel() > 0) {
    std::int64_t least, greatest;
    Tensor counts;
    if (can_tally(x)) {
      const Tallied t = tally(x, 0, w.defined() ? 1 : std::max(first_bins(x), std::min(minlength, kMostBins)));
      least = t.least;
      greatest = t.greatest;
      counts = t.counts;
    } else {
      least = item(amin(x, {}, false)).to_int();
      greatest = item(amax(x, {}, false)).to_int();
    }
    require(least >= 0, op, "input", ErrorKind::Value, "expected non-negative integers, got ", least);
    bins = std::max(bins, checked_add(greatest, 1, op));
    if (!w.defined() && counts.defined() && bins <= counts.numel()) return clone(narrow(counts, 0, 0, bins));
  }
  return count_into(op, contiguous(to_dtype(x, DType::Int64)), w, bins);
}

Tensor histc(const Tensor& x, std::int64_t bins, Scalar from, Scalar to) {
  const char* op = "histc";
  require_floating(op, x);
  require(bins > 0, op, "bins", ErrorKind::Value, "expected at least 1, got ", bins);
  double low = from.to_double(), high = to.to_double();
  const Tensor d = flat(detach(x));
  if (low == high && d.numel() > 0) {
    low = item(amin(d, {}, false)).to_double();
    high = item(amax(d, {}, false)).to_double();
  }
  if (low == high) {
    low -= 1;
    high += 1;
  }
  require(std::isfinite(low) && std::isfinite(high) && low < high, op, "min", ErrorKind::Value,
          "expected a finite range with min < max, got [", low, ", ", high, "]");
  // In float64: the bin of a float32 value is then never off by rounding of the scale.
  const Tensor wide = to_dtype(d, DType::Float64);
  const Tensor inside = logical_and(ge(wide, wrap_scalar(low)), le(wide, wrap_scalar(high)));
  const Tensor kept = masked_select(wide, inside);
  const Tensor bin = to_dtype(
      floor(mul(div(sub(kept, wrap_scalar(low)), wrap_scalar(high - low)), wrap_scalar(static_cast<double>(bins)))),
      DType::Int64);
  return to_dtype(count_into(op, contiguous(minimum(bin, integer(bins - 1))), Tensor(), bins), x.dtype());
}

}  // namespace pydlx::ops
