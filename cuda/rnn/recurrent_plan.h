// How one direction of a recurrent layer is laid over the multiprocessors, so that every block keeps its share of the
// recurrent weights in shared memory for all steps. Plain arithmetic, the same on the host and in the kernel.
//
// The batch is cut into groups of rows, which know nothing of each other. The blocks of a group own a few units of the
// state each, and all weights of these: forward the rows of W of all gates (`units * gates` columns of the step's
// product, summed over `hidden`), backward the columns of W (`units` columns, summed over `gates * hidden`).
#pragma once
#include <cstddef>
#include <cstdint>

namespace pydlx::cuda {

// What a block computes at a time: so many rows and columns of a step's product. `parts` pieces of the sums lie in
// shared memory until they are added.
struct RecurrentTile {
  int rows, columns, parts;
  int line;    // floats between lines of a piece
  int cycles;  // to multiply, per 16 of the summed axis; an estimate
};

struct RecurrentPlan {
  // Of float32, on the ordinary units: warps own neighbouring columns, lanes share the summed axis. By shared memory's
  // 128 bytes per cycle, that of one row is bound by reading weights, that of eight rows is at the arithmetic's speed.
  static constexpr RecurrentTile kFloat[] = {{1, 16, 1, 16, 12}, {4, 32, 1, 32, 32}, {8, 64, 1, 64, 64}};
  // Of 16-bit floats, on the tensor cores: every warp has an eighth of the summed axis. Lines are spread over the
  // banks.
  static constexpr RecurrentTile kHalf = {16, 64, 8, 68, 20};
  static constexpr int kFloatTiles = 3, kThreads = 256, kDepth = 256, kStages = 4;  // panels of the summed axis

  int tile;                            // of kFloat
  std::int64_t units, blocks, groups;  // units of a block, blocks of a group; 0 blocks: no plan
  std::int64_t rows;                   // of a group, the last one may have fewer
  std::size_t shared;                  // bytes

  constexpr std::int64_t grid() const { return blocks * groups; }
};

struct RecurrentShape {
  std::int64_t hidden, batch;
  int gates;
  bool backward;
  int element;  // bytes: 2 or 4

  constexpr std::int64_t depth() const { return backward ? gates * hidden : hidden; }  // of the summed axis
  constexpr std::int64_t columns(std::int64_t units) const { return backward ? units : gates * units; }
};

// Elements between a column's weights and the next one's: whole vectors of 16 bytes, for the tensor cores an odd number
// of them, so that eight neighbouring columns lie in different banks.
constexpr std::int64_t weight_line(std::int64_t depth, int element) {
  return element == 4 ? (depth + 3) / 4 * 4 : ((depth + 15) / 16 * 2 + 1) * 8;
}
// The same between rows of a panel of the state.
constexpr int panel_line(int element) { return RecurrentPlan::kDepth + (element == 4 ? 0 : 8); }

constexpr std::size_t recurrent_shared(const RecurrentShape& s, const RecurrentTile& t, std::int64_t units) {
  const auto element = static_cast<std::size_t>(s.element);
  const std::size_t weights = static_cast<std::size_t>(s.columns(units) * weight_line(s.depth(), s.element)) * element;
  const std::size_t panels =
      static_cast<std::size_t>(RecurrentPlan::kStages * t.rows * panel_line(s.element)) * element;
  return weights + panels + static_cast<std::size_t>(t.parts * t.rows * t.line) * sizeof(float);
}

// The plan with the shortest estimated step among those whose blocks are all resident with one block on a
// multiprocessor. No sum depends on it: float32 lanes and 16-bit warps take the same terms whatever the tile.
constexpr RecurrentPlan recurrent_plan(const RecurrentShape& s, int processors, std::size_t shared_limit) {
  constexpr std::int64_t kBarrier = 1500, kArrival = 8, kBytesPerCycle = 32;  // rough, of a Hopper
  RecurrentPlan best = {};
  std::int64_t shortest = 0;
  if (s.hidden < 1 || s.batch < 1 || s.hidden > 1 << 20 || s.batch > 1 << 30) return best;
  const int tiles = s.element == 4 ? RecurrentPlan::kFloatTiles : 1;
  std::int64_t before = 0;
  for (std::int64_t units = 1; units <= s.hidden; ++units) {
    const std::int64_t blocks = (s.hidden + units - 1) / units;
    if (blocks > processors || blocks == before) continue;  // the smallest number of units for so many blocks
    before = blocks;
    for (int i = 0; i < tiles; ++i) {
      const RecurrentTile t = s.element == 4 ? RecurrentPlan::kFloat[i] : RecurrentPlan::kHalf;
      const std::size_t shared = recurrent_shared(s, t, units);
      if (shared > shared_limit) continue;
      const std::int64_t row_tiles = (s.batch + t.rows - 1) / t.rows;
      std::int64_t groups = processors / blocks;
      groups = groups < row_tiles ? groups : row_tiles;
      const std::int64_t rows = (row_tiles + groups - 1) / groups * t.rows;
      const int whole = s.backward ? t.columns : t.columns / s.gates * s.gates;  // all gates of a unit in one tile
      const std::int64_t work = rows / t.rows * ((s.columns(units) + whole - 1) / whole);
      const std::int64_t multiply = t.cycles * s.depth() / 16, stage = t.rows * s.depth() * s.element / kBytesPerCycle;
      const std::int64_t cycles = work * (multiply > stage ? multiply : stage) + kBarrier + kArrival * blocks;
      if (best.blocks != 0 && cycles >= shortest) continue;
      shortest = cycles;
      best = {i, units, blocks, (s.batch + rows - 1) / rows, rows, shared};
    }
  }
  return best;
}

}  // namespace pydlx::cuda
