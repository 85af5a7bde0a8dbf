// Rows of the matrix products and of distances.
#include "bind/rows.h"
#include "ops/activate.h"
#include "ops/distance.h"
#include "ops/linear.h"
#include "ops/matmul.h"

namespace pydlx::bind {
namespace {

Tensor linear_activation_(const Tensor& x, const Tensor& weight, const Tensor& bias, const std::string& activation) {
  return ops::linear_activation(x, weight, bias, ops::parse_activation("linear_activation", activation));
}

}  // namespace

void bind_matmul(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"matmul(Tensor input, Tensor other) -> Tensor", call<&matmul>, kBoth | kOut,
       "Matrix product of the last two axes, leading axes broadcast; 1-d operands are vectors and lose their axis in "
       "the result."},
      {"mm(Tensor input, Tensor mat2) -> Tensor", call<&mm>, kBoth | kOut,
       "(n, m) x (m, p) -> (n, p), without broadcasting."},
      {"bmm(Tensor input, Tensor mat2) -> Tensor", call<&bmm>, kBoth | kOut, "(b, n, m) x (b, m, p) -> (b, n, p)."},
      {"mv(Tensor input, Tensor vec) -> Tensor", call<&mv>, kBoth | kOut, "(n, m) x (m,) -> (n,)."},
      {"dot(Tensor input, Tensor tensor) -> Tensor", call<&dot>, kBoth | kOut,
       "Sum of products of two vectors of one length."},
      {"vdot(Tensor input, Tensor other) -> Tensor", call<&vdot>, kBoth | kOut, "dot, for real numbers."},
      {"inner(Tensor input, Tensor other) -> Tensor", call<&inner>, kBoth | kOut,
       "Sum of products over the last axes."},
      {"outer(Tensor input, Tensor vec2) -> Tensor", call<&outer>, kBoth | kOut, "(n,) x (m,) -> (n, m)."},
      {"ger(Tensor input, Tensor vec2) -> Tensor", call<&outer>, kBoth | kOut, "outer."},
      {"addmm(Tensor input, Tensor mat1, Tensor mat2, *, Number beta=1, Number alpha=1) -> Tensor", call<&addmm>,
       kBoth | kOut, "beta * input + alpha * mat1 @ mat2; input broadcasts to (n, p) and is not read when beta is 0."},
      {"addmv(Tensor input, Tensor mat, Tensor vec, *, Number beta=1, Number alpha=1) -> Tensor", call<&addmv>,
       kBoth | kOut, "beta * input + alpha * mat @ vec."},
      {"addr(Tensor input, Tensor vec1, Tensor vec2, *, Number beta=1, Number alpha=1) -> Tensor", call<&addr>,
       kBoth | kOut, "beta * input + alpha * outer(vec1, vec2)."},
      {"addbmm(Tensor input, Tensor batch1, Tensor batch2, *, Number beta=1, Number alpha=1) -> Tensor", call<&addbmm>,
       kBoth | kOut, "beta * input + alpha * sum over b of batch1[b] @ batch2[b]."},
      {"baddbmm(Tensor input, Tensor batch1, Tensor batch2, *, Number beta=1, Number alpha=1) -> Tensor",
       call<&baddbmm>, kBoth | kOut, "beta * input + alpha * batch1 @ batch2."},
      {"addmm_(Tensor input, Tensor mat1, Tensor mat2, *, Number beta=1, Number alpha=1) -> Tensor", call<&addmm_>,
       kMethod, "addmm in place."},
      {"addmv_(Tensor input, Tensor mat, Tensor vec, *, Number beta=1, Number alpha=1) -> Tensor", call<&addmv_>,
       kMethod, "addmv in place."},
      {"addr_(Tensor input, Tensor vec1, Tensor vec2, *, Number beta=1, Number alpha=1) -> Tensor", call<&addr_>,
       kMethod, "addr in place."},
      {"addbmm_(Tensor input, Tensor batch1, Tensor batch2, *, Number beta=1, Number alpha=1) -> Tensor",
       call<&addbmm_>, kMethod, "addbmm in place."},
      {"baddbmm_(Tensor input, Tensor batch1, Tensor batch2, *, Number beta=1, Number alpha=1) -> Tensor",
       call<&baddbmm_>, kMethod, "baddbmm in place."},
      {"linear(Tensor input, Tensor weight, Tensor? bias=None) -> Tensor", call<&linear>, kHidden,
       "input @ weight.T + bias for input (*, in), weight (out, in), bias (out,)."},
      {"linear_activation(Tensor input, Tensor weight, Tensor? bias=None, *, str activation='relu') -> Tensor",
       call<&linear_activation_>, kHidden,
       "activation(input @ weight.T + bias) in one pass over the result; the bits are those of the two operations. "
       "activation: 'none', 'relu', 'gelu', 'gelu_tanh', 'silu', 'sigmoid' or 'tanh'."},
      {"bilinear(Tensor input1, Tensor input2, Tensor weight, Tensor? bias=None) -> Tensor", call<&bilinear>, kFunction,
       "y_o = input1^T weight_o input2 + bias_o for input1 (*, i), input2 (*, j), weight (o, i, j), bias (o,)."},
      {"_tensordot(Tensor a, Tensor b, int[] dims_a, int[] dims_b) -> Tensor", call<&tensordot>, kFunction,
       "Sum of products over the paired axes."},
      {"_einsum(str equation, Tensor[] operands) -> Tensor", call<&einsum>, kFunction,
       "Einstein summation, contracted left to right."},
      {"_euclidean_distances(Tensor a, Tensor b) -> Tensor", call<&euclidean_distances>, kFunction,
       "Distances of all rows of a (N, P, M) to all rows of b (N, R, M), for cdist."},
      {"_multi_dot(Tensor[] tensors) -> Tensor", call<&multi_dot>, kFunction,
       "Product of a chain of matrices in the cheapest order; the first and last may be vectors."},
      {"matrix_power(Tensor input, int n) -> Tensor", call<&matrix_power>, kBoth | kOut,
       "input multiplied with itself n >= 0 times."},
      {"kron(Tensor input, Tensor other) -> Tensor", call<&kron>, kBoth | kOut, "Kronecker product."},
      {"_cross(Tensor input, Tensor other, int dim) -> Tensor", call<&cross>, kHidden,
       "The cross product along an axis of size 3; equal shapes and dtypes."},
      {"trace(Tensor input) -> Tensor", call<&trace>, kBoth, "Sum of the main diagonal of a matrix."},
  });
}

}  // namespace pydlx::bind
