// Tiles of a product of 16-bit floats on warpgroups (sm_90a), as HopperPlan cuts them: a ring of panels of both
// operands, and what the consumers do with it, 64 rows of the tile each. Who fills the ring is the kernel's own matter.
#pragma once
#include "cuda/gemm/hopper_plan.h"
#include "cuda/runtime/bulk_store.cuh"
#include "cuda/runtime/warpgroups.cuh"

namespace pydlx::cuda {
namespace {

static_assert(HopperPlan::kRows == kConsumers * kPanelSide && HopperPlan::kDepth == kPanelSide);

// A stage: 128 rows of A, then `columns` columns of B, in panels of 64 x 64. `boxes`: with room for results on their
// way to memory, two panels for each consuming warpgroup. That is a quarter of a wide tile, and a warpgroup waits for
// the engine to have read a panel before it writes the next but one; room for the whole tile would cost one of four
// stages, and the ring hides memory's latency at every panel of the sum, these two only that of a tile's end.
template <int columns, bool boxes = false>
struct TileRing {
  static constexpr int kCount = columns == 256 ? 4 : columns == 128 ? 6 : 8;
  static constexpr int kA = HopperPlan::kRows / kPanelSide * kPanelBytes, kB = columns / kPanelSide * kPanelBytes,
                       kBytes = kA + kB;
  static constexpr int kBoxes = boxes ? kConsumers * 2 * kPanelBytes : 0;
  // The ring, room to begin it at a multiple of kSwizzlePeriod, and the barriers behind it.
  static constexpr std::size_t kShared = kCount * kBytes + kBoxes + kSwizzlePeriod + 2 * kCount * sizeof(Barrier);
  static_assert(kShared <= 227 << 10);

  unsigned char *at, *out;
  Barrier *full, *empty;
  __device__ __forceinline__ TileRing()
      : at(swizzled_shared()),
        out(at + kCount * kBytes),
        full(reinterpret_cast<Barrier*>(out + kBoxes)),
        empty(full + kCount) {}
};

// `count` panels of an operand, by load(to, outer, k): one box when lines are along k, otherwise one each.
template <bool along_k, int count, class Load>
__device__ __forceinline__ void each_box(unsigned char* to, int outer, int k, const Load& load) {
  if constexpr (along_k) {
    load(to, k, outer);
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) load(to + i * kPanelBytes, outer + i * kPanelSide, k);
  }
}
template <bool along_k, int count>
__device__ __forceinline__ void load_panels(unsigned char* to, const CUtensorMap& map, int outer, int k, int batch,
                                            Barrier* full) {
  each_box<along_k, count>(to, outer, k,
                           [&](unsigned char* box, int x, int y) { load_box(box, map, x, y, batch, full); });
}
// The same to both blocks of a cluster.
template <bool along_k, int count>
__device__ __forceinline__ void load_shared_panels(unsigned char* to, const CUtensorMap& map, int outer, int k,
                                                   int batch, Barrier* full) {
  each_box<along_k, count>(to, outer, k,
                           [&](unsigned char* box, int x, int y) { load_box_for(0b11, box, map, x, y, batch, full); });
}

// The consumers' work: store(piece, sum) for every piece that falls to the block, with panels(piece) panels, possibly
// none. The products of a panel are started
// before those of the panel before are finished, so that the tensor cores need not wait for this warpgroup.
template <class T, int columns, bool a_along_k, bool b_along_k, class R, class Panels, class Store>
__device__ __forceinline__ void consume_panels(const HopperPlan& plan, const R& ring, const Panels& panels,
                                               const Store& store) {
  const std::uint32_t work = plan.work();
  // Both layouts have 64 rows of A in kPanelBytes.
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
  const std::uint64_t a = operand_descriptor(shared_address(ring.at + group * kPanelBytes), a_along_k);
  const std::uint64_t b = operand_descriptor(shared_address(ring.at + R::kA), b_along_k);
  // A stage goes back to both blocks of a cluster, since either one's producer fills it in both.
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool tells_other = plan.cluster > 1 && lane == 1;
  const std::uint32_t empty_there = tells_other ? address_in_block(ring.empty, blockIdx.x % 2 ^ 1) : 0;
  Turn<R::kCount> turn;
  for (std::uint32_t index = blockIdx.x; index < work; index += gridDim.x) {
    const HopperPlan::Piece piece = plan.piece(index);
    float sum[columns / 2] = {};
    const auto start = [&] {
      const int at = turn.stage() * R::kBytes;
      wait(ring.full + turn.stage(), turn.parity());
      start_panels<T, a_along_k, b_along_k>(sum, advance(a, at), advance(b, at));
    };
    const auto give_back = [&](int stage) {
      if (lane == 0) arrive(ring.empty + stage);
      if (tells_other) arrive_there(empty_there + static_cast<std::uint32_t>(stage * sizeof(Barrier)));
    };
    hold(sum);
    if (const std::uint32_t count = panels(piece); count > 0) {
      start();
      for (std::uint32_t panel = 1; panel < count; ++panel) {
        const int before = turn.stage();
        turn.next();
        start();
        wgmma_wait<1>();
        give_back(before);
      }
      wgmma_wait<0>();
      give_back(turn.stage());
      turn.next();
    }
    hold(sum);
    store(piece, sum);
  }
}

// Where a thread's sums of a piece belong: its first row and column, and the columns from there on.
struct TilePlace {
  std::int64_t m0, n0;
  int left;
  template <int columns>
  __device__ __forceinline__ static TilePlace of(const HopperPlan::Piece& piece, std::int64_t n) {
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
    TilePlace p;
    p.m0 = static_cast<std::int64_t>(piece.row) * HopperPlan::kRows + group * kPanelSide;
    p.n0 = static_cast<std::int64_t>(piece.column) * columns + sum_column(0);
    p.left = static_cast<int>(n - p.n0 < columns ? n - p.n0 : columns);
    return p;
  }
};

// A thread's sums two by two: row(m) is called for its two rows, and what that returns for every eighth column from
// the thread's first one, with the sum there and the next one.
template <int columns, class Row>
__device__ __forceinline__ void each_two_sums(const TilePlace& at, std::int64_t rows, const float (&sum)[columns / 2],
                                              const Row& row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t m = at.m0 + sum_row(2 * half);
    if (m >= rows) continue;
    const auto store = row(m);
#pragma unroll
    for (int i = 2 * half; i < columns / 2; i += 4)
      if (i / 4 * 8 < at.left) store(i / 4 * 8, sum[i], sum[i + 1]);
  }
}

