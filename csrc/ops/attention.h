// Scaled dot-product attention.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace pydlx::ops {

// softmax(scale q k^T + mask) v over the last two axes; query (..., L, E), key (..., S, E), value (..., S, Ev). The
// mask is bool (false: excluded) or floating (added) and broadcasts to (..., L, S). With `causal`, query i sees keys
// 0..i, counted from the first query and key also when L and S differ. With `grouped`, key and value may have fewer
// heads (third axis from the end); consecutive query heads share one. slopes (undefined, or broadcasting to the leading
// axes) subtract slope * |i - j| from the scores (Press et al. 2022, "Train Short, Test Long"); window (empty, or two
// numbers with -1 for no limit) lets query i see keys i - window[0] .. i + window[1]. Weights are dropped with
// probability dropout_p, by the words of the random stream in the order of the weights.
// A query that may see no key gives zeros, and whatever excluded keys and values hold does not reach the result.
// Vaswani et al. 2017, "Attention Is All You Need".
Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                    double dropout_p, bool causal, std::optional<double> scale, bool grouped,
                                    const Tensor& slopes, const Dims& window);

}  // namespace pydlx::ops
