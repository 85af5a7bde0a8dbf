// Optimiser steps over lists of tensors, in place and outside autograd. Each list has one entry per parameter; lists of
// state that the options leave unused are empty. Values: csrc/cpu/optim.cpp; formulas and sources: pydlx/optim.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

void fused_sgd_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers, double lr,
                double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, bool first_step);
void fused_adam_(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                 const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs, std::int64_t step, double lr,
                 double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool amsgrad,
                 bool maximize);
void fused_rmsprop_(const TensorList& params, const TensorList& grads, const TensorList& square_avgs,
                    const TensorList& grad_avgs, const TensorList& momentum_buffers, double lr, double alpha,
                    double eps, double weight_decay, double momentum, bool centered, bool maximize);
void fused_adagrad_(const TensorList& params, const TensorList& grads, const TensorList& state_sums, std::int64_t step,
                    double lr, double lr_decay, double eps, double weight_decay, bool maximize);

}  // namespace pydlx::ops
