// Classification losses.
#pragma once
#include <string>

#include "core/tensor.h"

namespace pydlx::ops {

enum class Reduction { none, mean, sum };
Reduction parse_reduction(const char* op, const std::string& text);

// -log softmax(x)[target] for logits x of shape (C), (N, C) or (N, C, d1, ...). The target holds class indices of shape
// (), (N) or (N, d1, ...), or probabilities shaped like x. The mean over class indices is weighted by `weight` (C).
Tensor cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight, std::int64_t ignore_index,
                     Reduction reduction, double label_smoothing);
// -x[target] for log-probabilities x; shapes as in cross_entropy.
Tensor nll_loss(const Tensor& x, const Tensor& target, const Tensor& weight, std::int64_t ignore_index,
                Reduction reduction);
// cross_entropy(x W^T + b, target) for x (*, H), W (V, H), target (*), in blocks of rows: the logits never exist at
// once.
Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& target, const Tensor& bias,
                            std::int64_t ignore_index, Reduction reduction, double label_smoothing);

}  // namespace pydlx::ops
