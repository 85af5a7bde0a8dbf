// The reduction driver. Geometry, blocking, threads and the combination of partial states are written once here, on
// type-erased states; an operation supplies the inner loops (see Engine). Order of accumulation, a function of the
// geometry alone:
//   rows:    the reduced axis is the fast one. Chunks of 4096 elements, combined by a binary tree; long rows are cut
//   into segments. columns: a kept axis is the fast one. Blocks of 512 columns, 128 rows at a time; tall matrices are
//   cut into segments of rows.
#pragma once
#include "core/scratch.h"
#include "cpu/isa.h"
#include "cpu/reduce/short_rows.h"
#include "functors/types.h"
#include "kernels/reduce.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr std::int64_t kChunk = 4096;   // 16 KiB of float: two passes over a chunk stay in the first-level cache
constexpr std::int64_t kColumns = 512;  // 2 KiB of float per row keeps prefetchers and the TLB busy on wide matrices
constexpr std::int64_t kRows = 128;
constexpr std::int64_t kGrainElements = 32768;
constexpr int kMaxState = 24;  // bytes
constexpr int kMaxSegments = 32;

struct Engine {
  std::int64_t in_size;
  std::int64_t state_size;
  bool indexed;  // uses positions: rows may not be folded side by side
  void (*init)(void* states, std::int64_t n);
  // state <- merge(state, chunk of n <= kChunk elements starting at flat position pos)
  void (*row)(const void* x, std::int64_t n, std::int64_t stride, std::int64_t pos, void* state);
  // states[l] <- merge(states[l], the rows of column l)
  void (*cols)(const void* x, std::int64_t rows, std::int64_t row_stride, int width, std::int64_t lane_stride,
               std::int64_t pos, void* states);
  void (*merge)(void* into, const void* from, std::int64_t n);
  void (*finish)(const Reduce& r, const void* states, std::int64_t n, std::int64_t offset, std::int64_t stride);
  // `count` whole rows that fit in one chunk, start to finish.
  void (*rows)(const Reduce& r, const void* x, std::int64_t count, std::int64_t step, std::int64_t n,
               std::int64_t stride, std::int64_t offset, std::int64_t out_stride);
};

// Combines a stream of equally weighted partial states as a binary counter does: level k holds the merge of 2^k of
// them. States that come here are kMaxState bytes long, whatever of them is used.
struct Tree {
  alignas(16) char level[40][kMaxState];
  std::uint64_t used = 0;
};
[[maybe_unused]] void tree_push(const Engine& e, Tree& t, const void* state) {
  alignas(16) char now[kMaxState];
  std::memcpy(now, state, kMaxState);  // a few bytes too many, but no call
  int k = 0;
  for (; t.used >> k & 1; ++k) {
    e.merge(t.level[k], now, 1);
    std::memcpy(now, t.level[k], kMaxState);
  }
  t.used = (t.used >> k | 1) << k;
  std::memcpy(t.level[k], now, kMaxState);
}
[[maybe_unused]] void tree_total(const Engine& e, const Tree& t, void* state) {
  // Highest level first: it holds the earliest elements, and index ops must see them in order.
  e.init(state, 1);
  for (int k = 39; k >= 0; --k)
    if (t.used >> k & 1) e.merge(state, t.level[k], 1);
}

// Element offset of flat position `i` in axes listed innermost first.
inline __attribute__((always_inline)) std::int64_t offset_of(std::int64_t i, int ndim, const std::int64_t* size,
                                                             const std::int64_t* stride) {
  std::int64_t o = 0;
  for (int d = 0; d < ndim; ++d) {
    o += i % size[d] * stride[d];
    i /= size[d];
  }
  return o;
}

