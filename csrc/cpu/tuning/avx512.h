// Tuning of the AVX-512 path: 32 vector registers of 64 bytes (Skylake-X to Emerald Rapids, Zen 4 and 5). Measured on
// Zen 5 and on Emerald Rapids.
#pragma once

namespace pydlx::PYDLX_ISA {
namespace {
namespace tuning {

// Register tile of every product: 6 x 4 sums take 24 registers and leave room for a row of B and the broadcast of A;
// more rows would spill, fewer would load more often than they multiply.
inline constexpr int kTileRows = 6, kTileVectors = 4;

// One to four rows times a matrix: rows of B that pass together, so that a sum is loaded and stored once for as many
// multiply-adds. Their elements of A take as many registers times rows.
inline constexpr int kStripDepth[4] = {8, 8, 4, 4};

// Weight gradients as inner products: 5 x 4 sums need 9 loads per 20 multiply-adds, which two load ports sustain.
inline constexpr int kDotRows = 5, kDotColumns = 4;

// Channels or taps in a register tile of the direct weight gradients, by two vectors of output channels: 16 sums hide
// the latency of two multipliers.
inline constexpr int kGradRows = 8;

}  // namespace tuning
}  // namespace
}  // namespace pydlx::PYDLX_ISA
