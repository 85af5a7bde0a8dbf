// Integer matrix products: a cache-blocked loop that any compiler vectorises. Floating types are in gemm/.
#include "kernels/gemm.h"

#include <type_traits>

#include "core/verbose.h"
#include "cpu/isa.h"

namespace pydlx::PYDLX_ISA {
namespace {

// 4 x 64 tiles of C in accumulators; K in order, so every element is one sequential sum whatever the thread count.
// Unsigned arithmetic: overflow wraps around, as in PyTorch, instead of being undefined.
template <class T>
void gemm_kernel(const Gemm& g) {
  using A = std::conditional_t<sizeof(T) == 8, std::uint64_t, std::uint32_t>;
  const auto whole = [](double v) { return static_cast<A>(static_cast<std::int64_t>(v)); };
  const A alpha = whole(g.alpha), beta = whole(g.beta);
  if (verbose_on) verbose_note(": 4 x 64 integer tiles (the only kernel)");
  const std::int64_t row_blocks = (g.m + 3) / 4;
  const double work = 2.0 * 4 * static_cast<double>(g.n) * static_cast<double>(g.k);
  const std::int64_t grain = work > 1e6 ? 1 : static_cast<std::int64_t>(1e6 / (work + 1)) + 1;
  parallel_for(g.batch * row_blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t rb = begin; rb < end; ++rb) {
      const std::int64_t batch = rb / row_blocks, i0 = rb % row_blocks * 4;
      const int mr = static_cast<int>(g.m - i0 < 4 ? g.m - i0 : 4);
      const T* a = static_cast<const T*>(g.a) + batch * g.a_batch + i0 * g.a_row;
      const T* b = static_cast<const T*>(g.b) + batch * g.b_batch;
      T* c = static_cast<T*>(g.c) + batch * g.c_batch + i0 * g.c_row;
      for (std::int64_t j0 = 0; j0 < g.n; j0 += 64) {
        const int nr = static_cast<int>(g.n - j0 < 64 ? g.n - j0 : 64);
        A acc[4][64] = {};
        for (std::int64_t p = 0; p < g.k; ++p) {
          const T* bp = b + p * g.b_row + j0 * g.b_col;
          A row[64];
          if (g.b_col == 1 && nr == 64)
            for (int j = 0; j < 64; ++j) row[j] = static_cast<A>(bp[j]);
          else
            for (int j = 0; j < nr; ++j) row[j] = static_cast<A>(bp[j * g.b_col]);
          for (int i = 0; i < mr; ++i) {
            const A v = static_cast<A>(a[i * g.a_row + p * g.a_col]);
            if (nr == 64)
              for (int j = 0; j < 64; ++j) acc[i][j] += v * row[j];
            else
              for (int j = 0; j < nr; ++j) acc[i][j] += v * row[j];
          }
        }
        for (int i = 0; i < mr; ++i)
          for (int j = 0; j < nr; ++j) {
            A v = acc[i][j] * alpha;
            T* out = c + i * g.c_row + j0 + j;
            if (g.beta != 0) v += beta * static_cast<A>(*out);
            if (g.bias) v += static_cast<A>(static_cast<const T*>(g.bias)[j0 + j]);
            const T sum = static_cast<T>(v);
            *out = g.activation == Activation::relu && sum < T(0) ? T(0) : sum;
          }
      }
    }
  });
}

template <class T>
void add_gemm(GemmKernels& k) {
  k.gemm[static_cast<int>(DTypeOf<T>::value)] = gemm_kernel<T>;
}

}  // namespace

void register_gemm(KernelTable& t) {
  add_gemm<std::uint8_t>(family<GemmKernels>(t));
  add_gemm<std::int8_t>(family<GemmKernels>(t));
  add_gemm<std::int16_t>(family<GemmKernels>(t));
  add_gemm<std::int32_t>(family<GemmKernels>(t));
  add_gemm<std::int64_t>(family<GemmKernels>(t));
}

}  // namespace pydlx::PYDLX_ISA
