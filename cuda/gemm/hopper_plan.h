// How a product is cut for gemm_hopper.cu, and in which order blocks take the pieces. Plain arithmetic, the same on the
// host and in the kernel.
#pragma once
#include <cstdint>

namespace pydlx::cuda {

struct HopperPlan {
  static constexpr int kRows = 128, kDepth = 64;  // of a tile, and of a panel of the summed axis
  // Tiles of so many rows one below the other are taken first, then their right neighbours: the blocks that run at a
  // time form a patch of C, and its operands stay in the second-level cache.
  static constexpr std::uint32_t kGroup = 16;  // even, so that pairs stay together

  int columns;                     // of a tile: 128 or 256
  std::uint32_t tiles_m, tiles_n;  // of one matrix
  std::uint32_t parts;             // of the summed axis
  std::uint32_t batch;
  std::uint32_t cluster;     // neighbouring pieces that blocks take together: 1 or 2
  std::int64_t part_length;  // a multiple of kDepth
  std::int64_t k;

  // The same product for clusters of two blocks, which have the same columns of B: neighbouring pieces are two tiles
  // one below the other, where a tile below the last row is all zeros. Only where this does not take more waves:
  // `processors` and `in_clusters` say how many blocks run at a time alone and in clusters.
  constexpr HopperPlan in_pairs(int processors, int in_clusters) const {
    HopperPlan pairs = *this;
    pairs.cluster = 2;
    pairs.tiles_m += tiles_m % 2;
    const auto waves = [](const HopperPlan& p, int blocks) { return (std::int64_t{p.work()} + blocks - 1) / blocks; };
    const bool faster = tiles_m > 1 && in_clusters > 1 && waves(pairs, in_clusters) <= waves(*this, processors);
    return faster ? pairs : *this;
  }

  constexpr std::uint32_t work() const { return tiles_m * tiles_n * parts * batch; }

  struct Piece {
    std::uint32_t row, column;  // of tiles
    std::uint32_t part, batch;
    std::int64_t k;  // where it begins
    std::uint32_t panels;
  };
  constexpr Piece piece(std::uint32_t index) const {
    Piece p = {};
    const std::uint32_t tiles = tiles_m * tiles_n, at = index % tiles, rest = index / tiles;
    p.part = rest % parts;
    p.batch = rest / parts;
    const std::uint32_t first = at / (kGroup * tiles_n) * kGroup, left = tiles_m - first;
    const std::uint32_t rows = left < kGroup ? left : kGroup, inside = at - first * tiles_n;
    p.row = first + inside % rows;
    p.column = inside / rows;
    p.k = p.part * part_length;
    const std::int64_t length = k - p.k < part_length ? k - p.k : part_length;
    p.panels = static_cast<std::uint32_t>((length + kDepth - 1) / kDepth);
    return p;
  }
};

// The plan for sizes of at least one. `processors` only chooses the width of tiles, which leaves every sum as it is;
// how sums are split depends on the geometry alone. `columns` is 0 where the pieces are too many to count.
constexpr HopperPlan hopper_plan(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch, int processors) {
  constexpr std::int64_t kMostPieces = std::int64_t{1} << 30;
  const auto tiles = [&](int columns) {
    return ((m + HopperPlan::kRows - 1) / HopperPlan::kRows) * ((n + columns - 1) / columns);
  };
  if (m > kMostPieces || n > kMostPieces || tiles(128) > kMostPieces / batch) return {};
  const auto count = [&](int columns) { return tiles(columns) * batch; };

  // Blocks for one large GPU, each with a long enough sum that adding the parts costs little beside it.
  constexpr std::int64_t kWanted = 132, kShortest = 512, kMostParts = 32;
  HopperPlan p = {};
  std::int64_t parts = kWanted / count(128);
  parts = parts < k / kShortest ? parts : k / kShortest;
  parts = parts > kMostParts ? kMostParts : (parts < 1 ? 1 : parts);
  const std::int64_t panels = (k + HopperPlan::kDepth - 1) / HopperPlan::kDepth;
  p.part_length = (panels + parts - 1) / parts * HopperPlan::kDepth;
  p.parts = static_cast<std::uint32_t>((k + p.part_length - 1) / p.part_length);

  // A wave of wide tiles takes nearly twice as long as one of narrow tiles, and reads less: the width with less work.
  const auto waves = [&](int columns) { return (count(columns) * p.parts + processors - 1) / processors; };
  p.columns = n > 128 && waves(256) * 19 <= waves(128) * 10 ? 256 : 128;
  p.tiles_m = static_cast<std::uint32_t>((m + HopperPlan::kRows - 1) / HopperPlan::kRows);
  p.tiles_n = static_cast<std::uint32_t>((n + p.columns - 1) / p.columns);
  p.batch = static_cast<std::uint32_t>(batch);
  p.cluster = 1;
  p.k = k;
  return p;
}

}  // namespace pydlx::cuda
