// Dropout and its variants. What is kept for backward is the place in the random stream, never a mask.
#pragma once
#include "core/generator.h"
#include "core/tensor.h"

namespace pydlx::ops {

// Zeroes each element with probability p and scales the rest by 1 / (1 - p) (Srivastava et al. 2014). Identity when not
// training.
Tensor dropout(const Tensor& x, double p, bool training, bool inplace);
// The same with the coins at a given place of the random stream, one 32-bit word per element in order.
Tensor dropout_at(const Tensor& x, double p, PhiloxState s);
// Words below this number drop.
std::uint64_t dropout_threshold(double p);
// Sets elements to SELU's negative saturation and restores mean 0 and variance 1 (Klambauer et al. 2017).
Tensor alpha_dropout(const Tensor& x, double p, bool training, bool inplace);
// The same for whole channels: one coin per (sample, channel), axes 0 and 1 of x.
Tensor feature_dropout(const char* op, const Tensor& x, double p, bool training, bool inplace);
Tensor feature_alpha_dropout(const Tensor& x, double p, bool training, bool inplace);

}  // namespace pydlx::ops
