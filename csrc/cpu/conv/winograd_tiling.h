// How a Winograd convolution walks its tiles: a plane is cut into bands (a few rows of tiles, or a piece of one row of
// a wide plane), a band is transposed to pixel-major order at once, and consecutive bands form the blocks whose
// transformed tiles stay in the second-level cache.
#pragma once
#include "cpu/conv/winograd.h"
#include "cpu/tuning/tuning.h"

namespace pydlx::PYDLX_ISA {
namespace {

PYDLX_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
PYDLX_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_INLINE std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
PYDLX_INLINE std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

struct Band {
  std::int64_t image, row, rows, column, columns;  // in tiles
  std::int64_t tiles() const { return rows * columns; }
};

struct Tiling {
  std::int64_t tiles_y = 0, tiles_x = 0;  // per plane
  std::int64_t band_rows = 1, piece = 1;  // most tiles of a band along each axis
  std::int64_t bands_y = 1, pieces = 1, bands = 1;
  std::int64_t per_block = 1, blocks = 1;  // bands per block

  std::int64_t band_tiles() const { return band_rows * piece; }
  std::int64_t block_tiles() const { return per_block * band_tiles(); }
  std::int64_t block_end(std::int64_t block) const { return smaller(bands, (block + 1) * per_block); }
  Band band(std::int64_t i) const {
    const std::int64_t p = i % pieces, y = i / pieces % bands_y;
    return {i / pieces / bands_y, y * band_rows, smaller(band_rows, tiles_y - y * band_rows), p * piece,
            smaller(piece, tiles_x - p * piece)};
  }
  // Number of a band's first tile; the tiles of consecutive bands are consecutive.
  std::int64_t tile(const Band& b) const { return (b.image * tiles_y + b.row) * tiles_x + b.column; }
  // Floats of a band's pixels, of those that its tiles read or those that they write.
  template <class W, int RY, int RX>
  std::int64_t pixels() const {
    const std::int64_t read = (band_rows * step<W>(RY) + inputs<W>(RY) - step<W>(RY)) *
                              (piece * step<W>(RX) + inputs<W>(RX) - step<W>(RX)),
                       written = band_rows * outputs<W>(RY) * piece * outputs<W>(RX);
    return larger(read, written) * kLane;
  }
  // Other blocks, between half and four thirds of their size, if that leaves less of the work to the busiest thread.
  void even_out(std::int64_t threads) {
    const auto most = [&](std::int64_t per) { return ceil_div(ceil_div(bands, per), threads) * per; };
    std::int64_t best = per_block, least = most(per_block) * 31 / 32;
    for (std::int64_t per = per_block * 4 / 3; 2 * per >= per_block; --per)
      if (most(per) <= least) {
        best = per;
        least = most(per) - 1;
      }
    per_block = best;
    blocks = ceil_div(bands, per_block);
  }
};

// Blocks of about `wanted` tiles, and at least `least` blocks if there are enough bands.
template <class W, int RY, int RX>
Tiling make_tiling(std::int64_t batch, std::int64_t out_y, std::int64_t out_x, std::int64_t wanted,
                   std::int64_t least) {
  const std::int64_t m_y = larger(step<W>(RY), outputs<W>(RY)), m_x = larger(step<W>(RX), outputs<W>(RX));
  Tiling t;
  t.tiles_y = ceil_div(out_y, outputs<W>(RY));
  t.tiles_x = ceil_div(out_x, outputs<W>(RX));
  const std::int64_t total = batch * t.tiles_y * t.tiles_x;
  wanted = larger(1, smaller(wanted, ceil_div(total, least)));
  t.pieces = ceil_div(t.tiles_x, smaller(wanted, 16));
  t.piece = ceil_div(t.tiles_x, t.pieces);
  t.pieces = ceil_div(t.tiles_x, t.piece);
  if (t.pieces == 1) {
    while (t.band_rows < t.tiles_y && (t.band_rows + 1) * t.piece <= wanted &&
           ((t.band_rows + 1) * m_y + 4) * (t.piece * m_x + 4) * 16 * 4 <= tuning::kWinogradBand)
      ++t.band_rows;
    t.band_rows = ceil_div(t.tiles_y, ceil_div(t.tiles_y, t.band_rows));
  }
  t.bands_y = ceil_div(t.tiles_y, t.band_rows);
  t.bands = batch * t.bands_y * t.pieces;
  t.per_block = larger(1, wanted / t.band_tiles());
  t.blocks = ceil_div(t.bands, t.per_block);
  t.per_block = ceil_div(t.bands, t.blocks);
  t.blocks = ceil_div(t.bands, t.per_block);
  return t;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
