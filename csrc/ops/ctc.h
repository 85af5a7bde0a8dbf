// Connectionist temporal classification. Recorded by pydlx/nn/functional/_ctc.py, which also composes it for gradients
// of gradients.
#pragma once
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

// {loss per sequence, forward variables or nothing} of log-probabilities x[steps, batch, classes], padded
// targets[batch, longest], and the lengths of both.
std::pair<Tensor, Tensor> ctc_forward(const Tensor& x, const Tensor& targets, const Tensor& frames,
                                      const Tensor& labels, std::int64_t blank, bool keep);
// The gradient of x for that of the losses.
Tensor ctc_backward(const Tensor& grad, const Tensor& x, const Tensor& targets, const Tensor& frames,
                    const Tensor& labels, const Tensor& loss, const Tensor& alpha, std::int64_t blank);

}  // namespace pydlx::ops
