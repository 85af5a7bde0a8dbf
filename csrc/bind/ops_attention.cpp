// Rows of attention.
#include "bind/rows.h"
#include "ops/attention.h"

namespace pydlx::bind {

void bind_attention(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float "
       "dropout_p=0.0, "
       "bool is_causal=False, *, float? scale=None, bool enable_gqa=False) -> Tensor",
       call<&scaled_dot_product_attention>, kHidden,
       "softmax(scale query key^T + mask) value for query (..., L, E), key (..., S, E), value (..., S, Ev); scale "
       "defaults to 1/sqrt(E). The "
       "mask is bool (False: excluded) or floating (added) and broadcasts to (..., L, S); is_causal lets query i see "
       "keys 0..i; enable_gqa "
       "lets groups of query heads share key and value heads. A query that may see no key gives zeros. Memory grows "
       "linearly with the "
       "sequence for float32 without dropout (Vaswani et al. 2017; Dao et al. 2022)."},
  });
}

}  // namespace pydlx::bind
