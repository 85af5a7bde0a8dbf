// Rows of the creation ops. Options follow PyTorch: dtype (default: the default dtype, or what the values say), device,
// requires_grad; layout, pin_memory and memory_format are accepted where PyTorch accepts them.
#include <string>

#include "bind/data.h"
#include "bind/memory_format.h"
#include "bind/rows.h"
#include "ops/creation.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

namespace {

using OptType = std::optional<DType>;
using OptDevice = std::optional<Device>;

Tensor with_grad(Tensor t, bool requires_grad) {
  if (requires_grad) set_requires_grad(t, true);
  return t;
}

using OptFormat = std::optional<MemoryFormat>;

Tensor make(const char* op, const Dims& sizes, DType dtype, OptDevice device, OptFormat format) {
  const MemoryFormat f = format.value_or(MemoryFormat::contiguous);
  require(f != MemoryFormat::preserve, op, "memory_format", ErrorKind::Runtime,
          "expected a format to make the tensor in, got preserve_format; use ", op, "_like()");
  format_strides(sizes, f, op);  // checks the number of axes
  return pydlx::empty(sizes, dtype, device.value_or(default_device()), f);
}
Tensor make_like(const char* op, const Tensor& x, OptType dtype, OptDevice device, OptFormat format) {
  const MemoryFormat f = format.value_or(MemoryFormat::preserve);
  const DType t = dtype.value_or(x.dtype());
  const Device d = device.value_or(x.device());
  if (f == MemoryFormat::preserve) {
    if (d == x.device()) return empty_like(x, t);
    if (x.contiguous_layout() || !is_dense(x.sizes(), x.strides())) return pydlx::empty(x.sizes(), t, d);
    return pydlx::empty_strided(x.sizes(), x.strides(), t, d);
  }
  format_strides(x.sizes(), f, op);
  return pydlx::empty(x.sizes(), t, d, f);
}
Tensor filled(Tensor t, Scalar value) {
  fill_raw(t, value);
  return t;
}
Tensor filled_with(const char* op, Tensor t, Scalar value) {
  require_fits(op, "fill_value", value, t.dtype());
  return filled(std::move(t), value);
}

Tensor bind_empty(const Dims& size, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(make("empty", size, dtype.value_or(default_dtype()), device, format), grad);
}
Tensor bind_zeros(const Dims& size, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(filled(make("zeros", size, dtype.value_or(default_dtype()), device, format), 0), grad);
}
Tensor bind_ones(const Dims& size, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(filled(make("ones", size, dtype.value_or(default_dtype()), device, format), 1), grad);
}
Tensor bind_full(const Dims& size, Scalar value, OptType dtype, PyObject*, OptDevice device, bool, bool grad,
                 OptFormat format) {
  return with_grad(
      filled_with("full", make("full", size, dtype.value_or(value.natural_dtype()), device, format), value), grad);
}
Tensor bind_empty_strided(const Dims& size, const Dims& stride, OptType dtype, PyObject*, OptDevice device, bool,
                          bool grad) {
  return with_grad(
      ops::empty_with_strides(size, stride, dtype.value_or(default_dtype()), device.value_or(default_device())), grad);
}

Tensor bind_empty_like(const Tensor& x, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(make_like("empty_like", x, dtype, device, format), grad);
}
Tensor bind_zeros_like(const Tensor& x, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(filled(make_like("zeros_like", x, dtype, device, format), 0), grad);
}
Tensor bind_ones_like(const Tensor& x, OptType dtype, PyObject*, OptDevice device, bool, bool grad, OptFormat format) {
  return with_grad(filled(make_like("ones_like", x, dtype, device, format), 1), grad);
}
Tensor bind_full_like(const Tensor& x, Scalar value, OptType dtype, PyObject*, OptDevice device, bool, bool grad,
                      OptFormat format) {
  return with_grad(filled_with("full_like", make_like("full_like", x, dtype, device, format), value), grad);
}

Tensor new_empty(const Tensor& x, const Dims& size, OptType dtype, OptDevice device, bool grad, PyObject*, bool) {
  return with_grad(pydlx::empty(size, dtype.value_or(x.dtype()), device.value_or(x.device())), grad);
}
Tensor new_zeros(const Tensor& x, const Dims& size, OptType dtype, OptDevice device, bool grad, PyObject*, bool) {
  return with_grad(filled(pydlx::empty(size, dtype.value_or(x.dtype()), device.value_or(x.device())), 0), grad);
}
Tensor new_ones(const Tensor& x, const Dims& size, OptType dtype, OptDevice device, bool grad, PyObject*, bool) {
  return with_grad(filled(pydlx::empty(size, dtype.value_or(x.dtype()), device.value_or(x.device())), 1), grad);
}
Tensor new_full(const Tensor& x, const Dims& size, Scalar value, OptType dtype, OptDevice device, bool grad, PyObject*,
                bool) {
  return with_grad(
      filled_with("new_full", pydlx::empty(size, dtype.value_or(x.dtype()), device.value_or(x.device())), value), grad);
}
Tensor new_tensor(const Tensor& x, PyObject* data, OptType dtype, OptDevice device, bool grad) {
  return with_grad(tensor_from_data(data, dtype.value_or(x.dtype()), device ? device : x.device()), grad);
}
Tensor from_data(PyObject* data, OptType dtype, OptDevice device, bool grad) {
  return with_grad(tensor_from_data(data, dtype, device), grad);
}

Tensor arange_end(Scalar end, OptType dtype, PyObject*, OptDevice device, bool, bool grad) {
  return with_grad(ops::arange(std::int64_t{0}, end, std::int64_t{1}, dtype, device.value_or(default_device())), grad);
}
Tensor arange(Scalar start, Scalar end, Scalar step, OptType dtype, PyObject*, OptDevice device, bool, bool grad) {
  return with_grad(ops::arange(start, end, step, dtype, device.value_or(default_device())), grad);
}
Tensor linspace(Scalar start, Scalar end, std::int64_t steps, OptType dtype, PyObject*, OptDevice device, bool,
                bool grad) {
  return with_grad(ops::linspace(start, end, steps, dtype.value_or(default_dtype()), device.value_or(default_device())),
                   grad);
}
Tensor logspace(Scalar start, Scalar end, std::int64_t steps, double base, OptType dtype, PyObject*, OptDevice device,
                bool, bool grad) {
  return with_grad(
      ops::logspace(start, end, steps, base, dtype.value_or(default_dtype()), device.value_or(default_device())), grad);
}
Tensor eye(std::int64_t n, std::optional<std::int64_t> m, OptType dtype, PyObject*, OptDevice device, bool, bool grad) {
  return with_grad(ops::eye(n, m.value_or(n), dtype.value_or(default_dtype()), device.value_or(default_device())),
                   grad);
}
Tensor scalar_tensor(Scalar value, OptType dtype, PyObject*, OptDevice device, bool, bool grad) {
  return with_grad(
      filled_with("scalar_tensor", pydlx::empty({}, dtype.value_or(default_dtype()), device.value_or(default_device())),
                  value),
      grad);
}
Tensor& tril_(Tensor& x, std::int64_t diagonal) { return ops::copy_(x, ops::tril(x, diagonal)); }
Tensor& triu_(Tensor& x, std::int64_t diagonal) { return ops::copy_(x, ops::triu(x, diagonal)); }
Tensor tril_indices(std::int64_t row, std::int64_t col, std::int64_t offset, OptType dtype, OptDevice device, PyObject*,
                    bool) {
  return ops::tril_indices(row, col, offset, dtype.value_or(DType::Int64), device.value_or(default_device()));
}
Tensor triu_indices(std::int64_t row, std::int64_t col, std::int64_t offset, OptType dtype, OptDevice device, PyObject*,
                    bool) {
  return ops::triu_indices(row, col, offset, dtype.value_or(DType::Int64), device.value_or(default_device()));
}

#define PYDLX_OPTIONS \
  "dtype? dtype=None, object? layout=None, device? device=None, bool pin_memory=False, bool requires_grad=False"
#define PYDLX_NEW_OPTIONS \
  "dtype? dtype=None, device? device=None, bool requires_grad=False, object? layout=None, bool pin_memory=False"

}  // namespace

