// The driver of all elementwise ops: promotion, broadcasting, output allocation, axis merging, and the call of one
// kernel. The ops themselves (with their gradients) are in elementwise.h, activations.h, ...
#pragma once
#include <initializer_list>
#include <optional>

#include "ops/dispatch.h"

namespace pydlx {

// Declared in kernels/pointwise.h, which only the users of single ops include: a new op then rebuilds little.
enum class UnaryOp : int;
enum class BinaryOp : int;
enum class TernaryOp : int;
enum class CompareOp : int;
struct Elementwise;

// Sizes of the broadcast of `a` and `b` (NumPy rules).
Dims broadcast_sizes(const char* op, const Dims& a, const Dims& b);
Dims broadcast_sizes(const char* op, std::initializer_list<const Tensor*> tensors);

// Result dtype by PyTorch's rules: dimensioned tensors first, then 0-d tensors, then Python numbers may raise the
// category.
DType result_type(std::initializer_list<const Tensor*> tensors);
// The floating type an op that has no integer form computes in.
inline DType float_type(DType t) { return is_floating(t) ? t : default_dtype(); }

inline bool is_number(const Tensor& t) { return t.is_wrapped_number() && t.ndim() == 0 && t.is_cpu(); }
// For numbers that are written as they are; those that are added, multiplied or compared wrap around.
inline void require_number_fits(const char* op, const char* argument, const Tensor& t, DType dtype) {
  if (is_number(t)) require_fits(op, argument, load_scalar(t.data(), t.dtype()), dtype);
}

// Fills `e` for out and inputs, which already have the dtypes the kernel wants. Inputs broadcast to out's sizes.
// 0-d CPU inputs become immediates, converted to `compute` when it is given.
void build_elementwise(Elementwise& e, const Tensor& out, std::initializer_list<const Tensor*> inputs,
                       std::optional<DType> compute = std::nullopt);

// A tensor for the result of an elementwise op: broadcast sizes, axis order of the first full-size strided input.
Tensor elementwise_output(const Dims& sizes, DType dtype, Device device, std::initializer_list<const Tensor*> inputs);

struct PointwiseParams {
  double p[4] = {};
};

// y = op(x). With `inplace`, the result is written into x. Integer input is promoted to the default float type when
// `to_float`.
Tensor run_unary(UnaryOp op, const char* name, const Tensor& x, bool to_float, bool inplace = false,
                 PointwiseParams params = {});
// out = op(a, b) after promotion and broadcasting. With `inplace` the result is written into a, whose dtype and shape
// stay.
Tensor run_binary(BinaryOp op, const char* name, const Tensor& a, const Tensor& b, bool to_float, bool inplace = false,
                  PointwiseParams params = {});
// The target of an in-place ternary op is its first operand.
Tensor run_ternary(TernaryOp op, const char* name, const Tensor& a, const Tensor& b, const Tensor& c, bool to_float,
                   bool inplace = false, PointwiseParams params = {});
Tensor run_compare(CompareOp op, const char* name, const Tensor& a, const Tensor& b);

// out <- src with conversion and broadcasting, no autograd, no version bump.
void copy_raw(const Tensor& out, const Tensor& src, bool non_blocking = false);
// The same for non-empty tensors on different devices. A copy that does not block needs a source that stays alive and
// unchanged until the device's stream has passed it.
void copy_between(const Tensor& out, const Tensor& src, bool non_blocking);
void fill_raw(const Tensor& out, Scalar value);

}  // namespace pydlx
