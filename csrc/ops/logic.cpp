#include "ops/logic.h"

#include <cmath>
#include <limits>

#include "kernels/pointwise.h"
#include "ops/elementwise_op.h"
#include "ops/math.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

using detail::number;
using detail::zero;

namespace {
constexpr double kInf = std::numeric_limits<double>::infinity();

// Bytes are bools as they are: a true is any byte but 0.
Tensor truth(const Tensor& x) { return itemsize(x.dtype()) == 1 ? view_dtype(detach(x), DType::Bool) : ne(x, zero()); }
Tensor constant(const Tensor& x, bool value) { return full(x.sizes(), value, DType::Bool, x.device()); }
bool all_true(const Tensor& mask) { return item(all(mask, {}, false)).i != 0; }

void refuse_floats(const char* name, const Tensor& a, const Tensor& b) {
  const DType t = result_type({&a, &b});
  require(!is_floating(t), name, "", ErrorKind::DType, "expected integers or bools, got ", a.dtype(), " and ",
          b.dtype());
}
Tensor bits(BinaryOp op, const char* name, const Tensor& a, const Tensor& b) {
  refuse_floats(name, a, b);
  return run_binary(op, name, a, b, false);
}
}  // namespace

Tensor logical_not(const Tensor& x) {
  return itemsize(x.dtype()) == 1 ? run_unary(UnaryOp::bitwise_not, "logical_not", truth(x), false) : eq(x, zero());
}
Tensor logical_and(const Tensor& a, const Tensor& b) {
  return run_binary(BinaryOp::bitwise_and, "logical_and", truth(a), truth(b), false);
}
Tensor logical_or(const Tensor& a, const Tensor& b) {
  return run_binary(BinaryOp::bitwise_or, "logical_or", truth(a), truth(b), false);
}
Tensor logical_xor(const Tensor& a, const Tensor& b) {
  return run_binary(BinaryOp::bitwise_xor, "logical_xor", truth(a), truth(b), false);
}

Tensor bitwise_not(const Tensor& x) {
  refuse_floats("bitwise_not", x, x);
  return run_unary(UnaryOp::bitwise_not, "bitwise_not", x, false);
}
Tensor bitwise_and(const Tensor& a, const Tensor& b) { return bits(BinaryOp::bitwise_and, "bitwise_and", a, b); }
Tensor bitwise_or(const Tensor& a, const Tensor& b) { return bits(BinaryOp::bitwise_or, "bitwise_or", a, b); }
Tensor bitwise_xor(const Tensor& a, const Tensor& b) { return bits(BinaryOp::bitwise_xor, "bitwise_xor", a, b); }
Tensor bitwise_left_shift(const Tensor& a, const Tensor& b) {
  return bits(BinaryOp::left_shift, "bitwise_left_shift", a, b);
}
Tensor bitwise_right_shift(const Tensor& a, const Tensor& b) {
  return bits(BinaryOp::right_shift, "bitwise_right_shift", a, b);
}

Tensor isnan(const Tensor& x) { return is_floating(x.dtype()) ? ne(x, x) : constant(x, false); }
Tensor isinf(const Tensor& x) { return is_floating(x.dtype()) ? eq(abs(detach(x)), number(kInf)) : constant(x, false); }
Tensor isposinf(const Tensor& x) { return is_floating(x.dtype()) ? eq(x, number(kInf)) : constant(x, false); }
Tensor isneginf(const Tensor& x) { return is_floating(x.dtype()) ? eq(x, number(-kInf)) : constant(x, false); }
Tensor isfinite(const Tensor& x) {
  return is_floating(x.dtype()) ? lt(abs(detach(x)), number(kInf)) : constant(x, true);
}
Tensor isreal(const Tensor& x) { return constant(x, true); }
Tensor signbit(const Tensor& x) {
  if (x.dtype() == DType::Bool) return constant(x, false);
  if (!is_floating(x.dtype())) return lt(x, zero());
  const std::size_t size = itemsize(x.dtype());  // the sign bit is that of an integer of the same width
  return lt(view_dtype(detach(x), size == 2 ? DType::Int16 : size == 4 ? DType::Int32 : DType::Int64), zero());
}

