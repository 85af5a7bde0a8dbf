// Matrix products for other kernels of the same instruction set. Inside a parallel region they run on the calling
// thread.
#pragma once
#include "cpu/isa.h"
#include "kernels/gemm.h"

// The path of bfloat16 instructions has only the kernels that use them and takes the rest from AVX-512.
#if defined(PYDLX_ISA_avx512_bf16)
namespace pydlx::avx512 {
void activate_f32(Activation activation, float* x, std::int64_t n);
void activate_f64(Activation activation, double* x, std::int64_t n);
}  // namespace pydlx::avx512
#endif

namespace pydlx::PYDLX_ISA {

// activation(x) for each of n elements, in place, with the bits that the elementwise operation gives.
#if defined(PYDLX_ISA_avx512_bf16)
using avx512::activate_f32;
using avx512::activate_f64;
#else
void activate_f32(Activation activation, float* x, std::int64_t n);
void activate_f64(Activation activation, double* x, std::int64_t n);
#endif

void gemm_f32(const Gemm& g);
void gemm_f64(const Gemm& g);

// Blocks that their caller keeps in cache: C = alpha A B + beta C on the calling thread, without any planning. A has
// any strides. `packed`: B is in the panels that pack_f32 writes ([columns / panel][k][panel], see packed_columns_f32);
// otherwise B has contiguous rows.
struct Block {
  std::int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  std::int64_t a_row = 0, a_col = 1;
  const float* b = nullptr;
  std::int64_t b_row = 0;
  bool packed = false;
  float* c = nullptr;
  std::int64_t c_row = 0;
  float alpha = 1, beta = 0;
  const float* bias = nullptr;  // one value per column, or null
  bool relu = false;
};
void block_f32(const Block& g);
void pack_f32(const float* b, std::int64_t b_row, std::int64_t b_col, std::int64_t k, std::int64_t n, float* out);
std::int64_t packed_columns_f32(std::int64_t n);  // n rounded up to whole panels

}  // namespace pydlx::PYDLX_ISA
