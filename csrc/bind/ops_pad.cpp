// Rows of the padding ops.
#include "bind/rows.h"
#include "ops/pad.h"

namespace pydlx::bind {

void bind_pad(OpRegistry& r) {
  r.add({
      {"constant_pad_nd(Tensor input, int[] pad, Number value=0) -> Tensor", call<&ops::constant_pad>, kFunction,
       "Pads with a value; pad lists (front, back) pairs from the last axis on, negative amounts crop."},
  });
}

}  // namespace pydlx::bind
