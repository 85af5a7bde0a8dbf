#include "ops/activate.h"

#include <iterator>

#include "ops/activations.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/math.h"

namespace pydlx::ops {
namespace {

constexpr const char* kNames[] = {"none", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh"};
static_assert(std::size(kNames) == static_cast<std::size_t>(Activation::COUNT));

}  // namespace

Activation parse_activation(const char* op, const std::string& name) {
  for (int i = 0; i < static_cast<int>(Activation::COUNT); ++i)
    if (name == kNames[i]) return static_cast<Activation>(i);
  fail(op, "activation", ErrorKind::Value,
       "expected 'none', 'relu', 'gelu', 'gelu_tanh', 'silu', 'sigmoid' or 'tanh', got '", name, "'");
}

const char* activation_name(Activation activation) {
  return activation == Activation::gelu_tanh ? "gelu" : kNames[static_cast<int>(activation)];
}

Tensor activate(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return relu(x);
    case Activation::gelu:
      return gelu(x, "none");
    case Activation::gelu_tanh:
      return gelu(x, "tanh");
    case Activation::silu:
      return silu(x);
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::tanh:
      return tanh(x);
    default:
      return x;
  }
}

bool gradient_from_output(Activation activation) {
  return activation == Activation::relu || activation == Activation::sigmoid || activation == Activation::tanh;
}

Tensor activation_gradient(const Tensor& grad, const Tensor& output, Activation activation, bool differentiable) {
  switch (activation) {
    case Activation::relu:
      return relu_gradient(grad, output);
    case Activation::sigmoid:
      return sigmoid_gradient(grad, output, differentiable);
    case Activation::tanh:
      return tanh_gradient(grad, output, differentiable);
    default:
      return grad;
  }
}

}  // namespace pydlx::ops
