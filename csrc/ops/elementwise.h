// Arithmetic, comparison, copying and filling. Every function is differentiable unless it says otherwise.
#pragma once
#include "core/memory_format.h"
#include "core/tensor.h"

namespace pydlx::ops {

// Creation and copies.
Tensor zeros_like(const Tensor& x);
Tensor ones_like(const Tensor& x);
Tensor full(const Dims& sizes, Scalar value, DType dtype, Device device);
Tensor clone(const Tensor& x);       // same layout
Tensor contiguous(const Tensor& x);  // x itself when already row-major
// In a format that is not `preserve`: always a copy, a copy unless the elements already lie in it, a copy unless the
// strides already name it.
Tensor clone(const Tensor& x, MemoryFormat format);
Tensor contiguous(const Tensor& x, MemoryFormat format);
Tensor to_format(const Tensor& x, MemoryFormat format);
Tensor clone_as(const Tensor& x,
                const Tensor& layout_like);  // values of x in the dtype and layout of another tensor; no gradient
Tensor clone_with_strides(const Tensor& x, const Dims& strides);
Tensor to_dtype(const Tensor& x, DType dtype);  // x itself when the dtype is already right
Tensor to_device(const Tensor& x, Device device, bool non_blocking = false);  // x itself when it is there already
// What kernels that serve float32 and float64 only read: row-major (or in another format), 16-bit floats widened to
// float32. Carries no gradient.
Tensor wide_operand(const Tensor& x, MemoryFormat format = MemoryFormat::contiguous);
Tensor& copy_(Tensor& target, const Tensor& source, bool non_blocking = false);
Tensor& fill_(Tensor& target, const Tensor& value);  // value is 0-d
Tensor& zero_(Tensor& target);

// Arithmetic.
Tensor neg(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor relu(const Tensor& x);
Tensor& relu_(Tensor& x);
// g where the output y is positive. Linear in g; y enters only through its sign, so it has no gradient.
Tensor relu_gradient(const Tensor& g, const Tensor& y);
Tensor add(const Tensor& a, const Tensor& b, Scalar alpha = 1);  // a + alpha b
Tensor sub(const Tensor& a, const Tensor& b, Scalar alpha = 1);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);  // true division
Tensor maximum(const Tensor& a, const Tensor& b);
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor& add_(Tensor& a, const Tensor& b, Scalar alpha = 1);
Tensor& sub_(Tensor& a, const Tensor& b, Scalar alpha = 1);
Tensor& mul_(Tensor& a, const Tensor& b);
Tensor& div_(Tensor& a, const Tensor& b);

// Comparison: bool results, no gradient.
Tensor eq(const Tensor& a, const Tensor& b);
Tensor ne(const Tensor& a, const Tensor& b);
Tensor lt(const Tensor& a, const Tensor& b);
Tensor le(const Tensor& a, const Tensor& b);
Tensor gt(const Tensor& a, const Tensor& b);
Tensor ge(const Tensor& a, const Tensor& b);
// condition ? a : b, with broadcasting and promotion of a and b.
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
bool has_nan(const Tensor& x);
bool has_nonfinite(const Tensor& x);  // NaN or infinity

// Sums the axes that broadcasting added, so that a gradient gets its operand's shape back.
Tensor sum_to(const Tensor& g, const Dims& sizes);

}  // namespace pydlx::ops
