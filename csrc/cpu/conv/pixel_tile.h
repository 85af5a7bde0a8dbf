// The register tile of the direct kernels: output pixels (a pointer each) by vectors of output channels. Inputs are
// broadcast from memory, weights are packed in panels of kPanel output channels.
#pragma once
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kPanelVectors = tuning::kTileVectors;
constexpr std::int64_t kPanel = kPanelVectors * kLane;  // output channels per packed panel of weights
constexpr int kMostRows = 12;                           // pixels of a tile

// MR output pixels, NV vectors of channels: pixel i reads kLane floats from x[i] + step[t]. The sums start from
// `start`, or from what y holds when that is null.
template <int MR, int NV>
__attribute__((noinline)) void pixel_tile(const float* const* x, const std::int64_t* step, std::int64_t steps,
                                          const float* w, float* const* y, std::int64_t y_vector, int rows,
                                          const float* start) {
  V acc[MR][NV];
  const float* px[MR];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    px[i] = x[i];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[i][j] = load(start ? start + j * kLane : y[i] + j * y_vector);
  }
  for (std::int64_t t = 0; t < steps; ++t) {
    const std::int64_t at = step[t];
#pragma GCC unroll 4
    for (int c = 0; c < kLane; ++c) {
      V b[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) b[j] = load(w + j * kLane);
#pragma GCC unroll 16
      for (int i = 0; i < MR; ++i) {
        const V v = splat<float>(px[i][at + c]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[i][j] += v * b[j];
      }
      w += kPanel;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    if (i >= rows) break;
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store<float>(y[i] + j * y_vector, acc[i][j]);
  }
}

using PixelTileFn = void (*)(const float* const*, const std::int64_t*, std::int64_t, const float*, float* const*,
                             std::int64_t, int, const float*);
struct PixelTile {
  PixelTileFn fn;
  int rows;
};
inline PixelTile choose_tile(int vectors) {
  if constexpr (kPanelVectors == 4) {
    if (vectors == 4) return {pixel_tile<6, 4>, 6};
    if (vectors == 3) return {pixel_tile<8, 3>, 8};
    if (vectors == 2) return {pixel_tile<12, 2>, 12};
    return {pixel_tile<12, 1>, 12};
  } else {
    if (vectors == 2) return {pixel_tile<4, 2>, 4};
    return {pixel_tile<8, 1>, 8};
  }
}

// What the sums of output channels [k, k + kPanel) of `cout` start from.
inline void start_values(const float* values, std::int64_t k, std::int64_t cout, float* start) {
  for (std::int64_t j = 0; j < kPanel; ++j) start[j] = values && k + j < cout ? values[k + j] : 0.0f;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
