// Memory formats: the axis orders that programs ask for by name. `channels_last` stores images (N, C, H, W) as
// N, H, W, C, `channels_last_3d` volumes (N, C, D, H, W) as N, D, H, W, C; sizes and indices stay as they are.
#pragma once
#include "core/tensor.h"

namespace pydlx {

enum class MemoryFormat : std::uint8_t { contiguous, preserve, channels_last, channels_last_3d };

// Strides of a dense tensor in the format (which is not `preserve`). Channels-last formats need 4 and 5 axes.
Dims format_strides(const Dims& sizes, MemoryFormat format, const char* op);
// Whether the elements lie in the format without gaps; false for another number of axes. Axes of size 1 do not count.
bool has_format(const Tensor& t, MemoryFormat format);
// The channels-last format whose order the strides have, else `contiguous`. Strides of axes of size 1 count here, so
// that a tensor whose elements lie in both orders (one channel, say) says which one it was made in.
MemoryFormat format_of(const Tensor& t);
// The format of a result whose sizes have as many axes: channels-last when any of the inputs is.
MemoryFormat common_format(std::initializer_list<const Tensor*> inputs);

Tensor empty(const Dims& sizes, DType dtype, Device device, MemoryFormat format);

// A channels-last tensor seen as (N, spatial..., C), which is then row-major; no autograd information.
Tensor channels_behind(const Tensor& t);

}  // namespace pydlx
