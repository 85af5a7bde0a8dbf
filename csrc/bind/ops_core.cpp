// Rows of the core ops: arithmetic, comparison, views, reductions, matrix products.
#include "bind/memory_format.h"
#include "bind/rows.h"
#include "kernels/pointwise.h"
#include "ops/elementwise.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

using Format = std::optional<MemoryFormat>;
Tensor clone_in(const Tensor& x, Format format) {
  return format.value_or(MemoryFormat::preserve) == MemoryFormat::preserve ? ops::clone(x) : ops::clone(x, *format);
}
Tensor contiguous_in(const Tensor& x, Format format) {
  if (!format || *format == MemoryFormat::contiguous) return ops::contiguous(x);
  require(*format != MemoryFormat::preserve || x.contiguous_layout(), "contiguous", "memory_format", ErrorKind::Runtime,
          "expected a format to copy into, got preserve_format; use clone()");
  return *format == MemoryFormat::preserve ? x : ops::contiguous(x, *format);
}
bool is_contiguous_in(const Tensor& x, Format format) {
  return has_format(x, format.value_or(MemoryFormat::contiguous));
}

}  // namespace

void bind_core(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"clone(Tensor input, *, object? memory_format=None) -> Tensor", call<&clone_in>, kBoth,
       "A copy in the given memory format, by default with the same layout."},
      {"contiguous(Tensor input, *, object? memory_format=None) -> Tensor", call<&contiguous_in>, kMethod,
       "The tensor itself when its elements lie in the memory format (by default row-major), else a copy that does."},
      {"is_contiguous(Tensor input, *, object? memory_format=None) -> bool", call<&is_contiguous_in>, kMethod,
       "Whether the elements lie in the memory format (by default row-major) without gaps."},
      {"detach(Tensor input) -> Tensor", call<&pydlx::detach>, kBoth, "The same data without gradient history."},
      {"copy_(Tensor input, Tensor src, bool non_blocking=False) -> Tensor", call<&copy_>, kMethod,
       "Copies src into the tensor, with broadcasting and conversion. With non_blocking, copies of one dtype between a "
       "GPU and "
       "pinned memory are queued: their end has to be waited for before the memory is read or written."},
      {"zeros_like(Tensor input) -> Tensor", call<&zeros_like>, kFunction,
       "Zeros with the shape, dtype and layout of the input."},
      {"fill_(Tensor input, Operand value) -> Tensor", call<&fill_>, kBoth, "Sets every element."},
      {"zero_(Tensor input) -> Tensor", call<&zero_>, kBoth, "Sets every element to 0."},
      {"neg(Tensor input) -> Tensor", call<&neg>, kBoth | kOut, "-input"},
      {"abs(Tensor input) -> Tensor", call<&ops::abs>, kBoth | kOut, "|input|"},
      {"exp(Tensor input) -> Tensor", call<&ops::exp>, kBoth | kOut, "e^input; at most 1.01 ULP in float32"},
      {"sqrt(Tensor input) -> Tensor", call<&ops::sqrt>, kBoth | kOut, "Square root, correctly rounded."},
      {"relu(Tensor input) -> Tensor", call<&relu>, kBoth, "max(input, 0)"},
      {"relu_(Tensor input) -> Tensor", call<&relu_>, kBoth, "relu in place"},
      {"add(Operand input, Operand other, *, Number alpha=1) -> Tensor", call<&add>, kBoth | kOut,
       "input + alpha * other"},
      {"sub(Operand input, Operand other, *, Number alpha=1) -> Tensor", call<&sub>, kBoth | kOut,
       "input - alpha * other"},
      {"mul(Operand input, Operand other) -> Tensor", call<&mul>, kBoth | kOut, "input * other"},
      {"maximum(Tensor input, Tensor other) -> Tensor", call<&maximum>, kBoth | kOut, "Elementwise maximum; NaN wins."},
      {"minimum(Tensor input, Tensor other) -> Tensor", call<&minimum>, kBoth | kOut, "Elementwise minimum; NaN wins."},
      {"add_(Tensor input, Operand other, *, Number alpha=1) -> Tensor", call<&add_>, kMethod,
       "input += alpha * other"},
      {"sub_(Tensor input, Operand other, *, Number alpha=1) -> Tensor", call<&sub_>, kMethod,
       "input -= alpha * other"},
      {"mul_(Tensor input, Operand other) -> Tensor", call<&mul_>, kMethod, "input *= other"},
      {"div_(Tensor input, Operand other) -> Tensor", call<&div_>, kMethod, "input /= other"},
      {"eq(Tensor input, Operand other) -> Tensor", call<&eq>, kBoth | kOut, "input == other"},
      {"ne(Tensor input, Operand other) -> Tensor", call<&ne>, kBoth | kOut, "input != other"},
      {"lt(Tensor input, Operand other) -> Tensor", call<&lt>, kBoth | kOut, "input < other"},
      {"le(Tensor input, Operand other) -> Tensor", call<&le>, kBoth | kOut, "input <= other"},
      {"gt(Tensor input, Operand other) -> Tensor", call<&gt>, kBoth | kOut, "input > other"},
      {"ge(Tensor input, Operand other) -> Tensor", call<&ge>, kBoth | kOut, "input >= other"},
      {"where(Tensor condition, Operand input, Operand other) -> Tensor", call<&where>, kFunction | kOut,
       "condition ? input : other"},
      {"as_strided(Tensor input, int[] size, int[] stride, int storage_offset=0) -> Tensor", call<&as_strided>, kBoth,
       "A view with the given geometry on the same storage."},
      {"view(Tensor input, int[*] size) -> Tensor", call<&view>, kMethod,
       "The same elements in a new shape, without a copy."},
      {"reshape(Tensor input, int[*] shape) -> Tensor", call<&reshape>, kBoth,
       "The same elements in a new shape; a view where possible."},
      {"expand(Tensor input, int[*] size) -> Tensor", call<&expand>, kMethod,
       "A view in which axes of size 1 are repeated."},
      {"permute(Tensor input, int[*] dims) -> Tensor", call<&permute>, kBoth, "A view with the axes in a new order."},
      {"transpose(Tensor input, int dim0, int dim1) -> Tensor", call<&transpose>, kBoth,
       "A view with two axes swapped."},
      {"unsqueeze(Tensor input, int dim) -> Tensor", call<&unsqueeze>, kBoth, "A view with a new axis of size 1."},
      {"select(Tensor input, int dim, int index) -> Tensor", call<&ops::select>, kBoth,
       "A view at one index of an axis."},
      {"narrow(Tensor input, int dim, int start, int length) -> Tensor", call<&narrow>, kBoth,
       "A view of a run of indices of an axis."},
  });
}

}  // namespace pydlx::bind
