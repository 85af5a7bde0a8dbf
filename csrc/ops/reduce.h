// Reductions.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// Sum over `axes` (empty: all). Integers and bools accumulate in int64, as PyTorch does.
Tensor sum(const Tensor& x, const Dims& axes, bool keepdim);

}  // namespace pydlx::ops
