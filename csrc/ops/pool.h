// Pooling over the last one to three axes of (N, C, spatial...) or (C, spatial...).
#pragma once
#include <utility>

#include "core/tensor.h"

namespace pydlx::ops {

// Maximum and its flat position in the plane (int64). An empty stride means the kernel size.
std::pair<Tensor, Tensor> max_pool_with_indices(int axes, const Tensor& x, const Dims& kernel, const Dims& stride,
                                                const Dims& padding, const Dims& dilation, bool ceil_mode);
Tensor max_pool(int axes, const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding,
                const Dims& dilation, bool ceil_mode);
// divisor 0: divide by the window.
Tensor avg_pool(int axes, const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding, bool ceil_mode,
                bool count_include_pad, std::int64_t divisor);
// An output size of -1 keeps the input's.
Tensor adaptive_avg_pool(int axes, const Tensor& x, const Dims& output_size);
std::pair<Tensor, Tensor> adaptive_max_pool(int axes, const Tensor& x, const Dims& output_size);
// The inverse of max_pool: values go to their positions, everything else is 0.
Tensor max_unpool(int axes, const Tensor& x, const Tensor& indices, const Dims& output_size);
// (n - 1) stride - 2 padding + kernel, what max_unpool makes when no size is given.
Dims unpool_size(int axes, const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding);

}  // namespace pydlx::ops
