// Optimiser steps over lists of tensors, in place and outside autograd. Each list has one entry per parameter; lists of
// state that the options leave unused are empty. Values: csrc/cpu/optim.cpp; formulas and sources: pydlx/optim.
//
// `live`, on other devices than the CPU, serves recorded graphs: kMaxOptimNumbers float64 values on the parameters'
// device. While a graph is recorded, the step is to read there what changes from step to step (learning rate, bias
// corrections). At other times a call with `live` only renews those numbers, which is to be done before each replay.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// Fills every tensor with zeros, as zero_() does one by one.
void fused_zero_(const TensorList& tensors);

void fused_sgd_(const TensorList& params, const TensorList& grads, const TensorList& momentum_buffers, double lr,
                double momentum, double dampening, double weight_decay, bool nesterov, bool maximize, bool first_step,
                const Tensor& live);
void fused_adam_(const TensorList& params, const TensorList& grads, const TensorList& exp_avgs,
                 const TensorList& exp_avg_sqs, const TensorList& max_exp_avg_sqs, std::int64_t step, double lr,
                 double beta1, double beta2, double eps, double weight_decay, bool decoupled, bool amsgrad,
                 bool maximize, const Tensor& live);
void fused_rmsprop_(const TensorList& params, const TensorList& grads, const TensorList& square_avgs,
                    const TensorList& grad_avgs, const TensorList& momentum_buffers, double lr, double alpha,
                    double eps, double weight_decay, double momentum, bool centered, bool maximize, const Tensor& live);
void fused_adagrad_(const TensorList& params, const TensorList& grads, const TensorList& state_sums, std::int64_t step,
                    double lr, double lr_decay, double eps, double weight_decay, bool maximize, const Tensor& live);

}  // namespace pydlx::ops