inline __attribute__((always_inline)) std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline __attribute__((always_inline)) std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// Merges inner positions [begin, end) of the row at x into `state`, in pieces of at most kChunk that do not cross an
// inner axis.
[[maybe_unused]] void reduce_range(const Reduce& r, const Engine& e, const char* x, std::int64_t begin,
                                   std::int64_t end, void* state) {
  const std::int64_t run = r.inner_ndim == 0 ? 1 : r.inner_size[0], stride = r.inner_ndim == 0 ? 0 : r.inner_stride[0];
  // Divisions cost as much as a short piece: only the first one is found by them, or all in three axes and more.
  std::int64_t at = begin % run, from = offset_of(begin - at, r.inner_ndim, r.inner_size, r.inner_stride);
  for (std::int64_t i = begin; i < end;) {
    const std::int64_t n = least(least(run - at, end - i), kChunk);
    e.row(x + (from + at * stride) * e.in_size, n, stride, i, state);
    i += n;
    at += n;
    if (at < run || i >= end) continue;
    at = 0;
    from = r.inner_ndim == 2 ? from + r.inner_stride[1] : offset_of(i, r.inner_ndim, r.inner_size, r.inner_stride);
  }
}

constexpr std::int64_t kShort = 32;        // rows shorter than this leave vectors empty
constexpr std::int64_t kShortBlock = 128;  // rows turned into columns at a time: 32 KiB of double

// Many short rows: blocks of them are transposed into a buffer, where they reduce like columns.
[[maybe_unused]] void reduce_short_rows(const Reduce& r, const Engine& e) {
  const std::int64_t n = r.inner_numel, axis = r.outer_size[0], step = r.outer_stride[0], stride = r.inner_stride[0];
  const std::int64_t blocks = (axis + kShortBlock - 1) / kShortBlock, groups = r.outer_numel / axis;
  parallel_for(groups * blocks, most(kGrainElements / (n * kShortBlock), 1), [&](std::int64_t begin, std::int64_t end) {
    alignas(64) char buffer[kShort * kShortBlock * 8];
    alignas(64) char states[kShortBlock * kMaxState];
    for (std::int64_t b = begin; b < end; ++b) {
      const std::int64_t group = b / blocks, c0 = b % blocks * kShortBlock, count = least(axis - c0, kShortBlock);
      const char* x =
          static_cast<const char*>(r.in) +
          (offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.outer_stride + 1) + c0 * step) * e.in_size;
      switch (e.in_size) {
        case 1:
          transpose_block(reinterpret_cast<std::uint8_t*>(buffer), reinterpret_cast<const std::uint8_t*>(x), count,
                          step, n, stride);
          break;
        case 2:
          transpose_block(reinterpret_cast<std::uint16_t*>(buffer), reinterpret_cast<const std::uint16_t*>(x), count,
                          step, n, stride);
          break;
        case 4:
          transpose_words(reinterpret_cast<std::uint32_t*>(buffer), reinterpret_cast<const std::uint32_t*>(x), count,
                          step, n, stride, (axis - 1 - c0) * step + n);
          break;
        default:
          transpose_block(reinterpret_cast<std::uint64_t*>(buffer), reinterpret_cast<const std::uint64_t*>(x), count,
                          step, n, stride);
      }
      e.init(states, count);
      e.cols(buffer, n, count, static_cast<int>(count), 1, 0, states);
      e.finish(r, states, count,
               offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.out_stride + 1) + c0 * r.out_stride[0],
               r.out_stride[0]);
    }
  });
}

constexpr int kPlanes = 8;  // 16 were no faster, 4 lose a tenth; fewer leave more to share

// Several reduced axes with a kept one between them (channels of images): each row is short and the next of the same
// result is far away. Neighbouring results therefore advance together, so that memory is read in long runs.
[[maybe_unused]] void reduce_planes(const Reduce& r, const Engine& e) {
  const std::int64_t n = r.inner_size[0], rows = r.inner_numel / n, step = r.outer_stride[0], axis = r.outer_size[0];
  const std::int64_t blocks = (axis + kPlanes - 1) / kPlanes, at_a_time = kChunk / n;
  parallel_for(
      r.outer_numel / axis * blocks, most(kGrainElements / (r.inner_numel * kPlanes), 1),
      [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
          const std::int64_t group = b / blocks, c0 = b % blocks * kPlanes, width = least(axis - c0, kPlanes);
          const char* x =
              static_cast<const char*>(r.in) +
              (offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.outer_stride + 1) + c0 * step) * e.in_size;
          Tree tree[kPlanes];
          alignas(16) char state[kPlanes][kMaxState];
          for (std::int64_t i = 0; i < rows; i += at_a_time) {
            for (int c = 0; c < width; ++c) e.init(state[c], 1);
            for (std::int64_t j = i; j < least(i + at_a_time, rows); ++j) {
              const std::int64_t from = r.inner_ndim == 2
                                            ? j * r.inner_stride[1]
                                            : offset_of(j, r.inner_ndim - 1, r.inner_size + 1, r.inner_stride + 1);
              for (int c = 0; c < width; ++c)
                e.row(x + (from + c * step) * e.in_size, n, r.inner_stride[0], j * n, state[c]);
            }
            for (int c = 0; c < width; ++c) tree_push(e, tree[c], state[c]);
          }
          const std::int64_t out =
              offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.out_stride + 1) + c0 * r.out_stride[0];
          for (int c = 0; c < width; ++c) {
            tree_total(e, tree[c], state[c]);
            e.finish(r, state[c], 1, out + c * r.out_stride[0], 0);
          }
        }
      });
}

