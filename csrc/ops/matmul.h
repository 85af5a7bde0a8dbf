// Matrix products. All are differentiable, to any order, and take any strides without copying where the kernels can.
#pragma once
#include "core/tensor.h"

namespace pydlx {
struct Gemm;
}

namespace pydlx::ops {

// PyTorch's matmul: dot, matrix-vector, matrix-matrix, batched with broadcasting.
Tensor matmul(const Tensor& a, const Tensor& b);
Tensor mm(const Tensor& a, const Tensor& b);     // (m, k) x (k, n)
Tensor bmm(const Tensor& a, const Tensor& b);    // (b, m, k) x (b, k, n)
Tensor mv(const Tensor& a, const Tensor& v);     // (m, k) x (k)
Tensor dot(const Tensor& a, const Tensor& b);    // (k) x (k)
Tensor vdot(const Tensor& a, const Tensor& b);   // dot, for real numbers
Tensor inner(const Tensor& a, const Tensor& b);  // sum over the last axes
Tensor outer(const Tensor& a, const Tensor& b);  // (m) x (n) -> (m, n)

// beta * input + alpha * product, input broadcast to the product's shape; with beta 0 the input is not read.
Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha);
Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& v, Scalar beta, Scalar alpha);
Tensor addr(const Tensor& input, const Tensor& v, const Tensor& w, Scalar beta, Scalar alpha);
Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta,
              Scalar alpha);  // summed over the batch
Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha);
Tensor& addmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha);
Tensor& addmv_(Tensor& input, const Tensor& a, const Tensor& v, Scalar beta, Scalar alpha);
Tensor& addr_(Tensor& input, const Tensor& v, const Tensor& w, Scalar beta, Scalar alpha);
Tensor& addbmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha);
Tensor& baddbmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha);

// Sum over the paired axes: axes_a[i] of a with axes_b[i] of b; the other axes follow in order, a's first.
Tensor tensordot(const Tensor& a, const Tensor& b, const Dims& axes_a, const Dims& axes_b);
// Product of a chain of matrices in the order that needs the fewest multiplications; the ends may be vectors.
Tensor multi_dot(const TensorList& matrices);
Tensor matrix_power(const Tensor& a, std::int64_t n);  // n >= 0, by repeated squaring
Tensor kron(const Tensor& a, const Tensor& b);
// The cross product along an axis of size 3 of two tensors of equal shape and dtype.
Tensor cross(const Tensor& a, const Tensor& b, std::int64_t axis);
Tensor trace(const Tensor& x);

// Einstein summation in PyTorch's notation: "bij,bjk->bik", ellipsis, repeated indices. Contracts left to right.
Tensor einsum(const std::string& equation, const TensorList& operands);

// Shared by the files of this family: calls the backend's kernel, refuses operands of different devices or dtypes, and
// flattens leading axes into rows.
void run_gemm(const char* op, const Gemm& g, DType dtype, Device device);
void check_operands(const char* op, const char* argument, const Tensor& a, const Tensor& b);
Tensor as_rows(const Tensor& a);

}  // namespace pydlx::ops
