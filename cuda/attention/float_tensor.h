// Attention of float32 on the tensor cores (attention_float_tensor.cu, attention_float_tensor_backward.cu).
#pragma once
#include "kernels/attention.h"

namespace pydlx::cuda {

// Return false, with nothing done, where set_float32_matmul_precision("highest") asks for plain products, there is
// but one key, or there are more features than the kernels serve. delta: rows' sums of dout * out.
bool attention_forward_tensor(const Attention&);
bool attention_backward_tensor(const AttentionBackward&, const float* delta);

}  // namespace pydlx::cuda
