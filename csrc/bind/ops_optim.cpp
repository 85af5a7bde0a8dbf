// Rows of the optimiser steps.
#include "bind/rows.h"
#include "ops/optim.h"

namespace pydlx::bind {

void bind_optim(OpRegistry& r) {
  r.add({
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
