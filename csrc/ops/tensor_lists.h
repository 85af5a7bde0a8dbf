// Lists of gradients, in place and outside autograd: their norm as one vector, and factors. On GPUs a list of any
// length takes a few launches; elsewhere these are compositions, tensor by tensor.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// The norm of order 1, 2 or infinity of the norms of all tensors, on the device and in the dtype of the first.
Tensor total_norm(const TensorList& tensors, double order);
// Multiplies all by min(1, max_norm / (norm + 1e-6)).
void clip_to_norm_(const TensorList& tensors, double max_norm, const Tensor& norm);
// Multiplies all by `factor`. Returns 1 where a product is infinite or NaN, else 0: a float32 value on the first
// tensor's device.
Tensor scale_and_check_(const TensorList& tensors, double factor);

// to[t] = from[t], or with add[t] the sum of both, on raw data. False, and nothing done, unless all targets have one
// dtype and all sources one, float32 on either side, pairs lie in memory alike, and the device has a kernel for it.
bool cast_all(const TensorList& to, const TensorList& from, const std::vector<unsigned char>& add);

}  // namespace pydlx::ops
