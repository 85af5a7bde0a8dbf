// Sums and products of a float32 operand and one that is stored in 16 bits, without a converted copy. Only for backends
// where a copy costs a launch; results are those of the converted operands.
#pragma once
#include "kernels/pointwise.h"

namespace pydlx {

struct MixedKernels {
  ElementwiseFn add[kDTypeCount][kDTypeCount] = {};  // [first operand][second], the result is float32
  ElementwiseFn mul[kDTypeCount][kDTypeCount] = {};
};

}  // namespace pydlx
