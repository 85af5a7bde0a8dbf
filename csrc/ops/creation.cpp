#include "ops/creation.h"

#include <cmath>
#include <limits>

#include "autograd/node.h"
#include "core/parallel.h"
#include "kernels/indexing.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

void run_range(const char* op, const Tensor& out, RangeFill r) {
  r.out = out.data();
  r.n = out.numel();
  if (r.n == 0) return;
  kernel_or_fail(kernels<IndexingKernels>(out.device()).range[static_cast<int>(out.dtype())], op, out.device(),
                 out.dtype())(r);
}

std::int64_t count_of(double n, const char* op) {
  require(n >= 0 && n < 9.2e18, op, "", ErrorKind::Value, "expected a range with fewer than 2^63 elements, got ", n);
  return static_cast<std::int64_t>(n);
}

}  // namespace

Tensor arange(Scalar start, Scalar end, Scalar step, std::optional<DType> wanted, Device device) {
  const char* op = "arange";
  const bool integral = !start.is_float() && !end.is_float() && !step.is_float();
  const DType dtype = wanted ? *wanted : integral ? DType::Int64 : default_dtype();
  require(dtype != DType::Bool, op, "dtype", ErrorKind::DType, "expected a number type, got bool");
  for (const auto& [v, name] : {std::pair(start, "start"), std::pair(end, "end"), std::pair(step, "step")})
    require(!v.is_float() || std::isfinite(v.f), op, name, ErrorKind::Value, "expected a finite number, got ",
            v.to_double());
  require(step.is_float() ? step.f != 0 : step.i != 0, op, "step", ErrorKind::Value, "expected a non-zero step");
  const bool up = step.to_double() > 0;
  RangeFill r;
  std::int64_t n = 0;
  if (integral) {
    require(up ? end.i >= start.i : end.i <= start.i, op, "end", ErrorKind::Value,
            "expected an end on the side of the step, got start ", start.i, ", end ", end.i, ", step ", step.i);
    // Distance and step as unsigned numbers: exact even from INT64_MIN to INT64_MAX.
    const auto span = up ? static_cast<std::uint64_t>(end.i) - static_cast<std::uint64_t>(start.i)
                         : static_cast<std::uint64_t>(start.i) - static_cast<std::uint64_t>(end.i);
    const auto stride = up ? static_cast<std::uint64_t>(step.i) : 0 - static_cast<std::uint64_t>(step.i);
    const std::uint64_t count = span / stride + (span % stride != 0);
    require(count <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()), op, "", ErrorKind::Value,
            "the range has more than 2^63 - 1 elements");
    n = static_cast<std::int64_t>(count);
  } else {
    const double a = start.to_double(), b = end.to_double(), s = step.to_double();
    require(up ? b >= a : b <= a, op, "end", ErrorKind::Value, "expected an end on the side of the step, got start ", a,
            ", end ", b, ", step ", s);
    n = count_of(std::ceil((b - a) / s), op);
  }
  if (is_integral(dtype)) {  // fractions are dropped from start and step before stepping, as in PyTorch
    r.integral = true;
    r.int_start = start.to_int();
    r.int_step = step.to_int();
  }
  r.start = start.to_double();
  r.step = step.to_double();
  Tensor out = empty({n}, dtype, device);
  run_range(op, out, r);
  return out;
}

namespace {

Tensor spaced(const char* op, Scalar start, Scalar end, std::int64_t steps, double base, DType dtype, Device device) {
  require(steps >= 0, op, "steps", ErrorKind::Value, "expected a non-negative number of steps, got ", steps);
  require(dtype != DType::Bool, op, "dtype", ErrorKind::DType, "expected a number type, got bool");
  RangeFill r;
  r.start = start.to_double();
  r.last = end.to_double();
  r.step = steps > 1 ? (r.last - r.start) / static_cast<double>(steps - 1) : 0;
  r.symmetric = steps > 1;
  r.base = base;
  Tensor out = empty({steps}, dtype, device);
  run_range(op, out, r);
  return out;
}

}  // namespace

Tensor linspace(Scalar start, Scalar end, std::int64_t steps, DType dtype, Device device) {
  return spaced("linspace", start, end, steps, 0, dtype, device);
}

Tensor logspace(Scalar start, Scalar end, std::int64_t steps, double base, DType dtype, Device device) {
  require(base > 0, "logspace", "base", ErrorKind::Value, "expected a positive base, got ", base);
  return spaced("logspace", start, end, steps, base, dtype, device);
}

Tensor eye(std::int64_t rows, std::int64_t cols, DType dtype, Device device) {
  require(rows >= 0 && cols >= 0, "eye", "n", ErrorKind::Value, "expected non-negative sizes, got ", rows, " and ",
          cols);
  Tensor out = full({rows, cols}, 0, dtype, device);
  const std::int64_t n = std::min(rows, cols);
  if (n > 0) fill_raw(alias(out, {n}, {n > 1 ? cols + 1 : 1}, 0), 1);
  return out;
}