void bind_creation(OpRegistry& r) {
  r.add({
      {"empty(int[*] size, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_empty>,
       kFunction | kOut, "Uninitialised tensor."},
      {"zeros(int[*] size, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_zeros>,
       kFunction | kOut, "Tensor of zeros."},
      {"ones(int[*] size, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_ones>,
       kFunction | kOut, "Tensor of ones."},
      {"full(int[] size, Number fill_value, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor",
       call<&bind_full>, kFunction | kOut, "Tensor with one value everywhere; the dtype follows the value."},
      {"empty_strided(int[] size, int[] stride, *, " PYDLX_OPTIONS ") -> Tensor", call<&bind_empty_strided>, kFunction,
       "Uninitialised tensor with the given strides."},
      {"empty_like(Tensor input, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_empty_like>,
       kFunction, "Uninitialised tensor with input's shape, dtype and layout."},
      {"zeros_like(Tensor input, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_zeros_like>,
       kFunction, "Zeros with input's shape, dtype and layout."},
      {"ones_like(Tensor input, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor", call<&bind_ones_like>,
       kFunction, "Ones with input's shape, dtype and layout."},
      {"full_like(Tensor input, Number fill_value, *, " PYDLX_OPTIONS ", object? memory_format=None) -> Tensor",
       call<&bind_full_like>, kFunction, "One value with input's shape, dtype and layout."},
      {"new_empty(Tensor input, int[*] size, *, " PYDLX_NEW_OPTIONS ") -> Tensor", call<&new_empty>, kMethod,
       "Uninitialised, dtype like input."},
      {"new_zeros(Tensor input, int[*] size, *, " PYDLX_NEW_OPTIONS ") -> Tensor", call<&new_zeros>, kMethod,
       "Zeros, dtype like input."},
      {"new_ones(Tensor input, int[*] size, *, " PYDLX_NEW_OPTIONS ") -> Tensor", call<&new_ones>, kMethod,
       "Ones, dtype like input."},
      {"new_full(Tensor input, int[] size, Number fill_value, *, " PYDLX_NEW_OPTIONS ") -> Tensor", call<&new_full>,
       kMethod, "One value, dtype like input."},
      {"new_tensor(Tensor input, object data, *, dtype? dtype=None, device? device=None, bool requires_grad=False) -> "
       "Tensor",
       call<&new_tensor>, kMethod, "A tensor with the given values, dtype like input."},
      {"_tensor_from_data(object data, dtype? dtype=None, device? device=None, bool requires_grad=False) -> Tensor",
       call<&from_data>, kFunction, "A tensor from a number, nested lists, arrays or tensors."},
      {"tolist(Tensor input) -> object", call<&to_list>, kMethod,
       "The values as nested Python lists (a number for a 0-d tensor)."},
      {"arange(Number end, *, " PYDLX_OPTIONS ") -> Tensor", call<&arange_end>, kFunction | kOut,
       "0, 1, ... below end."},
      {"arange(Number start, Number end, Number step=1, *, " PYDLX_OPTIONS ") -> Tensor", call<&arange>,
       kFunction | kOut,
       "start, start + step, ... before end: ceil((end - start) / step) values. int64 when all arguments are "
       "integers."},
      {"linspace(Number start, Number end, int steps, *, " PYDLX_OPTIONS ") -> Tensor", call<&linspace>,
       kFunction | kOut, "steps evenly spaced values from start to end, both included."},
      {"logspace(Number start, Number end, int steps, float base=10.0, *, " PYDLX_OPTIONS ") -> Tensor",
       call<&logspace>, kFunction | kOut, "base raised to evenly spaced exponents."},
      {"eye(int n, int? m=None, *, " PYDLX_OPTIONS ") -> Tensor", call<&eye>, kFunction | kOut,
       "Ones on the diagonal of an n x m matrix (m = n)."},
      {"scalar_tensor(Number s, *, " PYDLX_OPTIONS ") -> Tensor", call<&scalar_tensor>, kFunction, "A 0-d tensor."},
      {"tril(Tensor input, int diagonal=0) -> Tensor", call<&ops::tril>, kBoth | kOut,
       "Lower triangle of the last two axes, other elements 0."},
      {"triu(Tensor input, int diagonal=0) -> Tensor", call<&ops::triu>, kBoth | kOut,
       "Upper triangle of the last two axes, other elements 0."},
      {"tril_(Tensor input, int diagonal=0) -> Tensor", call<&tril_>, kMethod, "tril in place"},
      {"triu_(Tensor input, int diagonal=0) -> Tensor", call<&triu_>, kMethod, "triu in place"},
      {"tril_indices(int row, int col, int offset=0, *, dtype? dtype=None, device? device=None, object? layout=None, "
       "bool pin_memory=False) -> Tensor",
       call<&tril_indices>, kFunction, "Coordinates of the lower triangle, shape (2, count)."},
      {"triu_indices(int row, int col, int offset=0, *, dtype? dtype=None, device? device=None, object? layout=None, "
       "bool pin_memory=False) -> Tensor",
       call<&triu_indices>, kFunction, "Coordinates of the upper triangle, shape (2, count)."},
  });
}

}  // namespace pydlx::bind
