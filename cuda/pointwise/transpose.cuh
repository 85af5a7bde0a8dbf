// Transposes of matrices whose lines are dense on either side.
#pragma once
#include "cuda/runtime/divisor.cuh"

namespace pydlx::cuda {
namespace {

constexpr int kTransposeThreads = 256;

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

// Tiles and how they are numbered: fewer than 2^31, as every one is many bytes of memory.
template <class W>
struct TransposeTiles {
  static constexpr int kSide = sizeof(W) <= 2 ? 64 : 32;
  // Between lines of shared memory: the elements of a column lie in different banks.
  static constexpr int kPitch = kSide + (sizeof(W) < 4 ? 4 / static_cast<int>(sizeof(W)) : 1);
  FastDivisor across, down, size[kMaxDims];
  std::uint32_t count;
};

template <class W>
__global__ void __launch_bounds__(kTransposeThreads)
    transpose(const __grid_constant__ Transpose t, const __grid_constant__ TransposeTiles<W> tiles) {
  using Tiles = TransposeTiles<W>;
  constexpr int kSide = Tiles::kSide, kStep = kTransposeThreads / kSide, kEach = kSide / kStep;
  __shared__ W tile[kSide][Tiles::kPitch];
  const int tx = static_cast<int>(threadIdx.x) % kSide, ty = static_cast<int>(threadIdx.x) / kSide;
  for (std::uint32_t work = blockIdx.x; work < tiles.count; work += gridDim.x) {
    std::uint32_t rest = work;
    const auto next = [&rest](const FastDivisor& size) {
      const std::uint32_t q = size.quotient(rest), i = rest - q * size.divisor;
      rest = q;
      return static_cast<std::int64_t>(i);
    };
    const std::int64_t x0 = next(tiles.across) * kSide, y0 = next(tiles.down) * kSide;
    W* out = static_cast<W*>(t.out);
    const W* in = static_cast<const W*>(t.in);
    for (int d = 0; d < t.ndim; ++d) {
      const std::int64_t i = next(tiles.size[d]);
      out += i * t.out_step[d];
      in += i * t.in_step[d];
    }
    W v[kEach];  // all on their way before the first is stored
#pragma unroll
    for (int j = 0; j < kEach; ++j) {  // rows of the tile lie along the input's dense axis
      const std::int64_t x = x0 + ty + j * kStep;
      v[j] = x < t.cols && y0 + tx < t.rows ? in[x * t.in_col + y0 + tx] : W();
    }
#pragma unroll
    for (int j = 0; j < kEach; ++j) tile[ty + j * kStep][tx] = v[j];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const std::int64_t y = y0 + ty + j * kStep;
      if (y < t.rows && x0 + tx < t.cols) out[y * t.out_row + x0 + tx] = tile[tx][ty + j * kStep];
    }
    __syncthreads();
  }
}

// W is any type of the elements' size.
template <class W>
void run_transpose(const Transpose& t) {
  using Tiles = TransposeTiles<W>;
  Tiles tiles;
  const auto divisor = [](std::int64_t n) { return FastDivisor(static_cast<std::uint32_t>(n)); };
  const std::int64_t x = (t.cols + Tiles::kSide - 1) / Tiles::kSide, y = (t.rows + Tiles::kSide - 1) / Tiles::kSide;
  std::int64_t count = x * y;
  for (int d = 0; d < t.ndim; ++d) count *= t.size[d];
  if (count == 0) return;
  tiles.across = divisor(x);
  tiles.down = divisor(y);
  for (int d = 0; d < t.ndim; ++d) tiles.size[d] = divisor(t.size[d]);
  tiles.count = static_cast<std::uint32_t>(count);
  launch(transpose<W>, grid_for(count, 32), kTransposeThreads, 0, t, tiles);
}

}  // namespace
}  // namespace pydlx::cuda
