// Rows of normalisation and dropout.
#include "bind/rows.h"
#include "kernels/random.h"
#include "ops/dropout.h"
#include "ops/layer_norm.h"
#include "ops/norms.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

Tensor dropout_torch(Tensor x, double p, bool train) { return ops::dropout(x, p, train, false); }
Tensor dropout_inplace(Tensor x, double p, bool train) { return ops::dropout(x, p, train, true); }
Tensor alpha_torch(Tensor x, double p, bool train) { return ops::alpha_dropout(x, p, train, false); }
Tensor feature_torch(Tensor x, double p, bool train) {
  return ops::feature_dropout("feature_dropout", x, p, train, false);
}
Tensor feature_alpha_torch(Tensor x, double p, bool train) { return ops::feature_alpha_dropout(x, p, train, false); }

// dropout1d, 2d, 3d take samples with or without the leading batch axis.
template <int axes>
Tensor dropout_nd(Tensor x, double p, bool training, bool inplace) {
  static constexpr const char* names[] = {"", "dropout1d", "dropout2d", "dropout3d"};
  const char* op = names[axes];
  require(x.ndim() == axes + 1 || x.ndim() == axes + 2, op, "input", ErrorKind::Shape, "expected ", axes + 1, " or ",
          axes + 2, " axes, got shape ", x.sizes());
  if (x.ndim() == axes + 2) return ops::feature_dropout(op, x, p, training, inplace);
  Tensor batch = ops::feature_dropout(op, ops::unsqueeze(x, 0), p, training, inplace);
  return inplace ? x : ops::squeeze(batch, {0});
}

Tensor batch_norm_torch(Tensor x, Tensor weight, Tensor bias, Tensor running_mean, Tensor running_var, bool training,
                        double momentum, double eps, bool) {
  return ops::batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps);
}

}  // namespace

void bind_norms(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"batch_norm(Tensor input, Tensor? running_mean, Tensor? running_var, Tensor? weight=None, Tensor? bias=None, "
       "bool training=False, "
       "float momentum=0.1, float eps=1e-5) -> Tensor",
       call<&batch_norm>, kFunction,
       "(x - mean) / sqrt(var + eps) * weight + bias per channel, axis 1 (Ioffe and Szegedy 2015)."},
      {"batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, Tensor? running_var, bool "
       "training, float momentum, "
       "float eps, bool cudnn_enabled) -> Tensor",
       call<&batch_norm_torch>, kFunction},
      {"layer_norm(Tensor input, int[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-5) -> "
       "Tensor",
       call<&layer_norm>, kFunction,
       "(x - mean) / sqrt(var + eps) * weight + bias over the last axes (Ba et al. 2016)."},
      {"rms_norm(Tensor input, int[] normalized_shape, Tensor? weight=None, float? eps=None) -> Tensor",
       call<&rms_norm>, kFunction, "x / sqrt(mean(x^2) + eps) * weight over the last axes (Zhang and Sennrich 2019)."},
      {"add_layer_norm(Tensor input, Tensor residual, int[] normalized_shape, Tensor? weight=None, Tensor? bias=None, "
       "float eps=1e-5) -> (Tensor sum, Tensor output)",
       call<&add_layer_norm>, kHidden,
       "input + residual, and layer_norm of that sum, in one pass. The residual has the input's shape and dtype."},
      {"add_rms_norm(Tensor input, Tensor residual, int[] normalized_shape, Tensor? weight=None, float? eps=None) -> "
       "(Tensor sum, Tensor output)",
       call<&add_rms_norm>, kHidden,
       "input + residual, and rms_norm of that sum, in one pass. The residual has the input's shape and dtype."},
      {"group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None, float eps=1e-5) -> Tensor",
       call<&group_norm>, kFunction, "Normalisation per sample and group of channels (Wu and He 2018)."},
      {"instance_norm(Tensor input, Tensor? running_mean=None, Tensor? running_var=None, Tensor? weight=None, Tensor? "
       "bias=None, "
       "bool use_input_stats=True, float momentum=0.1, float eps=1e-5) -> Tensor",
       call<&instance_norm>, kFunction, "Normalisation per sample and channel (Ulyanov et al. 2016)."},
      {"dropout(Tensor input, float p=0.5, bool training=True, bool inplace=False) -> Tensor", call<&dropout>,
       kFunction, "Zeroes elements with probability p and scales the rest by 1 / (1 - p) (Srivastava et al. 2014)."},
      {"dropout(Tensor input, float p, bool train) -> Tensor", call<&dropout_torch>, kFunction},
      {"dropout_(Tensor input, float p, bool train) -> Tensor", call<&dropout_inplace>, kFunction, "dropout in place"},
      {"alpha_dropout(Tensor input, float p=0.5, bool training=False, bool inplace=False) -> Tensor",
       call<&alpha_dropout>, kFunction,
       "Dropout that keeps mean 0 and variance 1 behind SELU (Klambauer et al. 2017)."},
      {"alpha_dropout(Tensor input, float p, bool train) -> Tensor", call<&alpha_torch>, kFunction},
      {"feature_dropout(Tensor input, float p, bool train) -> Tensor", call<&feature_torch>, kFunction,
       "Dropout of whole channels."},
      {"feature_alpha_dropout(Tensor input, float p=0.5, bool training=False, bool inplace=False) -> Tensor",
       call<&feature_alpha_dropout>, kFunction, "alpha_dropout of whole channels."},
      {"feature_alpha_dropout(Tensor input, float p, bool train) -> Tensor", call<&feature_alpha_torch>, kFunction},
      {"dropout1d(Tensor input, float p=0.5, bool training=True, bool inplace=False) -> Tensor", call<&dropout_nd<1>>,
       kHidden, "Dropout of whole channels of (N, C, L) or (C, L)."},
      {"dropout2d(Tensor input, float p=0.5, bool training=True, bool inplace=False) -> Tensor", call<&dropout_nd<2>>,
       kHidden, "Dropout of whole channels of (N, C, H, W) or (C, H, W)."},
      {"dropout3d(Tensor input, float p=0.5, bool training=True, bool inplace=False) -> Tensor", call<&dropout_nd<3>>,
       kHidden, "Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W)."},
  });
}

}  // namespace pydlx::bind