Tensor isclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  require(rtol >= 0 && atol >= 0, "isclose", rtol >= 0 ? "atol" : "rtol", ErrorKind::Value,
          "expected a tolerance of at least 0, got ", rtol >= 0 ? atol : rtol);
  require(a.dtype() == b.dtype(), "isclose", "other", ErrorKind::DType, "expected ", a.dtype(), " like input, got ",
          b.dtype());
  const Tensor x = detach(a), y = detach(b);
  Tensor close = eq(x, y);
  if (is_floating(x.dtype())) {
    if (equal_nan) close = logical_or(close, logical_and(isnan(x), isnan(y)));
    const Tensor allowed = add(mul(abs(y), number(rtol)), number(atol));
    // An infinite y would allow anything.
    return logical_or(close, logical_and(le(abs(sub(x, y)), allowed), isfinite(y)));
  }
  if (rtol == 0 && atol == 0) return close;
  const Tensor u = to_dtype(x, DType::Float64), v = to_dtype(y, DType::Float64);
  return logical_or(close, le(abs(sub(u, v)), add(mul(abs(v), number(rtol)), number(atol))));
}

bool allclose(const Tensor& a, const Tensor& b, double rtol, double atol, bool equal_nan) {
  return all_true(isclose(a, b, rtol, atol, equal_nan));
}

bool equal(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  require(a.device() == b.device(), "equal", "other", ErrorKind::Device, "expected ", a.device(), ", got ", b.device());
  return all_true(eq(a, b));
}

namespace {
// The fill value in x's dtype; one that would raise the category is refused, as a 1.5 would silently become 1, but for
// numbers that make bools or are whole.
Tensor fill_value(const char* name, const Tensor& x, const Tensor& mask, const Tensor& value) {
  require(mask.dtype() == DType::Bool, name, "mask", ErrorKind::DType, "expected a bool tensor, got ", mask.dtype());
  require(value.ndim() == 0, name, "value", ErrorKind::Shape, "expected a number or a 0-d tensor, got shape ",
          value.sizes());
  const auto whole = [&] {
    const double v = scalar_of(value).to_double();
    return v == std::trunc(v);
  };
  require(dtype_category(value.dtype()) <= dtype_category(x.dtype()) ||
              (is_number(value) && (x.dtype() == DType::Bool || whole())),
          name, "value", ErrorKind::DType, "expected a value that fits ", x.dtype(), ", got ", value.dtype());
  require_number_fits(name, "value", value, x.dtype());
  return to_dtype(value, x.dtype());
}
}  // namespace

Tensor masked_fill(const Tensor& x, const Tensor& mask, const Tensor& value) {
  return where(mask, fill_value("masked_fill", x, mask, value), x);
}

Tensor& masked_fill_(Tensor& x, const Tensor& mask, const Tensor& value) {
  const char* name = "masked_fill_";
  if (any_requires_grad(x, value))
    return detail::assign(name, x, [&](const Tensor& t) { return masked_fill(t, mask, value); });
  check_inplace(x, name);
  const Tensor v = fill_value(name, x, mask, value);
  require(broadcast_sizes(name, x.sizes(), mask.sizes()) == x.sizes(), name, "mask", ErrorKind::Shape,
          "expected a shape that broadcasts to ", x.sizes(), ", got ", mask.sizes());
  const Device device = common_device(name, {&x, &mask, &v});
  if (x.numel() > 0) {
    Elementwise e;
    const Tensor m = partially_overlaps(x, mask) ? clone(mask) : mask;
    build_elementwise(e, x, {&m, &v, &x});
    kernel_or_fail(kernels<PointwiseKernels>(device).where[static_cast<int>(x.dtype())], name, device, x.dtype())(e);
  }
  bump_version(x, name);
  return x;
}

}  // namespace pydlx::ops
