// How a product is cut into pieces for threads. Cutting never changes a bit: see driver.h.
#pragma once
#include "cpu/gemm/vec.h"
#include "cpu/isa.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

PYDLX_INLINE std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
PYDLX_INLINE std::int64_t min_of(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
PYDLX_INLINE std::int64_t max_of(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// The operands of the transposed product: C^T = B^T A^T. How C is stored is the caller's business.
PYDLX_INLINE void transpose_operands(Gemm& g, const Gemm& given) {
  g.m = given.n;
  g.n = given.m;
  g.a = given.b;
  g.a_row = given.b_col;
  g.a_col = given.b_row;
  g.a_batch = given.b_batch;
  g.b = given.a;
  g.b_row = given.a_col;
  g.b_col = given.a_row;
  g.b_batch = given.a_batch;
}

struct Cuts {
  std::int64_t rows = 1, cols = 1;            // pieces of one matrix
  std::int64_t row_units = 1, col_units = 1;  // tiles that a cut may fall between
  std::int64_t grain = 1;                     // pieces for one thread
};

// Pieces worth about 10 us or more: `flops` is what one core does in that time, `size` the bytes of an element.
[[maybe_unused]] __attribute__((noinline)) Cuts choose_cuts(const Gemm& g, std::int64_t size, double flops,
                                                            std::int64_t row_units, std::int64_t col_units) {
  Cuts cuts;
  cuts.row_units = row_units;
  cuts.col_units = col_units;
  const double m = static_cast<double>(g.m), n = static_cast<double>(g.n), k = static_cast<double>(g.k),
               work = 2.0 * m * n * (g.k > 0 ? k : 1), bytes = static_cast<double>(size) * (k * n + m * (k + n));
  const double weight = work / flops > bytes / 3e5 ? work / flops : bytes / 3e5;
  const std::int64_t threads = in_parallel_region() ? 1 : num_threads();
  if (threads > 1 && g.batch < 4 * threads && g.batch % threads != 0 && weight > 1) {
    const std::int64_t pieces = weight < static_cast<double>(threads) ? static_cast<std::int64_t>(weight) + 1 : threads;
    // What one piece costs: its products, and copies of the rows of A and columns of B that it shares with others.
    // Turning an element takes as long as a dozen products, copying it as two.
    const auto copying = [](std::int64_t stride) { return stride == 1 ? 2.0 : 12.0; };
    const double copying_a = copying(g.a_col), copying_b = copying(g.b_col),
                 tile_rows = m / static_cast<double>(row_units), tile_cols = n / static_cast<double>(col_units);
    double best = 1e300;
    for (std::int64_t cols = 1; cols <= pieces; ++cols) {
      const std::int64_t rows = row_units > 1 ? pieces / cols : 1;
      if (cols > col_units || rows > row_units) continue;
      const double height = static_cast<double>(ceil_div(row_units, rows)) * tile_rows,
                   width = static_cast<double>(ceil_div(col_units, cols)) * tile_cols,
                   cost = height * width + copying_a * height + copying_b * width;
      if (cost <= best) {
        best = cost;
        cuts.rows = rows;
        cuts.cols = cols;
      }
    }
  }
  if (cuts.rows * cuts.cols == 1 && weight < 1) cuts.grain = static_cast<std::int64_t>(1 / (weight + 1e-6)) + 1;
  return cuts;
}

struct Piece {
  std::int64_t batch, i0, i1, j0, j1;
};
PYDLX_INLINE Piece piece_of(const Cuts& cuts, std::int64_t t, std::int64_t row_unit, std::int64_t col_unit,
                            std::int64_t m, std::int64_t n) {
  const std::int64_t count = cuts.rows * cuts.cols, cut = t % count, rc = cut / cuts.cols, cc = cut % cuts.cols;
  return {t / count, min_of(m, cuts.row_units * rc / cuts.rows * row_unit),
          min_of(m, cuts.row_units * (rc + 1) / cuts.rows * row_unit),
          min_of(n, cuts.col_units * cc / cuts.cols * col_unit),
          min_of(n, cuts.col_units * (cc + 1) / cuts.cols * col_unit)};
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
