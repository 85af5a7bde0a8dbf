#include "ops/linear.h"

#include "autograd/node.h"
#include "ops/activate.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/views.h"

namespace pydlx::ops {
namespace {

void check(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require(x.ndim() > 0, "linear", "input", ErrorKind::Shape, "expected at least one axis, got a 0-d tensor");
  require((weight.ndim() == 2 || weight.ndim() == 1) && weight.size(-1) == x.size(-1), "linear", "weight",
          ErrorKind::Shape, "expected shape (out_features, ", x.size(-1), ") for input of shape ", x.sizes(), ", got ",
          weight.sizes());
  check_operands("linear", "weight", x, weight);
  if (!bias.defined()) return;
  const bool fits = weight.ndim() == 1 ? bias.ndim() == 0 : bias.ndim() == 1 && bias.size(0) == weight.size(0);
  require(fits, "linear", "bias", ErrorKind::Shape, "expected shape ",
          weight.ndim() == 1 ? Dims{} : Dims{weight.size(0)}, ", got ", bias.sizes());
  check_operands("linear", "bias", x, bias);
}

// On raw data, for a weight of two axes: flattening, product, bias and activation.
Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  const std::int64_t out_features = weight.size(0), in_features = weight.size(1);
  const Tensor rows = as_rows(detach(x)), b = bias.defined() ? contiguous(detach(bias)) : Tensor();
  Dims sizes = x.sizes();
  sizes.back() = out_features;
  Tensor out = empty(sizes, x.dtype(), x.device());
  if (out.numel() == 0) return out;
  Gemm g;
  g.m = rows.size(0);
  g.n = out_features;
  g.k = in_features;
  g.a = rows.data();
  g.a_row = rows.stride(0);
  g.a_col = rows.stride(1);
  g.b = weight.data();
  g.b_row = weight.stride(1);
  g.b_col = weight.stride(0);
  g.c = out.data();
  g.c_row = out_features;
  g.bias = data_or_null(b);
  g.activation = activation;
  run_gemm("linear", g, x.dtype(), x.device());
  return out;
}

// Gradients of input, weight and bias from that of the sum.
void set_grads(Backward& bw, const Tensor& grad, const Saved& x, const Saved& weight) {
  if (bw.needs(0)) bw.set(0, matmul(grad, weight.get(bw)));
  if (!bw.needs(1) && !bw.needs(2)) return;
  const Tensor rows = as_rows(grad);
  if (bw.needs(1)) bw.set(1, mm(transpose(rows, 0, 1), as_rows(x.get(bw))));
  if (bw.needs(2)) bw.set(2, sum_to(rows, {rows.size(1)}));
}

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check(x, weight, bias);
  if (weight.ndim() == 1) {
    const Tensor y = matmul(x, weight);
    return bias.defined() ? add(y, bias) : y;
  }
  Tensor out = forward(x, weight, bias, Activation::none);
  if (any_requires_grad(x, weight, bias))
    record("linear", out, {&x, &weight, &bias},
           [x = save_if(weight.requires_grad(), x), weight = save_if(x.requires_grad(), weight)](Backward& bw) {
             set_grads(bw, bw.grad(), x, weight);
           });
  return out;
}

Tensor linear_activation(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  const bool recorded = any_requires_grad(x, weight, bias);
  if (activation == Activation::none || weight.ndim() != 2 || !is_floating(x.dtype()) ||
      (recorded && !gradient_from_output(activation)))
    return activate(linear(x, weight, bias), activation);
  check(x, weight, bias);
  Tensor out = forward(x, weight, bias, activation);
  if (recorded)
    record(activation_name(activation), out, {&x, &weight, &bias},
           [x = save_if(weight.requires_grad(), x), weight = save_if(x.requires_grad(), weight), y = Saved(out, 0),
            activation](Backward& bw) {
             set_grads(bw, activation_gradient(bw.grad(), y.get(bw), activation, bw.create_graph), x, weight);
           });
  return out;
}

Tensor bilinear(const Tensor& x1, const Tensor& x2, const Tensor& weight, const Tensor& bias) {
  const char* op = "bilinear";
  require(x1.ndim() > 0 && x2.ndim() == x1.ndim(), op, "input2", ErrorKind::Shape, "expected as many axes as input1 ",
          x1.sizes(), ", got ", x2.sizes());
  for (int i = 0; i + 1 < x1.ndim(); ++i)
    require(x1.size(i) == x2.size(i), op, "input2", ErrorKind::Shape, "expected the leading sizes of input1 ",
            x1.sizes(), ", got ", x2.sizes());
  require(weight.ndim() == 3 && weight.size(1) == x1.size(-1) && weight.size(2) == x2.size(-1), op, "weight",
          ErrorKind::Shape, "expected shape (out_features, ", x1.size(-1), ", ", x2.size(-1), "), got ",
          weight.sizes());
  check_operands(op, "input2", x1, x2);
  check_operands(op, "weight", x1, weight);
  const std::int64_t o = weight.size(0), i = weight.size(1), j = weight.size(2);
  const Tensor a = as_rows(x1), b = as_rows(x2);
  // (n, j) x (j, o i) -> (n, o, i), then against x1 (n, i, 1).
  const Tensor half = reshape(matmul(b, transpose(reshape(weight, {o * i, j}), 0, 1)), {a.size(0), o, i});
  Dims sizes = x1.sizes();
  sizes.back() = o;
  const Tensor y = reshape(matmul(half, unsqueeze(a, 2)), sizes);
  if (!bias.defined()) return y;
  require(bias.ndim() == 1 && bias.size(0) == o, op, "bias", ErrorKind::Shape, "expected shape (", o, ",), got ",
          bias.sizes());
  check_operands(op, "bias", x1, bias);
  return add(y, bias);
}

}  // namespace pydlx::ops
