// Transposes of matrices whose lines are dense on either side.
#pragma once
#include "core/limits.h"
#include "cuda/runtime/launch.h"

namespace pydlx::cuda {
namespace {

constexpr int kTile = 32, kTileRows = 8;

// out[batch, j, i] = in[batch, i, j] through shared memory, so that both sides move whole lines. Axis 0 is dense in the
// output, axis 1 in the input; the others are walked by the grid.
struct Transpose {
  void* out;
  const void* in;
  std::int64_t rows, cols;       // sizes of axis 1 and axis 0
  std::int64_t out_row, in_col;  // strides: output along axis 1, input along axis 0
  int ndim = 0;                  // further axes
  std::int64_t size[kMaxDims], out_step[kMaxDims], in_step[kMaxDims];
};

template <class W>
__global__ void __launch_bounds__(kTile* kTileRows)
    transpose(const __grid_constant__ Transpose t, std::int64_t tiles_x, std::int64_t tiles_y, std::int64_t tiles) {
  __shared__ W tile[kTile][kTile + 1];  // one more column: no two rows of a column share a bank
  const int tx = static_cast<int>(threadIdx.x) % kTile, ty = static_cast<int>(threadIdx.x) / kTile;
  for (std::int64_t work = blockIdx.x; work < tiles; work += gridDim.x) {
    std::int64_t rest = work;
    const std::int64_t x0 = rest % tiles_x * kTile;
    rest /= tiles_x;
    const std::int64_t y0 = rest % tiles_y * kTile;
    rest /= tiles_y;
    W* out = static_cast<W*>(t.out);
    const W* in = static_cast<const W*>(t.in);
    for (int d = 0; d < t.ndim; ++d) {
      const std::int64_t i = rest % t.size[d];
      rest /= t.size[d];
      out += i * t.out_step[d];
      in += i * t.in_step[d];
    }
    for (int j = ty; j < kTile; j += kTileRows)  // rows of the tile lie along the input's dense axis
      if (x0 + j < t.cols && y0 + tx < t.rows) tile[j][tx] = in[(x0 + j) * t.in_col + y0 + tx];
    __syncthreads();
    for (int j = ty; j < kTile; j += kTileRows)
      if (y0 + j < t.rows && x0 + tx < t.cols) out[(y0 + j) * t.out_row + x0 + tx] = tile[tx][j];
    __syncthreads();
  }
}

// W is any type of the elements' size.
template <class W>
void run_transpose(const Transpose& t) {
  const std::int64_t x = (t.cols + kTile - 1) / kTile, y = (t.rows + kTile - 1) / kTile;
  std::int64_t tiles = x * y;
  for (int d = 0; d < t.ndim; ++d) tiles *= t.size[d];
  launch(transpose<W>, grid_for(tiles, 32), kTile * kTileRows, 0, t, x, y, tiles);
}

}  // namespace
}  // namespace pydlx::cuda
