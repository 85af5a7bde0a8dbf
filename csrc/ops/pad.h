// Padding.
#pragma once
#include "core/tensor.h"

namespace pydlx::ops {

// `pad` lists (front, back) pairs from the last axis on; negative amounts crop. Any dtype.
Tensor constant_pad(const Tensor& x, const Dims& pad, Scalar value);

}  // namespace pydlx::ops
