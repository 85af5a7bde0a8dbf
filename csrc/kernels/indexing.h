// Reading and writing at indexed positions, counting selected elements, and filling patterns.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/limits.h"

namespace pydlx {

// Moves elements between a dense operand and the positions of `self` that an index picks along one axis:
//   self[s, index[s, i, n], n]  <->  dense[s, i, n]     for all slices s, i < count, n < row.
// The index is shared by slices or rows where its strides are 0; an index that several axes were folded into holds
// plain element offsets (self_step 1). Negative indices count from self_size. All indices were checked before; one that
// has changed since is taken as 0.
struct IndexedRows {
  void* self = nullptr;
  void* dense = nullptr;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0, self_size = 0;
  std::int64_t self_step = 0, dense_step = 0, index_step = 0;  // along the indexed axis
  std::int64_t row = 1;                                        // innermost of the other axes
  std::int64_t self_row = 0, dense_row = 0, index_row = 0;
  int ndim = 0;  // the remaining axes, innermost first
  std::int64_t slices = 1;
  std::int64_t size[kMaxDims], self_stride[kMaxDims], dense_stride[kMaxDims], index_stride[kMaxDims];
  // Where given, and where the device's table says `checks_range`, the kernel sets it when it meets an index outside
  // [index_low, self_size): indices need not be checked before then (self_size > 0), and the result is worthless.
  int* out_of_range = nullptr;
  std::int64_t index_low = 0;
  bool distinct = false;  // no position occurs twice: writes may go in any order. Otherwise i ascends for every (s, n)
};

// self <- self op dense
enum class ScatterOp : int { sum, prod, amax, amin, COUNT };

// out[i] = start + i * step for the first half, last - (n - 1 - i) * step for the second when `symmetric`.
struct RangeFill {
  void* out = nullptr;
  std::int64_t n = 0;
  double start = 0, step = 0, last = 0;
  std::int64_t int_start = 0, int_step = 0;  // exact integers; used when `integral`
  bool integral = false, symmetric = false;
  double base = 0;  // when not 0, the result is base raised to the value
};

// Copies the part of each matrix on one side of a diagonal and zeroes the rest. Contiguous [batch, rows, cols].
struct Triangle {
  const void* x = nullptr;
  void* out = nullptr;
  std::int64_t batch = 0, rows = 0, cols = 0, diagonal = 0;
  bool upper = false;
};

// Lays rows side by side: row r of the result is row r of every part after the other. All contiguous; sizes in bytes.
struct JoinedRows {
  void* out = nullptr;
  const void* const* part = nullptr;
  const std::int64_t* part_bytes = nullptr;  // of one row
  std::int64_t parts = 0, rows = 0;
};

// Positions of true elements of a contiguous mask. `starts` holds one number per block of kNonzeroBlock elements.
inline constexpr std::int64_t kNonzeroBlock = 16384;
struct Nonzero {
  const std::uint8_t* mask = nullptr;  // bools from outside may be other values than 0 and 1
  std::int64_t n = 0;
  std::int64_t* starts = nullptr;
  std::int64_t* out = nullptr;  // [count, ndim] coordinates
  std::int64_t total = 0;       // what nonzero_count returned; exactly so many rows are written
  int ndim = 0;
  std::int64_t size[kMaxDims];  // outermost first
};

using IndexedRowsFn = void (*)(const IndexedRows&);

// Tables "by width" have one entry per element size: 1, 2, 4, 8 bytes.
inline constexpr int kWidths = 4;
constexpr int width_index(DType t) { return itemsize(t) == 1 ? 0 : itemsize(t) == 2 ? 1 : itemsize(t) == 4 ? 2 : 3; }

struct IndexingKernels {
  // Position of the first index outside [low, high), or -1.
  std::int64_t (*check_index)(const std::int64_t* index, std::int64_t n, std::int64_t low, std::int64_t high) = nullptr;
  // out[i] (+)= wrap(index[i]) * step; returns the position of the first index outside [-size, size), or -1.
  std::int64_t (*add_offsets)(std::int64_t* out, const std::int64_t* index, std::int64_t n, std::int64_t size,
                              std::int64_t step, bool first) = nullptr;
  bool checks_range = false;                  // gather, scatter and scatter_reduce honour IndexedRows::out_of_range
  void (*join)(const JoinedRows&) = nullptr;  // or null: part by part
  IndexedRowsFn gather[kWidths] = {};         // dense <- self
  IndexedRowsFn scatter[kWidths] = {};        // self <- dense
  IndexedRowsFn scatter_reduce[static_cast<int>(ScatterOp::COUNT)][kDTypeCount] = {};
  // self <- self + dense for floats, one slice, a shared index, dense rows; 16-bit floats are added in float32 and
  // rounded once.
  // Scratch: start [self_size], order [count]. Or null.
  void (*add_rows[kDTypeCount])(const IndexedRows&, std::int64_t* start, std::int64_t* order) = {};
  void (*range[kDTypeCount])(const RangeFill&) = {};
  void (*triangle[kWidths])(const Triangle&) = {};
  std::int64_t (*nonzero_count)(const Nonzero&) = nullptr;  // fills starts, returns the count
  void (*nonzero)(const Nonzero&) = nullptr;
  // out: k repeated repeats[k] times, in order.
  void (*repeat_index)(const std::int64_t* repeats, std::int64_t n, std::int64_t* out) = nullptr;
};

}  // namespace pydlx
