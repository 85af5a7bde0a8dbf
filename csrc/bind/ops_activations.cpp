// Rows of activation functions.
#include "bind/rows.h"
#include "bind/rows_inplace.h"
#include "ops/activations.h"

namespace pydlx::bind {

void bind_activations(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"leaky_relu(Tensor input, float negative_slope=0.01) -> Tensor", call<&ops::leaky_relu>, kFunction,
       "x where positive, else negative_slope * x"},
      {"leaky_relu_(Tensor input, float negative_slope=0.01) -> Tensor", call_inplace<&ops::leaky_relu>, kFunction,
       "leaky_relu in place."},
      {"elu(Tensor input, float alpha=1.0, float scale=1.0, float input_scale=1.0) -> Tensor", call<&ops::elu>,
       kFunction, "x where positive, else alpha (e^x - 1) (Clevert et al. 2016); times scale."},
      {"elu_(Tensor input, float alpha=1.0, float scale=1.0, float input_scale=1.0) -> Tensor", call_inplace<&ops::elu>,
       kFunction, "elu in place."},
      {"selu(Tensor input) -> Tensor", call<&ops::selu>, kFunction,
       "Self-normalising elu with fixed alpha and scale (Klambauer et al. 2017)."},
      {"selu_(Tensor input) -> Tensor", call_inplace<&ops::selu>, kFunction, "selu in place."},
      {"celu(Tensor input, float alpha=1.0) -> Tensor", call<&ops::celu>, kFunction,
       "x where positive, else alpha (e^(x / alpha) - 1) (Barron 2017)."},
      {"celu_(Tensor input, float alpha=1.0) -> Tensor", call_inplace<&ops::celu>, kFunction, "celu in place."},
      {"gelu(Tensor input, *, str approximate='none') -> Tensor", call<&ops::gelu>, kFunction,
       "x Phi(x) (Hendrycks and Gimpel 2016), or its 'tanh' approximation."},
      {"gelu_(Tensor input, *, str approximate='none') -> Tensor", call_inplace<&ops::gelu>, kFunction,
       "gelu in place."},
      {"silu(Tensor input) -> Tensor", call<&ops::silu>, kFunction, "x sigmoid(x)"},
      {"silu_(Tensor input) -> Tensor", call_inplace<&ops::silu>, kFunction, "silu in place."},
      {"mish(Tensor input) -> Tensor", call<&ops::mish>, kFunction, "x tanh(softplus(x)) (Misra 2019)"},
      {"mish_(Tensor input) -> Tensor", call_inplace<&ops::mish>, kFunction, "mish in place."},
      {"softplus(Tensor input, float beta=1.0, float threshold=20.0) -> Tensor", call<&ops::softplus>, kFunction,
       "log(1 + e^(beta x)) / beta; x itself where beta x > threshold."},
      {"softsign(Tensor input) -> Tensor", call<&ops::softsign>, kFunction, "x / (1 + |x|)"},
      {"relu6(Tensor input) -> Tensor", call<&ops::relu6>, kFunction, "x limited to [0, 6]."},
      {"relu6_(Tensor input) -> Tensor", call_inplace<&ops::relu6>, kFunction, "relu6 in place."},
      {"hardtanh(Tensor input, float min_val=-1.0, float max_val=1.0) -> Tensor", call<&ops::hardtanh>, kFunction,
       "x limited to [min_val, max_val]."},
      {"hardtanh_(Tensor input, float min_val=-1.0, float max_val=1.0) -> Tensor", call_inplace<&ops::hardtanh>,
       kFunction, "hardtanh in place."},
      {"hardsigmoid(Tensor input) -> Tensor", call<&ops::hardsigmoid>, kFunction, "relu6(x + 3) / 6"},
      {"hardsigmoid_(Tensor input) -> Tensor", call_inplace<&ops::hardsigmoid>, kFunction, "hardsigmoid in place."},
      {"hardswish(Tensor input) -> Tensor", call<&ops::hardswish>, kFunction,
       "x relu6(x + 3) / 6 (Howard et al. 2019)"},
      {"hardswish_(Tensor input) -> Tensor", call_inplace<&ops::hardswish>, kFunction, "hardswish in place."},
      {"logsigmoid(Tensor input) -> Tensor", call<&ops::log_sigmoid>, kFunction, "log(sigmoid(x)) without overflow."},
      {"threshold(Tensor input, float threshold, float value) -> Tensor", call<&ops::threshold>, kFunction,
       "x where above threshold, else value."},
      {"threshold_(Tensor input, float threshold, float value) -> Tensor", call_inplace<&ops::threshold>, kFunction,
       "threshold in place."},
      {"hardshrink(Tensor input, float lambd=0.5) -> Tensor", call<&ops::hardshrink>, kBoth,
       "x where |x| > lambd, else 0."},
      {"softshrink(Tensor input, float lambd=0.5) -> Tensor", call<&ops::softshrink>, kFunction,
       "x moved towards 0 by lambd."},
      {"tanhshrink(Tensor input) -> Tensor", call<&ops::tanhshrink>, kFunction, "x - tanh(x)"},
      {"rrelu(Tensor input, float lower=0.125, float upper=0.3333333333333333) -> Tensor", call<&ops::rrelu>, kFunction,
       "leaky_relu with the mean slope: randomised leaky relu in evaluation (Xu et al. 2015)."},
      {"rrelu_(Tensor input, float lower=0.125, float upper=0.3333333333333333) -> Tensor", call_inplace<&ops::rrelu>,
       kFunction, "rrelu in place."},
      {"prelu(Tensor input, Tensor weight) -> Tensor", call<&prelu>, kBoth,
       "x where positive, else weight * x; one weight, or one per channel (axis 1)."},
      {"glu(Tensor input, int dim=-1) -> Tensor", call<&glu>, kFunction,
       "a sigmoid(b) for the halves a, b of input along dim (Dauphin et al. 2017)."},
  });
}

}  // namespace pydlx::bind
