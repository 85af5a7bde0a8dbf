// Table look-ups.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// Rows weight[index]; the gradient of row `padding_index` (negative: none) is zero, and with `by_frequency` each row's
// gradient is divided by how often it was looked up. Deterministic: rows are summed in the order of the indices.
Tensor embedding(const Tensor& index, const Tensor& weight, std::int64_t padding_index, bool by_frequency);
// The sum, or the mean, of the rows of each bag: index is (bags, length).
Tensor embedding_bag(const Tensor& index, const Tensor& weight, bool mean, bool by_frequency);
// int64 zeros with a one at each index, on a new last axis; num_classes -1 takes the largest index plus one.
Tensor one_hot(const Tensor& index, std::int64_t num_classes);

}  // namespace pydlx::ops
