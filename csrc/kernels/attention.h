// Scaled dot-product attention.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels.h"

namespace pydlx {

// A [batch, heads, rows, features] operand whose features are contiguous.
struct HeadRows {
  void* data = nullptr;
  std::int64_t batch = 0, head = 0, row = 0;  // strides in elements; 0 broadcasts (inputs only)
};

// out = softmax(scale q k^T + mask) v, row by row. Heads come in groups of heads / kv_heads that share one key/value
// head.
struct Attention {
  std::int64_t batch = 1, heads = 1, kv_heads = 1;
  std::int64_t q_len = 0, k_len = 0, head_dim = 0, value_dim = 0;
  HeadRows q, k, v, out;
  void* lse = nullptr;         // [batch, heads, q_len]: log of the sum of exponentials; -inf for a row without any key
  const void* mask = nullptr;  // null, bool (false: excluded) or the operands' dtype (added to the scores)
  bool mask_is_bool = false;
  std::int64_t mask_batch = 0, mask_head = 0, mask_row = 0, mask_col = 0;
  bool causal = false;  // query i sees keys 0..i
  double scale = 1;
};

// dq, dk, dv are contiguous [batch, heads or kv_heads, length, features].
struct AttentionBackward {
  Attention forward;  // with out and lse as the forward pass left them
  HeadRows dout;
  void *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

// Both return false, with nothing usable written, when there is no scratch memory.
struct AttentionKernels {
  bool (*forward[kDTypeCount])(const Attention&) = {};
  bool (*backward[kDTypeCount])(const AttentionBackward&) = {};
};

}  // namespace pydlx