// Four neighbouring threads with four words each exchange them: thread t has word t of each, in their order.
__device__ __forceinline__ void exchange_four(std::uint32_t (&w)[4]) {
  const auto swap = [](std::uint32_t& first, std::uint32_t& second, int distance) {
    const bool upper = static_cast<int>(threadIdx.x) & distance;
    const std::uint32_t got = __shfl_xor_sync(kFullMask, upper ? first : second, distance);
    (upper ? first : second) = got;
  };
  swap(w[0], w[1], 1);
  swap(w[2], w[3], 1);
  swap(w[0], w[2], 2);
  swap(w[1], w[3], 2);
}

// A thread's sums into lines of 16-bit floats by chunks of 16 bytes, so that a warp fills the sectors of memory that it
// writes to. line(m) is the place of the thread's first column in a row, null where there is none; chunks begin at
// multiples of 16 bytes, and the columns are a multiple of eight. word(column, sum, next) is the pair from that column
// on, counted from the first one.
template <int columns, class Line, class Word>
__device__ __forceinline__ void store_chunks(const TilePlace& at, std::int64_t rows, const float (&sum)[columns / 2],
                                             const Line& line, const Word& word) {
  const int quarter = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t m = at.m0 + sum_row(2 * half);
#pragma unroll
    for (int block = 0; block < columns / 8; block += 4) {
      std::uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = (block + j) * 8, i = (block + j) * 4 + 2 * half;
        w[j] = column < at.left ? word(column, sum[i], sum[i + 1]) : 0;
      }
      exchange_four(w);
      const int column = (block + quarter) * 8;
      if (m >= rows || column >= at.left) continue;
      if (auto* const to = line(m))
        *reinterpret_cast<uint4*>(to + column - sum_column(0)) = uint4{w[0], w[1], w[2], w[3]};
    }
  }
}

// The same by the copy engine, which takes one panel of 64 x 64 while the warpgroup writes the next one; what lies
// outside the tensor of `map` is left out, and word() is asked for it, too. `out` is the ring's. One thread has all the
// groups of stores: at the end it waits for them (finish_boxes). Every tile has an even number of panels, so that the
// two places take turns.
template <int columns, class Word>
__device__ __forceinline__ void store_boxes(unsigned char* out, const CUtensorMap& map, const HopperPlan::Piece& piece,
                                            const float (&sum)[columns / 2], const Word& word) {
  static_assert(columns / kPanelSide % 2 == 0);
  const int group = static_cast<int>(threadIdx.x) / kWarpgroup, thread = static_cast<int>(threadIdx.x) % kWarpgroup,
            lane = thread % kWarp,
            line = thread / kWarp * 16 + lane % 16;  // as stmatrix wants the lines of four blocks
  out += group * 2 * kPanelBytes;
  const int x = static_cast<int>(piece.column) * columns, y = static_cast<int>(piece.row) * HopperPlan::kRows;
#pragma unroll
  for (int first = 0; first < columns; first += kPanelSide) {
    unsigned char* const panel = out + first / kPanelSide % 2 * kPanelBytes;
    if (thread == 0) stores_wait_read<1>();
    meet_warpgroup();
#pragma unroll
    for (int inside = 0; inside < kPanelSide; inside += 16) {
      std::uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {  // the upper and the lower eight lines of eight columns, and of the next eight
        const int column = first + inside + j / 2 * 8, i = column / 8 * 4 + j % 2 * 2;
        w[j] = word(column, sum[i], sum[i + 1]);
      }
      stmatrix_x4(reinterpret_cast<uint4*>(panel) + chunk_at<kPanelSide / 8>(line, inside / 8 + lane / 16), w);
    }
    show_to_engines();
    meet_warpgroup();
    if (thread == 0) {
      store_box(panel, map, x + first, y + group * kPanelSide, static_cast<int>(piece.batch));
      stores_commit();
    }
  }
}
__device__ __forceinline__ void finish_boxes() {
  if (threadIdx.x % kWarpgroup == 0) stores_wait_read<0>();
}

// The sums of a piece of a split product as its part, for add_parts.
template <int columns>
__device__ __forceinline__ void store_part(float* partial, const HopperPlan::Piece& piece, std::int64_t batch,
                                           std::int64_t m, std::int64_t n, const float (&sum)[columns / 2]) {
  const TilePlace at = TilePlace::of<columns>(piece, n);
  float* const part = partial + (static_cast<std::int64_t>(piece.part) * batch + piece.batch) * m * n + at.n0;
  each_two_sums<columns>(at, m, sum, [&](std::int64_t row) {
    return [line = part + row * n, left = at.left](int column, float v, float next) {
      line[column] = v;
      if (column + 1 < left) line[column + 1] = next;
    };
  });
}

}  // namespace
}  // namespace pydlx::cuda