Tensor empty_with_strides(const Dims& sizes, const Dims& strides, DType dtype, Device device) {
  const char* op = "empty_strided";
  require(sizes.size() == strides.size(), op, "stride", ErrorKind::Shape, "expected one stride per size (",
          sizes.size(), "), got ", strides.size());
  const std::int64_t n = checked_numel(sizes, op);
  std::int64_t span = n > 0 ? 1 : 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    require(strides[i] >= 0, op, "stride", ErrorKind::Value, "expected non-negative strides, got ", strides);
    if (n > 0) span = checked_add(span, checked_mul(sizes[i] - 1, strides[i], op), op);
  }
  return alias(empty({span}, dtype, device), sizes, strides, 0);
}

namespace {

Tensor triangle(const char* op, const Tensor& x, std::int64_t diagonal, bool upper) {
  require(x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least two dimensions, got shape ", x.sizes());
  const Tensor xc = contiguous(detach(x));
  Tensor out = empty(x.sizes(), x.dtype(), x.device());
  if (out.numel() > 0) {
    Triangle t;
    t.x = xc.data();
    t.out = out.data();
    t.rows = x.size(-2);
    t.cols = x.size(-1);
    t.batch = out.numel() / (t.rows * t.cols);
    t.diagonal =
        std::clamp<std::int64_t>(diagonal, -t.rows, t.cols);  // beyond that nothing changes, and sums cannot overflow
    t.upper = upper;
    kernel_or_fail(kernels<IndexingKernels>(x.device()).triangle[width_index(x.dtype())], op, x.device(), x.dtype())(t);
  }
  if (any_requires_grad(x))
    record(op, out, {&x}, [op, diagonal, upper](Backward& bw) { bw.set(0, triangle(op, bw.grad(), diagonal, upper)); });
  return out;
}

// The sum of clamp(i + shift, 0, cols) over i < rows.
std::int64_t ramp_sum(std::int64_t rows, std::int64_t shift, std::int64_t cols) {
  const std::int64_t low = std::clamp<std::int64_t>(-shift, 0, rows);
  const std::int64_t high = std::clamp<std::int64_t>(cols - shift, low, rows), n = high - low;
  return n * (low + shift) + n * (n - 1) / 2 + (rows - high) * cols;  // none of these exceeds rows * cols
}

Tensor triangle_indices(const char* op, std::int64_t rows, std::int64_t cols, std::int64_t offset, DType dtype,
                        Device device, bool upper) {
  require(rows >= 0 && cols >= 0, op, "row", ErrorKind::Value, "expected non-negative sizes, got ", rows, " and ",
          cols);
  if (checked_numel({rows, cols}, op) == 0) return empty({2, 0}, dtype, device);
  // The first element above the triangle, or of it, is in column row + shift.
  const std::int64_t shift = upper ? std::clamp(offset, 1 - rows, cols) : std::clamp(offset, -rows, cols - 1) + 1;
  const auto before = [&](std::int64_t row) {  // elements in the rows above
    const std::int64_t lower = ramp_sum(row, shift, cols);
    return upper ? row * cols - lower : lower;
  };
  const std::int64_t count = before(rows);
  Tensor out = empty({2, count}, DType::Int64, Device{});
  std::int64_t *const row_of = static_cast<std::int64_t*>(out.data()), *const column_of = row_of + count;
  constexpr std::int64_t kGrain = 32768;
  // Rows that have elements.
  const std::int64_t top = upper ? 0 : std::max<std::int64_t>(1 - shift, 0),
                     bottom = upper ? std::min(cols - shift, rows) : rows;
  parallel_for(count > 0 ? bottom - top : 0, kGrain / cols + 1, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t at = before(top + begin);
    for (std::int64_t row = top + begin; row < top + end; ++row) {
      const std::int64_t edge = std::clamp<std::int64_t>(row + shift, 0, cols);
      const std::int64_t first = upper ? edge : 0, n = upper ? cols - edge : edge;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) {
        row_of[at + i] = row;
        column_of[at + i] = first + i;
      }
      at += n;
    }
  });
  return to_dtype(to_device(out, device), dtype);
}

}  // namespace

Tensor tril(const Tensor& x, std::int64_t diagonal) { return triangle("tril", x, diagonal, false); }
Tensor triu(const Tensor& x, std::int64_t diagonal) { return triangle("triu", x, diagonal, true); }
Tensor tril_indices(std::int64_t rows, std::int64_t cols, std::int64_t offset, DType dtype, Device device) {
  return triangle_indices("tril_indices", rows, cols, offset, dtype, device, false);
}
Tensor triu_indices(std::int64_t rows, std::int64_t cols, std::int64_t offset, DType dtype, Device device) {
  return triangle_indices("triu_indices", rows, cols, offset, dtype, device, true);
}

}  // namespace pydlx::ops
