// Attention by the instructions of sm_90a (attention_hopper.cu, attention_hopper_backward.cu).
#pragma once
#include "kernels/attention.h"

namespace pydlx::cuda {

// False, with nothing written, where it does not serve these operands or this GPU.
template <class T>
bool attention_forward_hopper(const Attention&);
template <class T>
bool attention_backward_hopper(const AttentionBackward&, const float* delta);  // rows' sums of dout * out

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

// Which columns of scores a row sees, plain arithmetic again. Rows are queries and columns keys, or the other way
// round.
struct AttentionBand {
  int columns;        // how many there are
  int before, after;  // row r sees columns r - before .. r + after

  // Positions plus distances fit an int.
  static constexpr std::int64_t kMostRows = std::int64_t{1} << 29, kMostDistance = std::int64_t{1} << 30;

  static constexpr AttentionBand of(std::int64_t columns, std::int64_t before, std::int64_t after) {
    const auto distance = [](std::int64_t n) { return static_cast<int>(n < kMostDistance ? n : kMostDistance); };
    return {static_cast<int>(columns), distance(before), distance(after)};
  }

  // Columns that some of `rows` rows from r0 see, from a multiple of `step` on.
  struct Span {
    int begin, end;
  };
  constexpr Span seen(int r0, int rows, int step) const {
    const int first = r0 - before, end = r0 + rows + after;
    return {first > 0 ? first / step * step : 0, end < columns ? end : columns};
  }
  // Whether each of `rows` rows from r0 sees all of `count` columns from c0.
  constexpr bool whole(int r0, int rows, int c0, int count) const {
    return c0 + count <= columns && c0 >= r0 + rows - 1 - before && c0 + count - 1 <= r0 + after;
  }
  // The columns that a row sees among `count` of them from c0, relative to c0; none where last < first.
  struct Limits {
    int first, last;
  };
  constexpr Limits limits(int row, int c0, int count) const {
    const int low = row - before - c0, end = row + after < columns - 1 ? row + after : columns - 1, high = end - c0;
    return {low > count ? count : low < 0 ? 0 : low, high > count ? count : high < -1 ? -1 : high};
  }
};

}  // namespace pydlx::cuda
