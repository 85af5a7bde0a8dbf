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

inline constexpr std::int64_t kUnlimitedKeys = std::int64_t{1} << 60;

// out = drop(softmax(scale q k^T + mask - slope |i - j|)) v, row by row. Heads come in groups of heads / kv_heads that
// share one key/value head.
struct Attention {
  std::int64_t batch = 1, heads = 1, kv_heads = 1;
  std::int64_t q_len = 0, k_len = 0, head_dim = 0, value_dim = 0;
  HeadRows q, k, v, out;
  // The statistics, in the operands' dtype, float32 for 16-bit ones; [batch, heads, q_len]: a row's largest score in
  // units of log2(e) (-inf: no key), and one over its sum of exponentials relative to that (0: no key). Two numbers,
  // because their sum as logarithms would lose the second when a mask of -1e38 is added to a whole row.
  void *top = nullptr, *inverse = nullptr;
  const void* mask = nullptr;  // null, bool (false: excluded) or the statistics' dtype (added to the scores)
  bool mask_is_bool = false;
  std::int64_t mask_batch = 0, mask_head = 0, mask_row = 0, mask_col = 0;
  const void* slopes = nullptr;  // null, or one number per head in the statistics' dtype
  std::int64_t slope_batch = 0, slope_head = 0;
  std::int64_t before = kUnlimitedKeys, after = kUnlimitedKeys;  // query i sees keys i - before .. i + after
  double scale = 1;
  // Weight number ((b heads + h) q_len + i) k_len + j is dropped when that word of the random stream is below
  // `threshold`; the others are multiplied by keep_scale. 0: no dropout.
  std::uint32_t threshold = 0;
  std::uint64_t seed = 0, offset = 0;
  const std::uint64_t* base = nullptr;  // see PhiloxState
  double keep_scale = 1;
};

// A few heads with many keys are cut into slices of keys, each with a dq of its own; they are added in order. The
// number follows from the shape alone, so that results do not depend on the number of threads.
inline std::int64_t attention_slices(std::int64_t kv_heads, std::int64_t k_len) {
  const std::int64_t wanted = kv_heads >= 6 ? 1 : (8 + kv_heads - 1) / (kv_heads > 0 ? kv_heads : 1),
                     longest = k_len / 384;
  return wanted < longest ? wanted : longest > 1 ? longest : 1;
}

struct AttentionBackward {
  Attention forward;  // with out, top and inverse as the forward pass left them
  HeadRows dout, dq, dk, dv;
  std::int64_t slices = 1;    // attention_slices(batch * kv_heads, k_len)
  void* dq_slices = nullptr;  // contiguous [slices, batch, heads, q_len, head_dim] when slices > 1
  // Null, or contiguous [batch, heads, q_len, k_len] in the statistics' dtype, filled with zeros: the gradient of the
  // mask. Places that no query sees stay as they are.
  void* dmask = nullptr;
};

// Both return false, with nothing usable written, when there is no scratch memory.
struct AttentionKernels {
  bool (*forward[kDTypeCount])(const Attention&) = {};
  bool (*backward[kDTypeCount])(const AttentionBackward&) = {};
  bool gives_dmask[kDTypeCount] = {};  // whether `backward` does
  // Whether the kernels serve these numbers of features; null: any. Where it is given, they want rows at multiples of
  // 16 bytes.
  bool (*fits[kDTypeCount])(std::int64_t head_dim, std::int64_t value_dim) = {};
};

}  // namespace pydlx
