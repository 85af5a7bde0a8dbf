// Rows of sorting, selection, order statistics, unique values, searching and counting.
#include "bind/rows.h"
#include "ops/scan.h"
#include "ops/sort.h"

namespace pydlx::bind {

namespace {

// PyTorch's return: the values alone, or a tuple with what else was asked for.
PyObject* unique_result(const Call& c, std::tuple<Tensor, Tensor, Tensor> all, bool inverse, bool counts) {
  TensorList out{std::get<0>(all)};
  if (inverse) out.push_back(std::get<1>(all));
  if (counts) out.push_back(std::get<2>(all));
  return out.size() == 1 ? to_python(c, out[0]) : to_python(c, out);
}
PyObject* unique(const Call& c) {
  const bool inverse = parse_bool(c, 2), counts = parse_bool(c, 3);
  return unique_result(c, ops::unique(parse_tensor(c, 0), Arg<std::optional<std::int64_t>>::get(c, 4), inverse, counts),
                       inverse, counts);
}
PyObject* unique_consecutive(const Call& c) {
  const bool inverse = parse_bool(c, 1), counts = parse_bool(c, 2);
  return unique_result(
      c, ops::unique_consecutive(parse_tensor(c, 0), Arg<std::optional<std::int64_t>>::get(c, 3), inverse, counts),
      inverse, counts);
}

}  // namespace

void bind_sort(OpRegistry& r) {
  r.add({
      {"sort(Tensor input, int dim=-1, bool descending=False, *, bool stable=False) -> (Tensor values, Tensor indices)",
       call<&ops::sort>, kBoth | kOut,
       "Values along an axis in order, and where they came from. Always stable; NaN counts as the largest."},
      {"argsort(Tensor input, int dim=-1, bool descending=False, *, bool stable=False) -> Tensor", call<&ops::argsort>,
       kBoth | kOut, "The positions that sort an axis."},
      {"msort(Tensor input) -> Tensor", call<&ops::msort>, kBoth | kOut, "The tensor sorted along its first axis."},
      {"topk(Tensor input, int k, int dim=-1, bool largest=True, bool sorted=True) -> (Tensor values, Tensor indices)",
       call<&ops::topk>, kBoth | kOut,
       "The k largest (or smallest) elements along an axis, best first; of equal elements the earlier come first."},
      {"kthvalue(Tensor input, int k, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)",
       call<&ops::kthvalue>, kBoth | kOut, "The k-th smallest element along an axis, counted from 1."},
      {"median(Tensor input) -> Tensor", call<&ops::median>, kBoth | kOut,
       "The lower median of all elements; NaN if any is."},
      {"median(Tensor input, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", call<&ops::median_along>,
       kBoth | kOut, "Lower medians along an axis and their positions."},
      {"nanmedian(Tensor input) -> Tensor", call<&ops::nanmedian>, kBoth | kOut,
       "The lower median of the elements that are not NaN."},
      {"nanmedian(Tensor input, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)",
       call<&ops::nanmedian_along>, kBoth | kOut, "Lower medians along an axis, NaN left out."},
      {"mode(Tensor input, int dim=-1, bool keepdim=False) -> (Tensor values, Tensor indices)", call<&ops::mode>,
       kBoth | kOut, "The most frequent element along an axis (the smallest of several) and its last position."},
      {"quantile(Tensor input, Operand q, int? dim=None, bool keepdim=False, *, str interpolation='linear') -> Tensor",
       call<&ops::quantile>, kBoth | kOut,
       "Quantiles over an axis or all elements; interpolation is linear, lower, higher, midpoint or nearest."},
      {"unique(Tensor input, bool sorted=True, bool return_inverse=False, bool return_counts=False, int? dim=None) -> "
       "Tensor",
       unique, kBoth,
       "Distinct values in ascending order; with return_inverse where each element is among them, with return_counts "
       "how often each occurs."},
      {"unique_consecutive(Tensor input, bool return_inverse=False, bool return_counts=False, int? dim=None) -> Tensor",
       unique_consecutive, kBoth, "The input with runs of equal neighbours collapsed."},
      {"searchsorted(Tensor sorted_sequence, Operand input, *, bool out_int32=False, bool right=False, str? side=None, "
       "Tensor? sorter=None) -> Tensor",
       call<&ops::searchsorted>, kFunction | kOut,
       "First position in each sorted row whose element is >= the value (right: > the value)."},
      {"bucketize(Operand input, Tensor boundaries, *, bool out_int32=False, bool right=False) -> Tensor",
       call<&ops::bucketize>, kFunction | kOut, "The bucket of each value among ascending boundaries."},
      {"bincount(Tensor input, Tensor? weights=None, int minlength=0) -> Tensor", call<&ops::bincount>, kBoth,
       "How often each non-negative integer occurs, or the sum of its weights."},
      {"histc(Tensor input, int bins=100, Number min=0, Number max=0) -> Tensor", call<&ops::histc>, kBoth | kOut,
       "Counts in equal bins of [min, max]; the range of the data when min == max. Elements outside are ignored."},
      {"logcumsumexp(Tensor input, int dim) -> Tensor", call<&ops::logcumsumexp>, kBoth | kOut,
       "log of the running sum of exp(x) along an axis."},
      {"cummax(Tensor input, int dim) -> (Tensor values, Tensor indices)", call<&ops::cummax>, kBoth | kOut,
       "Running maximum and the position it came from (the last of equals); NaN stays."},
      {"cummin(Tensor input, int dim) -> (Tensor values, Tensor indices)", call<&ops::cummin>, kBoth | kOut,
       "Running minimum and the position it came from (the last of equals); NaN stays."},
      {"diff(Tensor input, int n=1, int dim=-1, Tensor? prepend=None, Tensor? append=None) -> Tensor", call<&ops::diff>,
       kBoth | kOut, "Differences of neighbours along an axis, n times."},
  });
}

}  // namespace pydlx::bind
