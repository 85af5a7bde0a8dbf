// The forward pass by the instructions of sm_90a (attention_hopper.cu).
#pragma once
#include "kernels/attention.h"

namespace pydlx::cuda {

// False, with nothing written, where it does not serve these operands or this GPU.
template <class T>
bool attention_forward_hopper(const Attention&);

// Which tile of queries a block takes when, plain arithmetic for the host and the kernel.
struct AttentionOrder {
  std::int64_t tiles, heads, kv_heads;  // tiles of one head; heads of one batch
  std::int64_t batch;
  bool descending;  // the last queries of a head first: with a band they see the most keys

  constexpr std::int64_t work() const { return tiles * heads * batch; }
  struct Place {
    std::int64_t tile, head, kv_head, batch;
  };
  // Blocks that run at a time share the keys of few heads: first the tiles of a group of heads with the same keys.
  constexpr Place place(std::int64_t index) const {
    const std::int64_t group = heads / kv_heads, inside = index % (tiles * group), rest = index / (tiles * group);
    const std::int64_t tile = inside / group, kv_head = rest % kv_heads;
    return {descending ? tiles - 1 - tile : tile, kv_head * group + inside % group, kv_head, rest / kv_heads};
  }
};

}  // namespace pydlx::cuda
