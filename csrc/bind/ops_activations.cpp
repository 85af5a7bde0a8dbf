// Rows of activation functions.
#include "bind/rows.h"
#include "bind/rows_inplace.h"
#include "ops/activations.h"

namespace pydlx::bind {

void bind_activations(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"leaky_relu(Tensor input, float negative_slope=0.01) -> Tensor", call<&ops::leaky_relu>, kHidden,
       "x where positive, else negative_slope * x"},
      {"leaky_relu_(Tensor input, float negative_slope=0.01) -> Tensor", call_inplace<&ops::leaky_relu>, kHidden,
       "leaky_relu in place."},
      {"elu(Tensor input, float alpha=1.0, float scale=1.0, float input_scale=1.0) -> Tensor", call<&ops::elu>, kHidden,
       "x where positive, else alpha (e^x - 1) (Clevert et al. 2016); times scale."},
      {"elu_(Tensor input, float alpha=1.0, float scale=1.0, float input_scale=1.0) -> Tensor", call_inplace<&ops::elu>,
       kHidden, "elu in place."},
      {"selu(Tensor input) -> Tensor", call<&ops::selu>, kFunction,
       "Self-normalising elu with fixed alpha and scale (Klambauer et al. 2017)."},
      {"selu_(Tensor input) -> Tensor", call_inplace<&ops::selu>, kFunction, "selu in place."},
      {"celu(Tensor input, float alpha=1.0) -> Tensor", call<&ops::celu>, kFunction,
       "x where positive, else alpha (e^(x / alpha) - 1) (Barron 2017)."},
      {"celu_(Tensor input, float alpha=1.0) -> Tensor", call_inplace<&ops::celu>, kFunction, "celu in place."},
      {"gelu(Tensor input, *, str approximate='none') -> Tensor", call<&ops::gelu>, kHidden,
       "x Phi(x) (Hendrycks and Gimpel 2016), or its 'tanh' approximation."},
      {"gelu_(Tensor input, *, str approximate='none') -> Tensor", call_inplace<&ops::gelu>, kHidden, "gelu in place."},
      {"silu(Tensor input) -> Tensor", call<&ops::silu>, kHidden, "x sigmoid(x)"},
      {"silu_(Tensor input) -> Tensor", call_inplace<&ops::silu>, kHidden, "silu in place."},
      {"mish(Tensor input) -> Tensor", call<&ops::mish>, kHidden, "x tanh(softplus(x)) (Misra 2019)"},
      {"mish_(Tensor input) -> Tensor", call_inplace<&ops::mish>, kHidden, "mish in place."},
      {"softplus(Tensor input, float beta=1.0, float threshold=20.0) -> Tensor", call<&ops::softplus>, kHidden,
       "log(1 + e^(beta x)) / beta; x itself where beta x > threshold."},
      {"softsign(Tensor input) -> Tensor", call<&ops::softsign>, kHidden, "x / (1 + |x|)"},
      {"relu6(Tensor input) -> Tensor", call<&ops::relu6>, kHidden, "x limited to [0, 6]."},
      {"relu6_(Tensor input) -> Tensor", call_inplace<&ops::relu6>, kHidden, "relu6 in place."},
      {"hardtanh(Tensor input, float min_val=-1.0, float max_val=1.0) -> Tensor", call<&ops::hardtanh>, kHidden,
       "x limited to [min_val, max_val]."},
      {"hardtanh_(Tensor input, float min_val=-1.0, float max_val=1.0) -> Tensor", call_inplace<&ops::hardtanh>,
       kHidden, "hardtanh in place."},
      {"hardsigmoid(Tensor input) -> Tensor", call<&ops::hardsigmoid>, kHidden, "relu6(x + 3) / 6"},
      {"hardsigmoid_(Tensor input) -> Tensor", call_inplace<&ops::hardsigmoid>, kHidden, "hardsigmoid in place."},
      {"hardswish(Tensor input) -> Tensor", call<&ops::hardswish>, kHidden, "x relu6(x + 3) / 6 (Howard et al. 2019)"},
      {"hardswish_(Tensor input) -> Tensor", call_inplace<&ops::hardswish>, kHidden, "hardswish in place."},
      {"logsigmoid(Tensor input) -> Tensor", call<&ops::log_sigmoid>, kHidden, "log(sigmoid(x)) without overflow."},
      {"threshold(Tensor input, float threshold, float value) -> Tensor", call<&ops::threshold>, kFunction,
       "x where above threshold, else value."},
      {"threshold_(Tensor input, float threshold, float value) -> Tensor", call_inplace<&ops::threshold>, kFunction,
       "threshold in place."},
      {"hardshrink(Tensor input, float lambd=0.5) -> Tensor", call<&ops::hardshrink>, kBoth,
       "x where |x| > lambd, else 0."},
      {"softshrink(Tensor input, float lambd=0.5) -> Tensor", call<&ops::softshrink>, kHidden,
       "x moved towards 0 by lambd."},
      {"tanhshrink(Tensor input) -> Tensor", call<&ops::tanhshrink>, kHidden, "x - tanh(x)"},
      {"rrelu(Tensor input, float lower=0.125, float upper=0.3333333333333333) -> Tensor", call<&ops::rrelu>, kFunction,
       "leaky_relu with the mean slope: randomised leaky relu in evaluation (Xu et al. 2015)."},
      {"rrelu_(Tensor input, float lower=0.125, float upper=0.3333333333333333) -> Tensor", call_inplace<&ops::rrelu>,
       kFunction, "rrelu in place."},
      {"prelu(Tensor input, Tensor weight) -> Tensor", call<&prelu>, kBoth,
       "x where positive, else weight * x; one weight, or one per channel (axis 1)."},
      {"glu(Tensor input, int dim=-1) -> Tensor", call<&glu>, kHidden,
       "a sigmoid(b) for the halves a, b of input along dim (Dauphin et al. 2017)."},
  });
}

}  // namespace pydlx::bind
