// 16-bit floats: both operands are widened to float32 once, multiplied in float32, and the result is rounded once.
#include "core/scratch.h"
#include "core/verbose.h"
#include "cpu/gemm/gemm.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

// rows x cols with any strides -> contiguous floats.
template <class T>
void widen(const T* x, std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols, float* out) {
  const bool across = col != 1 && row == 1;  // keep reads contiguous: columns first, written as [cols][rows]
  const std::int64_t outer = across ? cols : rows, inner = across ? rows : cols, step = across ? col : row,
                     unit = across ? row : col;
  parallel_for(outer, 65536 / (inner + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t o = begin; o < end; ++o) {
      const T* src = x + o * step;
      float* dst = out + o * inner;
      if (unit == 1)
        for (std::int64_t i = 0; i < inner; ++i) dst[i] = static_cast<float>(src[i]);
      else
        for (std::int64_t i = 0; i < inner; ++i) dst[i] = static_cast<float>(src[i * unit]);
    }
  });
}

// One product whose operands fit the scratch memory: a block of rows of C at a time.
template <class T>
void gemm_half(const Gemm& g) {
  if (g.m <= 0 || g.n <= 0) return;
  // B once per batch entry (or once in all when it is shared), A and C by blocks of rows.
  constexpr std::int64_t kRows = 1024;
  const std::int64_t rows_max = g.m < kRows ? g.m : kRows;
  const std::size_t need = static_cast<std::size_t>(g.k * g.n + rows_max * g.k + rows_max * g.n + g.n);
  float* wide_b = static_cast<float*>(thread_scratch(ScratchSlot::gemm_convert, need * sizeof(float)));
  if (!wide_b) {
    if (verbose_on) verbose_note(": plain loops; not widened: no scratch memory");
    for (std::int64_t batch = 0; batch < g.batch; ++batch)
      for (std::int64_t i = 0; i < g.m; ++i)
        for (std::int64_t j = 0; j < g.n; ++j) {
          float s = 0;
          for (std::int64_t p = 0; p < g.k; ++p)
            s += static_cast<float>(static_cast<const T*>(g.a)[batch * g.a_batch + i * g.a_row + p * g.a_col]) *
                 static_cast<float>(static_cast<const T*>(g.b)[batch * g.b_batch + p * g.b_row + j * g.b_col]);
          T* out = static_cast<T*>(g.c) + batch * g.c_batch + i * g.c_row + j;
          s *= static_cast<float>(g.alpha);
          if (g.beta != 0) s += static_cast<float>(g.beta) * static_cast<float>(*out);
          if (g.bias) s += static_cast<float>(static_cast<const T*>(g.bias)[j]);
          *out = static_cast<T>(g.activation == Activation::relu && s < 0 ? 0.0f : s);
        }
    return;
  }
  if (verbose_on) verbose_note(": widened to float32, %lld rows at a time", static_cast<long long>(rows_max));
  float *wide_a = wide_b + g.k * g.n, *wide_c = wide_a + rows_max * g.k, *bias = wide_c + rows_max * g.n;
  if (g.bias)
    for (std::int64_t j = 0; j < g.n; ++j) bias[j] = static_cast<float>(static_cast<const T*>(g.bias)[j]);
  Gemm f = g;
  f.batch = 1;
  f.a = wide_a;
  f.b = wide_b;
  f.c = wide_c;
  f.c_row = g.n;
  f.bias = g.bias ? bias : nullptr;
  const bool b_across = g.b_col != 1 && g.b_row == 1, a_across = g.a_col != 1 && g.a_row == 1;
  f.b_row = b_across ? 1 : g.n;
  f.b_col = b_across ? g.k : 1;
  for (std::int64_t batch = 0; batch < g.batch; ++batch) {
    if (batch == 0 || g.b_batch != 0)
      widen(static_cast<const T*>(g.b) + batch * g.b_batch, g.b_row, g.b_col, g.k, g.n, wide_b);
    for (std::int64_t i0 = 0; i0 < g.m; i0 += rows_max) {
      f.m = g.m - i0 < rows_max ? g.m - i0 : rows_max;
      f.a_row = a_across ? 1 : g.k;
      f.a_col = a_across ? f.m : 1;
      widen(static_cast<const T*>(g.a) + batch * g.a_batch + i0 * g.a_row, g.a_row, g.a_col, f.m, g.k, wide_a);
      T* c = static_cast<T*>(g.c) + batch * g.c_batch + i0 * g.c_row;
      if (g.beta != 0) widen(static_cast<const T*>(c), g.c_row, 1, f.m, g.n, wide_c);
      gemm_f32(f);
      parallel_for(f.m, 65536 / (g.n + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i)
          for (std::int64_t j = 0; j < g.n; ++j) c[i * g.c_row + j] = static_cast<T>(wide_c[i * g.n + j]);
      });
    }
  }
}

}  // namespace

void register_gemm_half(KernelTable& t) {
  family<GemmKernels>(t).gemm[static_cast<int>(DType::Float16)] = gemm_half<Half>;
  family<GemmKernels>(t).gemm[static_cast<int>(DType::BFloat16)] = gemm_half<BFloat16>;
}

}  // namespace pydlx::PYDLX_ISA
