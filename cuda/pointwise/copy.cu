// Copies with conversion, transposes, and selection.
#include "cuda/pointwise/loop.cuh"
#include "functors/convert.h"

namespace pydlx::cuda {
namespace {

// ---- transposes -----------------------------------------------------------------------------------------------------

constexpr int kTile = 32, kTileRows = 8;

// out[batch, j, i] = in[batch, i, j] through shared memory, so that both sides move whole lines. Axis 0 is dense in the
// output, axis 1 in the input; the others are walked by the grid.
struct Transpose {
  void* out;
  const void* in;
  std::int64_t rows, cols;       // sizes of axis 1 and axis 0
  std::int64_t out_row, in_col;  // strides: output along axis 1, input along axis 0
  std::int64_t tiles_x, tiles_y, batch;
  int ndim;  // further axes
  std::int64_t size[kMaxDims], out_step[kMaxDims], in_step[kMaxDims];
};

template <class W>
__global__ void __launch_bounds__(kTile* kTileRows) transpose(const __grid_constant__ Transpose t) {
  __shared__ W tile[kTile][kTile + 1];  // one more column: no two rows of a column share a bank
  const int tx = static_cast<int>(threadIdx.x) % kTile, ty = static_cast<int>(threadIdx.x) / kTile;
  for (std::int64_t work = blockIdx.x; work < t.tiles_x * t.tiles_y * t.batch; work += gridDim.x) {
    std::int64_t rest = work;
    const std::int64_t x0 = rest % t.tiles_x * kTile;
    rest /= t.tiles_x;
    const std::int64_t y0 = rest % t.tiles_y * kTile;
    rest /= t.tiles_y;
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

// Whether an axis other than the first is dense in the input; runs the copy if so.
template <class W>
bool run_transpose(const Elementwise& e) {
  if (e.immediate[1] || e.ndim < 2 || e.stride[0][0] != 1 || e.stride[1][0] == 1 || e.size[0] < 8) return false;
  int dense = 0;
  for (int d = 1; d < e.ndim; ++d)
    if (e.stride[1][d] == 1 && e.size[d] >= 8) dense = d;
  if (dense == 0) return false;
  Transpose t;
  t.out = e.data[0];
  t.in = e.data[1];
  t.cols = e.size[0];
  t.rows = e.size[dense];
  t.out_row = e.stride[0][dense];
  t.in_col = e.stride[1][0];
  t.tiles_x = ceil_div(t.cols, kTile);
  t.tiles_y = ceil_div(t.rows, kTile);
  t.batch = 1;
  t.ndim = 0;
  for (int d = 1; d < e.ndim; ++d) {
    if (d == dense) continue;
    t.size[t.ndim] = e.size[d];
    t.out_step[t.ndim] = e.stride[0][d];
    t.in_step[t.ndim] = e.stride[1][d];
    t.batch *= e.size[d];
    ++t.ndim;
  }
  launch(transpose<W>, grid_for(t.tiles_x * t.tiles_y * t.batch, 32), kTile * kTileRows, 0, t);
  return true;
}

// ---- entries --------------------------------------------------------------------------------------------------------

// Equal dtypes and selection move bits: one kernel per element size.
template <class W>
void copy_same(const Elementwise& e) {
  if (!run_transpose<W>(e)) map<Same, W, W>(e);
}
template <class W>
void where(const Elementwise& e) {
  map<Select, W, std::uint8_t, W, W>(e);
}

template <class To, class... From>
void fill_to(PointwiseKernels& k, Types<From...>) {
  ((k.copy[idx<To>][idx<From>] = map<Convert<compute_t<To>>, To, From>), ...);
  k.copy[idx<To>][idx<To>] = copy_same<word_t<To>>;
  k.where[idx<To>] = where<word_t<To>>;
}
template <class... Ts>
void fill(PointwiseKernels& k, Types<Ts...> all) {
  (fill_to<Ts>(k, all), ...);
}

}  // namespace

void register_copy(KernelTable& t) { fill(family<PointwiseKernels>(t), AllTypes{}); }

}  // namespace pydlx::cuda
