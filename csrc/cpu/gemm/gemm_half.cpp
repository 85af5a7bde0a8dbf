// 16-bit floats by widening: a word is one element as float32.
#include "cpu/gemm/gemm.h"
#include "cpu/gemm/narrow.h"
#include "kernels/gemm.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class Element>
struct Widened {
  using T = Element;
  static constexpr int kDepth = 1;                // elements along K in a word
  static constexpr bool kInPlace = false;         // elements in memory are words already
  static constexpr bool kFinishesInTile = false;  // register tiles end in float32, rows are finished afterwards
  static constexpr std::int64_t kInnerRows = 8;   // more rows repay packing B
  static constexpr std::int64_t kBlockSteps = 1024;
  static constexpr double kFlops = 1e6;  // of one core in 10 us
  static constexpr const char* kName = "widened to float32 while packing";

  static PYDLX_INLINE Words along(const T* p, int count) { return widen_load(p, count); }
  static PYDLX_INLINE Words across(const T* p, std::int64_t, bool, int count) { return widen_load(p, count); }
  static PYDLX_INLINE Words gather(const T* p, std::int64_t stride, std::int64_t, bool, int count) {
    alignas(64) float words[kWords] = {};
    for (int i = 0; i < count; ++i) words[i] = static_cast<float>(p[i * stride]);
    return load(words);
  }
  static PYDLX_INLINE Words splat_word(const float* word) { return splat<float>(*word); }
  static PYDLX_INLINE Words multiply(Words sum, Words a, Words b) { return sum + a * b; }

  static void block(const WordBlock<T>& w) {
    const std::int64_t row_tiles = ceil_div(w.m, kTileRows);
    const bool kept = !(w.first && w.last);  // sums of all rows wait for other blocks of K
    for (std::int64_t t = 0; t < row_tiles; ++t) {
      const std::int64_t r0 = w.m * t / row_tiles, r1 = w.m * (t + 1) / row_tiles;
      Block f;
      f.m = r1 - r0;
      f.n = w.n;
      f.k = w.steps;
      f.a = reinterpret_cast<const float*>(w.a + r0 * w.a_row);
      f.a_row = w.a_row / static_cast<std::int64_t>(sizeof(float));
      f.a_col = w.a_step / static_cast<std::int64_t>(sizeof(float));
      f.b = w.b;
      f.packed = true;
      f.c = kept ? w.sums + r0 * w.sums_row : w.sums;
      f.c_row = w.sums_row;
      f.beta = w.first ? 0.0f : 1.0f;
      block_f32(f);
      if (w.last)
        for (std::int64_t r = r0; r < r1; ++r)
          finish_row<T>(f.c + (r - r0) * w.sums_row, w.n, w.end, w.c + r * w.c_row);
    }
  }
};

}  // namespace

void register_gemm_half(KernelTable& t) {
  family<GemmKernels>(t).gemm[static_cast<int>(DType::Float16)] = gemm_narrow<Widened<Half>>;
  family<GemmKernels>(t).gemm[static_cast<int>(DType::BFloat16)] = gemm_narrow<Widened<BFloat16>>;
}

}  // namespace pydlx::PYDLX_ISA
