// float32 matrix products.
#include "cpu/gemm/driver.h"
#include "cpu/gemm/gemm.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {

void gemm_f32(const Gemm& g) { gemm_typed<float>(g); }

void block_f32(const Block& g) {
  constexpr std::int64_t W = kTileColumns<float>;
  const std::int64_t row_tiles = ceil_div(g.m, kTileRows);
  for (std::int64_t j = 0; j < g.n; j += W) {
    const int cols = static_cast<int>(min_of(W, g.n - j));
    const float* b = g.packed ? g.b + j * g.k : g.b + j;
    const Epilogue<float> e{g.alpha, g.beta, g.bias ? g.bias + j : nullptr, g.relu};
    for (std::int64_t t = 0; t < row_tiles; ++t) {
      const std::int64_t r0 = g.m * t / row_tiles, r1 = g.m * (t + 1) / row_tiles;
      run_tile<float>(static_cast<int>(r1 - r0), cols, g.k, g.a + r0 * g.a_row, g.a_row, g.a_col, b,
                      g.packed ? W : g.b_row, g.c + r0 * g.c_row + j, g.c_row, e);
    }
  }
}

void pack_f32(const float* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n, float* out) {
  pack_b<float>(b, b_row, b_col, k, n, out);
}

std::int64_t packed_columns_f32(std::int64_t n) { return ceil_div(n, kTileColumns<float>) * kTileColumns<float>; }

void register_gemm_float(KernelTable& t) { family<GemmKernels>(t).gemm[static_cast<int>(DType::Float32)] = gemm_f32; }

}  // namespace pydlx::PYDLX_ISA
