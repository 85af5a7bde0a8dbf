// Batch, group, instance and RMS normalisation. Layer normalisation is in layer_norm.h.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// Per channel (axis 1) over all other axes (Ioffe and Szegedy 2015). In training the statistics are the batch's, and
// running statistics, where given, move by `momentum` towards them (the variance unbiased). All vectors may be
// undefined.
Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight,
                  const Tensor& bias, bool training, double momentum, double eps);
// Per sample and group of channels (Wu and He 2018).
Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias, double eps);
// Per sample and channel (Ulyanov et al. 2016); with use_input_stats off, the running statistics.
Tensor instance_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight,
                     const Tensor& bias, bool use_input_stats, double momentum, double eps);

}  // namespace pydlx::ops
