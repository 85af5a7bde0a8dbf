// Block sizes that follow from the caches of a core: 32 to 48 KB of first level, 1 to 2 MB of second level, a share of
// a third level. They are the same for every instruction set. Bytes unless said otherwise.
#pragma once
#include <cstdint>

namespace pydlx::PYDLX_ISA {
namespace {
namespace tuning {

// ---- matrix products ------------------------------------------------------------------------------------------------

// A packed block of B, kBlockK x kBlockN bytes of elements (672 KB), takes two thirds of the second level; six rows of
// A and the tile of C stay in the first. More of K makes C come by less often, more of N reuses A more.
inline constexpr std::int64_t kBlockKBytes = 1536, kBlockNBytes = 1792;
inline constexpr std::int64_t kBlockM =
    96;  // rows of A that a block of B meets before the next ones: half of the first level
inline constexpr std::int64_t kInnerRows = 32;  // at most this many rows (columns) for inner products along K
// A matrix larger than this comes from memory, and is asked for this far ahead: about the latency of memory.
inline constexpr std::int64_t kFetchBytes = 8 << 20, kFetchAheadBytes = 1024;
// Sums of a strip of columns wait in the first level while rows of B pass in runs long enough for the prefetchers.
inline constexpr std::int64_t kStripBytes = 4096;
// The 16-bit products: words of a packed block of B (two thirds of the second level), rows of A packed at a time.
inline constexpr std::int64_t kPackedWords = 160 << 10, kPackedRows = 48;

// ---- attention, recurrence ------------------------------------------------------------------------------------------

// Scores of 48 x 512 (100 KB) and a packed block of keys (128 KB for 64 features) stay in the second level; going back
// there are two blocks of scores, of at most 48 x 256 (50 KB each).
inline constexpr std::int64_t kQueries = 48, kForwardKeys = 512, kBackwardKeys = 256;
// Up to here the recurrent weights are read in place, as inner products.
inline constexpr std::int64_t kFewSequences = 4;
// Rows of the input that a panel of its weights meets at once, so that their share of the gates waits in a quarter of
// the second level for the steps.
inline constexpr std::int64_t kInputRows = 128;
// Rows whose sums (12 KB) wait for their gates in the first level.
inline constexpr std::int64_t kGateRows = 48;

// ---- convolution ----------------------------------------------------------------------------------------------------

// Winograd: pixels of a band in half of the first level; tiles of a block, so that the transformed tiles and a panel of
// products take half of the second level (with many channels the kernels come from the third, and larger blocks save
// their traffic); transformed tiles of a round of the weight gradient, in the third level beside the sums.
inline constexpr std::int64_t kWinogradBand = 24 << 10, kWinogradTiles = 48, kWinogradManyTiles = 96,
                              kWinogradRound = 6 << 20;
// With few tiles (or with fewer than half the input channels) the kernels are transformed panel by panel; input
// channels of a panel at a time, so that their kernels take about the second level: 64 to 256 were equally fast.
// Above the last number of bytes kept kernels come from memory, which takes longer than transforming them again
// (1x512x14x14: 1.6 ms kept, 1.1 transformed).
inline constexpr std::int64_t kWinogradFew = 128, kWinogradChunk = 128, kWinogradKept = 16 << 20;
// With stride two: rows of a product that take as long as the transform of its kernel.
inline constexpr std::int64_t kWinogradKernelRows = 7;
// Direct: floats of a band of input, a third of the second level; (tap, channel group) pairs per pass, a quarter of it;
// for the weight gradient the bands of several channel groups share it.
inline constexpr std::int64_t kDirectBand = 96 << 10, kDirectPass = 4096, kDirectGradBand = 48 << 10;
// 1x1: depth of a block of packed columns (128 KB); pixels per block of the weight gradient; pixels that a thread
// multiplies with all weights of channels-last images, and floats of weights that stay in the second level meanwhile.
inline constexpr std::int64_t kPointDepth = 512, kPointGradPixels = 256, kPointRows = 96, kPointNear = 96 << 10;
// Implicit products: bytes of a panel's row, so that 128 KB of panel stay in the second level beside the weights;
// pixels per chunk of the weight gradient, so that panel and slice take a third of it.
inline constexpr std::int64_t kPanelDepthBytes = 2048, kGradChunkBytes = 4096;
// First layers: floats of the gradient, pixel-major, in most of the first level; floats of a band of input in the
// second.
inline constexpr std::int64_t kStemBand = 8192, kStemInput = 24 << 10;
// Depthwise over channels-last images: floats of kernels beside the rows in the first level.
inline constexpr std::int64_t kDepthwiseNear = 4096;

}  // namespace tuning
}  // namespace
}  // namespace pydlx::PYDLX_ISA
