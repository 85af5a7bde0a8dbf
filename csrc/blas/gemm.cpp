// Large float64 products A^T B on AVX2: the one place where the library was measured to win.
//
// One core (Zen 5) against OpenBLAS 0.3.34 held to the same instruction set, GFLOP/s, own kernel / library:
//                              512^3        1024^3       2000x100x300
//   avx2     A B           50.0 / 50.2   49.6 / 52.6   52.6 / 48.3
//   avx2     A^T B         44.1 / 50.5   45.4 / 51.3   26.1 / 42.3
//   generic  A B           21.2 / 20.2   21.6 / 20.8   22.0 / 20.2
//   avx512   A B           85.8 / 80.3   86.2 / 86.3   94.4 / 69.4
// The library may not use its threads, so C is cut into tiles, of a size that does not depend on the number of threads.
// That costs it the advantage below K = 512 or with few tiles, and 3 % elsewhere; float32 never gains.
#include "kernels/gemm.h"

#include <dlfcn.h>

#include <cstring>
#include <mutex>

#include "blas/blas.h"
#include "core/parallel.h"
#include "core/verbose.h"

#ifdef PYDLX_HAVE_BLAS

#define PYDLX_JOIN_(a, b) a##b
#define PYDLX_JOIN(a, b) PYDLX_JOIN_(a, b)
#define PYDLX_BLAS_SYMBOL(name) PYDLX_JOIN(PYDLX_BLAS_PREFIX, name)

// Fortran: column-major, everything by address, lengths of the strings at the end.
extern "C" void PYDLX_BLAS_SYMBOL(dgemm_)(const char* ta, const char* tb, const int* m, const int* n, const int* k,
                                          const double* alpha, const double* a, const int* lda, const double* b,
                                          const int* ldb, const double* beta, double* c, const int* ldc,
                                          std::size_t ta_length, std::size_t tb_length);

#define PYDLX_QUOTE_(x) #x
#define PYDLX_QUOTE(x) PYDLX_QUOTE_(x)

namespace pydlx {

namespace {

constexpr std::int64_t kRows = 256, kColumns = 512;  // of a tile of C; fixed, so that threads change no bit
constexpr std::int64_t kLeastTiles = 8, kLeastDepth = 512;

void use_one_thread() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const char* name : {PYDLX_QUOTE(PYDLX_BLAS_SYMBOL(openblas_set_num_threads)), "openblas_set_num_threads",
                             "bli_thread_set_num_threads", "MKL_Set_Num_Threads"})
      if (void* found = dlsym(RTLD_DEFAULT, name)) return reinterpret_cast<void (*)(int)>(found)(1);
  });
}

// Leading dimension of an operand with one unit stride, or 0 when BLAS cannot read it. `rows_first`: its rows are
// contiguous.
std::int64_t leading(std::int64_t row, std::int64_t col, std::int64_t rows, std::int64_t cols, bool& rows_first) {
  rows_first = col == 1 && row >= cols;
  if (rows_first) return row;
  return row == 1 && col >= rows ? col : 0;
}

const char* refusal(const Gemm& g, std::int64_t lda, std::int64_t ldb) {
  if (g.a_row != 1 || g.a_col == 1) return "A is not transposed";
  if (g.m / kRows * (g.n / kColumns) < kLeastTiles) return "too few tiles";
  if (g.k < kLeastDepth) return "K is too small";
  if (lda == 0 || ldb == 0) return "an operand has no unit stride";
  if (g.activation != Activation::none && g.activation != Activation::relu) return "it has no such activation";
  if (g.alpha == 0) return "alpha is 0";  // the library would not read the operands, NaN or not
  constexpr std::int64_t limit = 0x7fffffff;
  if (g.k > limit || lda > limit || ldb > limit || g.c_row > limit) return "an extent exceeds 31 bits";
  return nullptr;
}

bool blas_f64(const Gemm& g) {
  bool a_rows = false, b_rows = false;
  const std::int64_t lda = leading(g.a_row, g.a_col, g.m, g.k, a_rows),
                     ldb = leading(g.b_row, g.b_col, g.k, g.n, b_rows);
  if (const char* why = refusal(g, lda, ldb)) {
    if (verbose_on) verbose_note(": not BLAS: %s", why);
    return false;
  }
  use_one_thread();
  const std::int64_t down = (g.m + kRows - 1) / kRows, across = (g.n + kColumns - 1) / kColumns, tiles = down * across;
  if (verbose_on)
    verbose_note(": BLAS dgemm in %lld tiles of %lld x %lld", static_cast<long long>(g.batch * tiles),
                 static_cast<long long>(kRows), static_cast<long long>(kColumns));
  parallel_for(g.batch * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t batch = t / tiles, i0 = t % tiles / across * kRows, j0 = t % across * kColumns;
      // Column-major BLAS sees the transposed matrices: C^T = B^T A^T.
      const int m = static_cast<int>(g.n - j0 < kColumns ? g.n - j0 : kColumns),
                n = static_cast<int>(g.m - i0 < kRows ? g.m - i0 : kRows), k = static_cast<int>(g.k),
                la = static_cast<int>(ldb), lb = static_cast<int>(lda), lc = static_cast<int>(g.c_row);
      const double* a = static_cast<const double*>(g.a) + batch * g.a_batch + i0 * g.a_row;
      const double* b = static_cast<const double*>(g.b) + batch * g.b_batch + j0 * g.b_col;
      double* c = static_cast<double*>(g.c) + batch * g.c_batch + i0 * g.c_row + j0;
      PYDLX_BLAS_SYMBOL(dgemm_)
      (b_rows ? "N" : "T", a_rows ? "N" : "T", &m, &n, &k, &g.alpha, b, &la, a, &lb, &g.beta, c, &lc, 1, 1);
      if (!g.bias && g.activation == Activation::none) continue;
      const double* bias = g.bias ? static_cast<const double*>(g.bias) + j0 : nullptr;
      for (int i = 0; i < n; ++i)
        for (int j = 0; j < m; ++j) {
          double& y = c[i * g.c_row + j];
          if (bias) y += bias[j];
          if (g.activation == Activation::relu && y < 0) y = 0;
        }
    }
  });
  return true;
}

}  // namespace

void register_blas(KernelTable& table) {
  family<GemmKernels>(table).external[static_cast<int>(DType::Float64)] =
      std::strcmp(table.name, "avx2") == 0 ? blas_f64 : nullptr;
}

}  // namespace pydlx

#else

namespace pydlx {
void register_blas(KernelTable&) {}
}  // namespace pydlx

#endif
