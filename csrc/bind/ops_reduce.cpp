// Rows of the reductions, scans and softmax.
#include "bind/rows.h"
#include "kernels/pointwise.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/reduce.h"
#include "ops/scan.h"
#include "ops/softmax.h"

namespace pydlx::bind {

namespace {

using ops::Axes;
using ops::MaybeDType;

Tensor prod_all(const Tensor& x, MaybeDType dtype) { return ops::prod(x, dtype); }
Tensor prod_along(const Tensor& x, std::int64_t axis, bool keepdim, MaybeDType dtype) {
  return ops::prod(x, axis, keepdim, dtype);
}
Tensor sum(const Tensor& x, const Axes& axes, bool keepdim, MaybeDType dtype) {
  return ops::sum(x, axes, keepdim, dtype);
}

// The three ways PyTorch spells a variance: unbiased alone, with axes, and the correction.
using Moment = Tensor (*)(const Tensor&, const Axes&, std::optional<Scalar>, bool);
using Moments = std::pair<Tensor, Tensor> (*)(const Tensor&, const Axes&, std::optional<Scalar>, bool);
Scalar correction_of(bool unbiased) { return Scalar(unbiased ? 1 : 0); }
template <auto f>
auto unbiased_all(const Tensor& x, bool unbiased) {
  return f(x, std::nullopt, correction_of(unbiased), false);
}
template <auto f>
auto unbiased_along(const Tensor& x, const Axes& axes, bool unbiased, bool keepdim) {
  return f(x, axes, correction_of(unbiased), keepdim);
}
template <auto f>
auto corrected(const Tensor& x, const Axes& axes, std::optional<Scalar> correction, bool keepdim) {
  return f(x, axes, correction, keepdim);
}

Tensor norm_number(const Tensor& x, std::optional<Scalar> p, const Axes& axes, bool keepdim, MaybeDType dtype) {
  return ops::vector_norm(x, p.value_or(Scalar(2.0)), axes, keepdim, dtype);
}
Tensor norm_named(const Tensor& x, const std::string& p, const Axes& axes, bool keepdim, MaybeDType dtype) {
  require(p == "fro", "norm", "p", ErrorKind::Value, "expected a number or 'fro', got '", p,
          "'; use linalg.matrix_norm for matrix norms");
  return ops::vector_norm(x, 2.0, axes, keepdim, dtype);
}
Tensor linalg_norm(const Tensor& x, Scalar p, const Axes& axes, bool keepdim, MaybeDType dtype) {
  return ops::vector_norm(x, p, axes, keepdim, dtype);
}

Tensor any_all(const Tensor& x, const Axes& axes, bool keepdim) { return ops::any(x, axes, keepdim); }
Tensor all_all(const Tensor& x, const Axes& axes, bool keepdim) { return ops::all(x, axes, keepdim); }

Tensor softmax(const Tensor& x, std::int64_t axis, MaybeDType dtype) { return ops::softmax(x, axis, dtype); }

}  // namespace

void bind_reduce(OpRegistry& r) {
  r.add({
      {"sum(Tensor input, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor", call<&sum>,
       kBoth | kOut,
       "Sum over `dim` (default: all axes), in an order fixed by the geometry. Integers and bools sum in int64."},
      {"mean(Tensor input, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor", call<&ops::mean>,
       kBoth | kOut, "Arithmetic mean over `dim` (default: all axes). Floating point only; NaN over nothing."},
      {"nansum(Tensor input, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor", call<&ops::nansum>,
       kBoth | kOut, "Sum that counts NaN as 0."},
      {"nanmean(Tensor input, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor",
       call<&ops::nanmean>, kBoth | kOut, "Mean of the elements that are not NaN."},
      {"prod(Tensor input, *, dtype? dtype=None) -> Tensor", call<&prod_all>, kBoth | kOut,
       "Product of all elements; 1 over nothing."},
      {"prod(Tensor input, int dim, bool keepdim=False, *, dtype? dtype=None) -> Tensor", call<&prod_along>,
       kBoth | kOut, "Product along one axis. The gradient is right where elements are 0."},
      {"var(Tensor input, bool unbiased) -> Tensor", call<&unbiased_all<ops::var>>, kBoth | kOut, ""},
      {"var(Tensor input, int[+]? dim, bool unbiased, bool keepdim=False) -> Tensor", call<&unbiased_along<ops::var>>,
       kBoth | kOut, ""},
      {"var(Tensor input, int[+]? dim=None, *, Number? correction=None, bool keepdim=False) -> Tensor",
       call<&corrected<ops::var>>, kBoth | kOut,
       "sum (x - mean)^2 / max(0, n - correction); correction is 1 by default (Bessel), unbiased=False means 0. Chunks "
       "are centred on their\n"
       "own means and merged by Chan's update, so nothing cancels."},
      {"std(Tensor input, bool unbiased) -> Tensor", call<&unbiased_all<ops::std_dev>>, kBoth | kOut, ""},
      {"std(Tensor input, int[+]? dim, bool unbiased, bool keepdim=False) -> Tensor",
       call<&unbiased_along<ops::std_dev>>, kBoth | kOut, ""},
      {"std(Tensor input, int[+]? dim=None, *, Number? correction=None, bool keepdim=False) -> Tensor",
       call<&corrected<ops::std_dev>>, kBoth | kOut, "Square root of var()."},
      {"var_mean(Tensor input, bool unbiased) -> (Tensor var, Tensor mean)", call<&unbiased_all<ops::var_mean>>,
       kFunction, ""},
      {"var_mean(Tensor input, int[+]? dim, bool unbiased, bool keepdim=False) -> (Tensor var, Tensor mean)",
       call<&unbiased_along<ops::var_mean>>, kFunction, ""},
      {"var_mean(Tensor input, int[+]? dim=None, *, Number? correction=None, bool keepdim=False) -> (Tensor var, "
       "Tensor mean)",
       call<&corrected<ops::var_mean>>, kFunction, "var() and mean() from one pass over the data."},
      {"std_mean(Tensor input, bool unbiased) -> (Tensor std, Tensor mean)", call<&unbiased_all<ops::std_mean>>,
       kFunction, ""},
      {"std_mean(Tensor input, int[+]? dim, bool unbiased, bool keepdim=False) -> (Tensor std, Tensor mean)",
       call<&unbiased_along<ops::std_mean>>, kFunction, ""},
      {"std_mean(Tensor input, int[+]? dim=None, *, Number? correction=None, bool keepdim=False) -> (Tensor std, "
       "Tensor mean)",
       call<&corrected<ops::std_mean>>, kFunction, "std() and mean() from one pass over the data."},
      {"norm(Tensor input, Number? p=None, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor",
       call<&norm_number>, kBoth | kOut,
       "(sum |x|^p)^(1/p) over `dim` (default: all axes), p = 2 by default; p = 0 counts non-zeros, inf and -inf give "
       "the largest and smallest |x|."},
      {"norm(Tensor input, str p, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> Tensor",
       call<&norm_named>, kBoth | kOut, "p = 'fro': the 2-norm of all elements."},
      {"linalg_vector_norm(Tensor input, Number ord=2, int[+]? dim=None, bool keepdim=False, *, dtype? dtype=None) -> "
       "Tensor",
       call<&linalg_norm>, kHidden | kOut, "Vector norm over `dim`; see norm()."},
      {"logsumexp(Tensor input, int[+] dim, bool keepdim=False) -> Tensor", call<&ops::logsumexp>, kBoth | kOut,
       "log(sum exp x), computed relative to the maximum so that it cannot overflow."},
      {"any(Tensor input, int[+]? dim=None, bool keepdim=False) -> Tensor", call<&any_all>, kBoth | kOut,
       "Whether any element is non-zero; NaN counts."},
      {"all(Tensor input, int[+]? dim=None, bool keepdim=False) -> Tensor", call<&all_all>, kBoth | kOut,
       "Whether all elements are non-zero."},
      {"count_nonzero(Tensor input, int[+]? dim=None) -> Tensor", call<&ops::count_nonzero>, kBoth,
       "How many elements are non-zero (int64)."},

      {"amax(Tensor input, int[+] dim=(), bool keepdim=False) -> Tensor", call<&ops::amax>, kBoth | kOut,
       "Largest element over `dim` (default: all axes); NaN if any is. Equals share the gradient."},
      {"amin(Tensor input, int[+] dim=(), bool keepdim=False) -> Tensor", call<&ops::amin>, kBoth | kOut,
       "Smallest element over `dim` (default: all axes); NaN if any is. Equals share the gradient."},
      {"aminmax(Tensor input, *, int? dim=None, bool keepdim=False) -> (Tensor min, Tensor max)", call<&ops::aminmax>,
       kBoth | kOut, "Smallest and largest element."},
      {"max(Tensor input) -> Tensor", call<&ops::max_all>, kBoth | kOut, "Largest element."},
      {"max(Tensor input, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", call<&ops::max_along>,
       kBoth | kOut, "Largest elements along an axis and their first positions."},
      {"max(Tensor input, Tensor other) -> Tensor", call<&ops::maximum>, kBoth | kOut, "Elementwise maximum."},
      {"min(Tensor input) -> Tensor", call<&ops::min_all>, kBoth | kOut, "Smallest element."},
      {"min(Tensor input, int dim, bool keepdim=False) -> (Tensor values, Tensor indices)", call<&ops::min_along>,
       kBoth | kOut, "Smallest elements along an axis and their first positions."},
      {"min(Tensor input, Tensor other) -> Tensor", call<&ops::minimum>, kBoth | kOut, "Elementwise minimum."},
      {"argmax(Tensor input, int? dim=None, bool keepdim=False) -> Tensor", call<&ops::argmax>, kBoth | kOut,
       "First position of the largest element along `dim`, or in the flattened tensor."},
      {"argmin(Tensor input, int? dim=None, bool keepdim=False) -> Tensor", call<&ops::argmin>, kBoth | kOut,
       "First position of the smallest element along `dim`, or in the flattened tensor."},

      {"cumsum(Tensor input, int dim, *, dtype? dtype=None) -> Tensor", call<&ops::cumsum>, kBoth | kOut,
       "Running sum along an axis; float32 is carried in float64, integers in int64."},
      {"cumprod(Tensor input, int dim, *, dtype? dtype=None) -> Tensor", call<&ops::cumprod>, kBoth | kOut,
       "Running product along an axis. The gradient is right where elements are 0."},

      {"softmax(Tensor input, int dim, dtype? dtype=None) -> Tensor", call<&softmax>, kBoth | kOut,
       "exp(x) / sum exp(x) along an axis."},
      {"log_softmax(Tensor input, int dim, dtype? dtype=None) -> Tensor", call<&ops::log_softmax>, kBoth | kOut,
       "x - log sum exp(x) along an axis."},
      {"softmin(Tensor input, int dim, dtype? dtype=None) -> Tensor", call<&ops::softmin>, kHidden,
       "softmax(-x) along an axis."},
  });
}

}  // namespace pydlx::bind