[[maybe_unused]] void reduce_rows(const Reduce& r, const Engine& e) {
  const char* in = static_cast<const char*>(r.in);
  const std::int64_t n = r.inner_numel;
  if (r.inner_ndim == 1 && n <= kShort && r.outer_ndim > 0 && r.outer_size[0] >= 64) return reduce_short_rows(r, e);
  if (r.inner_ndim <= 1 && n <= kChunk) {
    parallel_for(r.outer_numel, most(kGrainElements / n, 1), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t axis = r.outer_ndim == 0 ? 1 : r.outer_size[0];
      const std::int64_t step = r.outer_ndim == 0 ? 0 : r.outer_stride[0],
                         out_step = r.outer_ndim == 0 ? 0 : r.out_stride[0];
      for (std::int64_t o = begin; o < end;) {
        const std::int64_t count = least(axis - o % axis, end - o);
        e.rows(r, in + offset_of(o, r.outer_ndim, r.outer_size, r.outer_stride) * e.in_size, count, step, n,
               r.inner_ndim == 0 ? 1 : r.inner_stride[0], offset_of(o, r.outer_ndim, r.outer_size, r.out_stride),
               out_step);
        o += count;
      }
    });
    return;
  }
  if (r.inner_ndim >= 2 && r.outer_ndim > 0 && r.outer_numel > kMaxSegments && r.inner_size[0] >= 64 &&
      r.inner_size[0] <= kChunk / 2 && r.outer_stride[0] == r.inner_size[0] * r.inner_stride[0])
    return reduce_planes(r, e);
  // Segments give threads something to share when there are few rows.
  std::int64_t segments = most(1, least(kMaxSegments / r.outer_numel, n / (8 * kChunk)));
  const std::int64_t length = ((n + segments - 1) / segments + kChunk - 1) / kChunk * kChunk;
  segments = (n + length - 1) / length;
  alignas(16) char scratch[kMaxSegments][kMaxState];
  parallel_for(r.outer_numel * segments, most(kGrainElements / length, 1), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t o = task / segments, first = task % segments * length, last = least(first + length, n);
      const char* x = in + offset_of(o, r.outer_ndim, r.outer_size, r.outer_stride) * e.in_size;
      Tree tree;
      alignas(16) char state[kMaxState];
      for (std::int64_t i = first; i < last; i += kChunk) {
        e.init(state, 1);
        reduce_range(r, e, x, i, least(i + kChunk, last), state);
        tree_push(e, tree, state);
      }
      tree_total(e, tree, segments == 1 ? state : scratch[task]);
      if (segments == 1) e.finish(r, state, 1, offset_of(o, r.outer_ndim, r.outer_size, r.out_stride), 0);
    }
  });
  if (segments == 1) return;
  for (std::int64_t o = 0; o < r.outer_numel; ++o) {
    Tree tree;
    alignas(16) char state[kMaxState];
    for (std::int64_t s = 0; s < segments; ++s) tree_push(e, tree, scratch[o * segments + s]);
    tree_total(e, tree, state);
    e.finish(r, state, 1, offset_of(o, r.outer_ndim, r.outer_size, r.out_stride), 0);
  }
}

