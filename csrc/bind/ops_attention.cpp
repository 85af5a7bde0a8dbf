// Rows of attention.
#include "bind/rows.h"
#include "ops/attention.h"

namespace pydlx::bind {

void bind_attention(OpRegistry& r) {
  using namespace ops;
  r.add({
      {"scaled_dot_product_attention(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float "
       "dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False, "
       "Tensor? alibi_slopes=None, int[2]? window_size=None) -> Tensor",
       call<&scaled_dot_product_attention>, kHidden,
       "softmax(scale query key^T + mask) value for query (..., L, E), key (..., S, E), value (..., S, Ev); scale "
       "defaults to 1/sqrt(E). The mask is bool (False: excluded) or floating (added) and broadcasts to (..., L, S). "
       "is_causal lets query i see keys 0..i, both counted from the start also when L and S differ. enable_gqa lets "
       "groups of query heads share key and value heads. dropout_p drops weights after the softmax, whatever the "
       "number of threads the same ones for one seed. Beyond PyTorch: alibi_slopes, a number per head (or a shape "
       "that broadcasts to the leading axes), subtracts slope * |i - j| from the scores (Press et al. 2022); "
       "window_size=(left, right) lets query i see keys i - left .. i + right, -1 meaning no limit. A query that may "
       "see no key gives zeros. Memory grows linearly with the sequence for float32, float16 and bfloat16 (Vaswani "
       "et al. 2017; Dao et al. 2022)."},
  });
}

}  // namespace pydlx::bind
