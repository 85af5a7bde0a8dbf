// Tuning of the portable path: 16 vector registers of 16 bytes (x86-64, NEON has 32). It is for correctness; the
// numbers are those of AVX2, which has as many registers.
#pragma once

namespace pydlx::PYDLX_ISA {
namespace {
namespace tuning {

// Register tile of every product: 6 x 2 sums take 12 registers and leave room for a row of B and the broadcast of A.
inline constexpr int kTileRows = 6, kTileVectors = 2;

// One to four rows times a matrix: rows of B that pass together, so that a sum is loaded and stored once for as many
// multiply-adds. Their elements of A take as many registers times rows.
inline constexpr int kStripDepth[4] = {8, 4, 2, 2};

// Weight gradients as inner products: 16 registers hold 3 x 3 sums, their operands and no more.
inline constexpr int kDotRows = 3, kDotColumns = 3;

// Channels or taps in a register tile of the direct weight gradients, by two vectors of output channels: 8 of 16
// registers for sums.
inline constexpr int kGradRows = 4;

}  // namespace tuning
}  // namespace
}  // namespace pydlx::PYDLX_ISA