// Merges inner positions [begin, end) of `width` columns at x into states[width].
[[maybe_unused]] void reduce_block(const Reduce& r, const Engine& e, const char* x, std::int64_t begin,
                                   std::int64_t end, int width, void* states) {
  const std::int64_t lane = r.outer_stride[0];
  const std::int64_t run = r.inner_ndim == 0 ? 1 : r.inner_size[0], stride = r.inner_ndim == 0 ? 0 : r.inner_stride[0];
  std::int64_t i = begin;
  // Narrow dense matrices: lay several rows side by side so that vectors are full, then fold them.
  if (!e.indexed && r.inner_ndim == 1 && lane == 1 && stride == width && width <= kColumns / 8 &&
      end - begin >= kColumns) {
    const std::int64_t fold = kColumns / width;
    alignas(64) char wide[kColumns * kMaxState];
    e.init(wide, fold * width);
    for (const std::int64_t steps = (end - begin) / fold, stop = begin + steps * fold; i < stop;) {
      const std::int64_t rows = least(kRows, (stop - i) / fold);
      e.cols(x + i * stride * e.in_size, rows, fold * width, static_cast<int>(fold * width), 1, i, wide);
      i += rows * fold;
    }
    for (std::int64_t f = 0; f < fold; ++f) e.merge(states, wide + f * width * e.state_size, width);
  }
  while (i < end) {
    const std::int64_t rows = least(least(run - i % run, end - i), kRows);
    e.cols(x + offset_of(i, r.inner_ndim, r.inner_size, r.inner_stride) * e.in_size, rows, stride, width, lane, i,
           states);
    i += rows;
  }
}

[[maybe_unused]] void reduce_columns(const Reduce& r, const Engine& e) {
  const char* in = static_cast<const char*>(r.in);
  const std::int64_t n = r.inner_numel, columns = r.outer_size[0], blocks = (columns + kColumns - 1) / kColumns;
  const std::int64_t units = r.outer_numel / columns * blocks, width = least(columns, kColumns);
  std::int64_t segments = most(1, least(kMaxSegments / units, n * width / kGrainElements));
  std::int64_t length = most((n + segments - 1) / segments, 1);
  segments = (n + length - 1) / length;
  const std::int64_t block_bytes = kColumns * e.state_size;
  // Not on the stack: that of a thread may be small.
  char* scratch = segments == 1
                      ? nullptr
                      : static_cast<char*>(thread_scratch(ScratchSlot::reduction,
                                                          static_cast<std::size_t>(units * segments * block_bytes)));
  if (!scratch) {
    segments = 1;
    length = n;
  }
  auto finish = [&](std::int64_t unit, const void* states) {
    const std::int64_t group = unit / blocks, c0 = unit % blocks * kColumns;
    e.finish(r, states, least(columns - c0, kColumns),
             offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.out_stride + 1) + c0 * r.out_stride[0],
             r.out_stride[0]);
  };
  parallel_for(units * segments, most(kGrainElements / (length * width), 1), [&](std::int64_t begin, std::int64_t end) {
    alignas(64) char local[kColumns * kMaxState];
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t unit = task / segments, group = unit / blocks, c0 = unit % blocks * kColumns;
      const std::int64_t first = task % segments * length, last = least(first + length, n);
      const int w = static_cast<int>(least(columns - c0, kColumns));
      char* states = segments == 1 ? local : scratch + task * block_bytes;
      e.init(states, w);
      reduce_block(
          r, e,
          in + (offset_of(group, r.outer_ndim - 1, r.outer_size + 1, r.outer_stride + 1) + c0 * r.outer_stride[0]) *
                   e.in_size,
          first, last, w, states);
      if (segments == 1) finish(unit, states);
    }
  });
  if (segments == 1) return;
  for (std::int64_t unit = 0; unit < units; ++unit) {
    char* states = scratch + unit * segments * block_bytes;
    const std::int64_t w = least(columns - unit % blocks * kColumns, kColumns);
    for (std::int64_t s = 1; s < segments; ++s) e.merge(states, states + s * block_bytes, w);
    finish(unit, states);
  }
}

// inner_numel > 0 and outer_numel > 0.
[[maybe_unused]] void reduce_walk(const Reduce& r, const Engine& e) {
  const bool columns =
      r.outer_ndim > 0 && (r.inner_ndim == 0 || (r.outer_stride[0] < r.inner_stride[0] && r.outer_size[0] > 1));
  if (columns)
    reduce_columns(r, e);
  else
    reduce_rows(r, e);
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
