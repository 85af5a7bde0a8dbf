// Rows of the optimiser steps.
#include "bind/rows.h"
#include "ops/optim.h"
#include "ops/tensor_lists.h"

namespace pydlx::bind {

void bind_optim(OpRegistry& r) {
  r.add({
      {"total_norm(Tensor[] tensors, float order=2) -> Tensor", call<&ops::total_norm>, kHidden,
       "The norm of order 1, 2 or inf of all tensors taken together as one vector."},
      {"clip_to_norm_(Tensor[] tensors, float max_norm, Tensor norm) -> None", call<&ops::clip_to_norm_>, kHidden,
       "Multiplies all tensors by ``min(1, max_norm / (norm + 1e-6))``."},
      {"scale_and_check_(Tensor[] tensors, float factor) -> Tensor", call<&ops::scale_and_check_>, kHidden,
       "Multiplies all tensors by a number; 1 if a product is infinite or NaN, else 0."},
      {"fused_zero_(Tensor[] tensors) -> None", call<&ops::fused_zero_>, kHidden, "Fills every tensor with zeros."},
      {"fused_sgd_(Tensor[] params, Tensor[] grads, Tensor[] momentum_buffers, float lr, float momentum, float "
       "dampening, float weight_decay, "
       "bool nesterov, bool maximize, bool first_step, Tensor? live=None) -> None",
       call<&ops::fused_sgd_>, kHidden,
       "One step of SGD on all parameters, in place (pydlx.optim.SGD has the formula)."},
      {"fused_adam_(Tensor[] params, Tensor[] grads, Tensor[] exp_avgs, Tensor[] exp_avg_sqs, Tensor[] "
       "max_exp_avg_sqs, int step, float lr, "
       "float beta1, float beta2, float eps, float weight_decay, bool decoupled, bool amsgrad, bool maximize, Tensor? "
       "live=None) -> None",
       call<&ops::fused_adam_>, kHidden,
       "Step number `step` >= 1 of Adam or AdamW on all parameters, in place (pydlx.optim.Adam has the formula)."},
      {"fused_rmsprop_(Tensor[] params, Tensor[] grads, Tensor[] square_avgs, Tensor[] grad_avgs, Tensor[] "
       "momentum_buffers, float lr, "
       "float alpha, float eps, float weight_decay, float momentum, bool centered, bool maximize, Tensor? live=None) "
       "-> None",
       call<&ops::fused_rmsprop_>, kHidden,
       "One step of RMSprop on all parameters, in place (pydlx.optim.RMSprop has the formula)."},
      {"fused_adagrad_(Tensor[] params, Tensor[] grads, Tensor[] state_sums, int step, float lr, float lr_decay, float "
       "eps, "
       "float weight_decay, bool maximize, Tensor? live=None) -> None",
       call<&ops::fused_adagrad_>, kHidden,
       "Step number `step` >= 1 of Adagrad on all parameters, in place (pydlx.optim.Adagrad has the formula)."},
  });
}

}  // namespace pydlx::bind
