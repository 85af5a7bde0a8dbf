// Losses between a prediction and a target of the same (or a broadcastable) shape.
#pragma once
#include "core/tensor.h"
#include "kernels/pair_loss.h"
#include "ops/cross_entropy.h"

namespace pydlx::ops {

// The mean is over all elements. `name` is what errors call the op.
Tensor pair_loss(PairLossOp op, const char* name, const Tensor& x, const Tensor& t, Reduction reduction,
                 double param = 0);
// The same for binary cross-entropy with factors per element (broadcast), and for logits a factor of the positive term.
Tensor binary_cross_entropy(const Tensor& x, const Tensor& t, const Tensor& weight, Reduction reduction);
Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& t, const Tensor& weight,
                                        const Tensor& pos_weight, Reduction reduction);

}  // namespace pydlx::ops
