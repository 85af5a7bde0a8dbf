#include "ops/activations.h"

#include <limits>

#include "autograd/node.h"
#include "kernels/pointwise.h"
#include "ops/elementwise_op.h"
#include "ops/math.h"
#include "ops/shape.h"
#include "ops/views.h"

namespace pydlx::ops {

using detail::number;
using detail::zero;

namespace {

// y = op(x), with the gradient kernel `back` on (gradient, x), or `composed(g, x)` for higher orders.
template <class F>
Tensor activation(UnaryOp op, BinaryOp back, const char* name, const Tensor& x, PointwiseParams params, F composed) {
  require(is_floating(x.dtype()), name, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  return detail::unary_op(
      op, name, x, false,
      [&](const Tensor&) {
        return [x = save(x), back, name, params, composed](Backward& bw) {
          const Tensor t = x.get(bw);
          bw.set(0,
                 bw.create_graph ? composed(bw.grad(), t) : run_binary(back, name, bw.grad(), t, false, false, params));
        };
      },
      params);
}

}  // namespace

Tensor leaky_relu(const Tensor& x, double slope) {
  return activation(
      UnaryOp::leaky_relu, BinaryOp::leaky_relu_backward, "leaky_relu", x, {{slope, 0, 0, 0}},
      [slope](const Tensor& g, const Tensor& t) { return where(gt(t, zero()), g, mul(g, number(slope))); });
}

namespace {
// x > 0: positive * x, else negative * (e^(inner x) - 1)
Tensor exponential_unit(const char* name, const Tensor& x, double negative, double positive, double inner) {
  return activation(UnaryOp::elu, BinaryOp::elu_backward, name, x, {{negative, positive, inner, 0}},
                    [=](const Tensor& g, const Tensor& t) {
                      const Tensor low = mul(exp(mul(clamp_max(t, zero()), number(inner))), number(negative * inner));
                      return mul(g, where(gt(t, zero()), number(positive), low));
                    });
}
}  // namespace

Tensor elu(const Tensor& x, double alpha, double scale, double input_scale) {
  return exponential_unit("elu", x, alpha * scale, scale, input_scale);
}
Tensor selu(const Tensor& x) {  // Klambauer et al. 2017
  constexpr double alpha = 1.6732632423543772848170429916717, scale = 1.0507009873554804934193349852946;
  return exponential_unit("selu", x, alpha * scale, scale, 1.0);
}
Tensor celu(const Tensor& x, double alpha) {
  require(alpha != 0, "celu", "alpha", ErrorKind::Value, "expected a number other than 0");
  return exponential_unit("celu", x, alpha, 1.0, 1.0 / alpha);
}

Tensor gelu(const Tensor& x, const std::string& approximate) {
  if (approximate == "none")
    return activation(UnaryOp::gelu, BinaryOp::gelu_backward, "gelu", x, {}, [](const Tensor& g, const Tensor& t) {
      const Tensor cdf = mul(add(erf(mul(t, number(0.70710678118654752440))), number(1)), number(0.5));
      const Tensor density = mul(exp(mul(square(t), number(-0.5))), number(0.39894228040143267794));
      return mul(g, add(cdf, mul(t, density)));
    });
  require(approximate == "tanh", "gelu", "approximate", ErrorKind::Value, "expected 'none' or 'tanh', got '",
          approximate, "'");
  return activation(UnaryOp::gelu_tanh, BinaryOp::gelu_tanh_backward, "gelu", x, {},
                    [](const Tensor& g, const Tensor& t) {
                      constexpr double k = 1.5957691216057307;  // 2 sqrt(2 / pi)
                      const Tensor z = square(t);
                      const Tensor s = sigmoid(mul(t, add(mul(z, number(0.044715 * k)), number(k))));
                      const Tensor slope = add(mul(z, number(0.134145 * k)), number(k));
                      return mul(g, add(s, mul(mul(t, slope), mul(s, sub(number(1), s)))));
                    });
}

Tensor silu(const Tensor& x) {
  return activation(UnaryOp::silu, BinaryOp::silu_backward, "silu", x, {}, [](const Tensor& g, const Tensor& t) {
    const Tensor s = sigmoid(t);
    return mul(g, mul(s, add(mul(t, sub(number(1), s)), number(1))));
  });
}

Tensor mish(const Tensor& x) {  // Misra 2019
  return activation(UnaryOp::mish, BinaryOp::mish_backward, "mish", x, {}, [](const Tensor& g, const Tensor& t) {
    const Tensor gate = tanh(softplus(t, 1, 20));
    return mul(g, add(gate, mul(mul(t, sigmoid(t)), sub(number(1), square(gate)))));
  });
}

Tensor softplus(const Tensor& x, double beta, double threshold) {
  require(beta != 0, "softplus", "beta", ErrorKind::Value, "expected a number other than 0");
  return activation(UnaryOp::softplus, BinaryOp::softplus_backward, "softplus", x, {{beta, threshold, 0, 0}},
                    [=](const Tensor& g, const Tensor& t) {
                      const Tensor z = mul(t, number(beta));
                      return where(gt(z, number(threshold)), g, mul(g, sigmoid(z)));
                    });
}

Tensor softsign(const Tensor& x) { return div(x, add(abs(x), wrap_scalar(1))); }
Tensor relu6(const Tensor& x) { return hardtanh(x, 0, 6); }

Tensor hardtanh(const Tensor& x, double low, double high) {
  require(low <= high, "hardtanh", "min_val", ErrorKind::Value, "expected at most max_val ", high, ", got ", low);
  if (!is_floating(x.dtype()))
    return clamp(x, wrap_scalar(static_cast<std::int64_t>(low)), wrap_scalar(static_cast<std::int64_t>(high)));
  return activation(
      UnaryOp::clamp, BinaryOp::clamp_backward, "hardtanh", x, {{low, high, 1, 0}},
      [=](const Tensor& g, const Tensor& t) { return where(mul(gt(t, number(low)), lt(t, number(high))), g, zero()); });
}

Tensor hardsigmoid(const Tensor& x) {
  return activation(UnaryOp::hardsigmoid, BinaryOp::hardsigmoid_backward, "hardsigmoid", x, {},
                    [](const Tensor& g, const Tensor& t) {
                      return where(lt(abs(detach(t)), number(3)), mul(g, number(1.0 / 6)), zero());
                    });
}

Tensor hardswish(const Tensor& x) {  // Howard et al. 2019
  return activation(UnaryOp::hardswish, BinaryOp::hardswish_backward, "hardswish", x, {},
                    [](const Tensor& g, const Tensor& t) {
                      const Tensor middle = add(mul(t, number(1.0 / 3)), number(0.5));
                      return mul(g, where(le(t, number(-3)), zero(), where(lt(t, number(3)), middle, number(1))));
                    });
}

Tensor log_sigmoid(const Tensor& x) {
  return activation(UnaryOp::log_sigmoid, BinaryOp::log_sigmoid_backward, "logsigmoid", x, {},
                    [](const Tensor& g, const Tensor& t) { return mul(g, sigmoid(neg(t))); });
}

Tensor threshold(const Tensor& x, double limit, double value) {
  return activation(UnaryOp::threshold, BinaryOp::threshold_backward, "threshold", x, {{limit, value, 0, 0}},
                    [=](const Tensor& g, const Tensor& t) { return where(le(t, number(limit)), zero(), g); });
}

namespace {
Tensor shrink(UnaryOp op, const char* name, const Tensor& x, double limit) {
  require(limit >= 0, name, "lambd", ErrorKind::Value, "expected at least 0, got ", limit);
  return activation(op, BinaryOp::shrink_backward, name, x, {{limit, 0, 0, 0}}, [=](const Tensor& g, const Tensor& t) {
    return where(le(abs(detach(t)), number(limit)), zero(), g);
  });
}
}  // namespace
Tensor hardshrink(const Tensor& x, double lambd) { return shrink(UnaryOp::hardshrink, "hardshrink", x, lambd); }
Tensor softshrink(const Tensor& x, double lambd) { return shrink(UnaryOp::softshrink, "softshrink", x, lambd); }
Tensor tanhshrink(const Tensor& x) { return sub(x, tanh(x)); }

Tensor prelu(const Tensor& x, const Tensor& weight) {
  const std::int64_t channels = x.ndim() >= 2 ? x.sizes()[1] : 1;
  require(weight.ndim() <= 1 && (weight.numel() == 1 || weight.numel() == channels), "prelu", "weight",
          ErrorKind::Shape, "expected one slope or one for each of ", channels, " channels, got shape ",
          weight.sizes());
  Tensor w = weight;
  if (weight.numel() != 1) {
    Dims shape = Dims::filled(x.ndim() - 1, 1);
    shape[0] = channels;
    w = reshape(weight, shape);
  } else if (weight.ndim() > 0) {
    w = reshape(weight, {});
  }
  return detail::binary_op(
      BinaryOp::prelu, "prelu", x, w, true,
      [](const Tensor& g, const Tensor& t, const Tensor& slope) { return where(gt(t, zero()), g, mul(g, slope)); },
      [](const Tensor& g, const Tensor& t, const Tensor&) { return mul(g, minimum(t, zero())); });
}

Tensor rrelu(const Tensor& x, double lower, double upper) {
  require(lower <= upper, "rrelu", "lower", ErrorKind::Value, "expected at most upper ", upper, ", got ", lower);
  return leaky_relu(x, (lower + upper) / 2);
}

Tensor glu(const Tensor& x, std::int64_t dim) {  // Dauphin et al. 2017
  require(x.ndim() > 0, "glu", "input", ErrorKind::Shape, "expected at least one dimension, got a 0-d tensor");
  const int axis = wrap_axis(dim, x.ndim(), "glu");
  const std::int64_t n = x.sizes()[axis];
  require(n % 2 == 0, "glu", "input", ErrorKind::Shape, "expected an even size along dim ", dim, ", got ", n);
  const auto value_of = [axis, n](const Tensor& t) { return narrow(t, axis, 0, n / 2); };
  const auto gate_of = [axis, n](const Tensor& t) { return narrow(t, axis, n / 2, n / 2); };
  // value * sigmoid(gate) in one pass is what softplus has for its gradient below a threshold.
  const PointwiseParams no_threshold{{1, std::numeric_limits<double>::infinity(), 0, 0}};
  const Tensor plain = detach(x);
  Tensor y =
      run_binary(BinaryOp::softplus_backward, "glu", value_of(plain), gate_of(plain), false, false, no_threshold);
  if (any_requires_grad(x))
    record("glu", y, {&x}, [x = save(x), value_of, gate_of, axis](Backward& bw) {
      const Tensor t = x.get(bw), g = bw.grad(), s = sigmoid(gate_of(t));
      bw.set(0, cat({mul(g, s), sigmoid_gradient(mul(g, value_of(t)), s, bw.create_graph)}, axis));
    });
  return y;
}

}  // namespace pydlx::ops
