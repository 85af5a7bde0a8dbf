// Scaled dot-product attention.
#pragma once
#include <optional>

#include "core/tensor.h"

namespace pydlx::ops {

// softmax(scale q k^T + mask) v over the last two axes; query (..., L, E), key (..., S, E), value (..., S, Ev). The
// mask is bool (false: excluded) or floating (added) and broadcasts to (..., L, S). With `causal`, query i sees keys
// 0..i. With `grouped`, key and value may have fewer heads (third axis from the end); consecutive query heads share
// one. A query that may see no key gives zeros, and whatever excluded keys and values hold does not reach the result.
// Vaswani et al. 2017, "Attention Is All You Need".
Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                    double dropout_p, bool causal, std::optional<double> scale, bool grouped);

}  // namespace pydlx::ops
