// A stand-in for libcublasLt.so with the functions that the backend looks for. It follows the public manual where it
// matters to a caller: matrices stored column by column, what may be read when, the epilogue with a bias. Every call is
// a line in the file named by FAKE_CUBLAS_LOG. FAKE_CUBLAS_NONE=1: no algorithm for anything; FAKE_CUBLAS_FAILS=1: the
// product itself reports an error. A program that exports run_on_device() gets real results.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "tests/fake_library.h"

namespace {

enum : int { kSuccess = 0, kInvalid = 7, kExecutionFailed = 13, kNotSupported = 15 };

struct Operation {
  int compute, scale, transposed[2] = {0, 0};
  int epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  int type;
  std::uint64_t rows, columns;
  std::int64_t line;
  std::int32_t batch = 1;
  std::int64_t step = 0;
};
struct Preference {
  std::uint64_t workspace = 0;
  std::uint32_t alignment[4] = {256, 256, 256, 256};
};
struct Algorithm {
  std::uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  std::size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
constexpr std::uint64_t kMark = 0x5eed;  // in an algorithm that came from here
constexpr std::size_t kWorkspace = 1000;

bool wanted(const char* variable) { return std::getenv(variable) != nullptr; }
bool aligned(const void* p, std::uint64_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

}  // namespace

extern "C" {

int cublasLtCreate(void** h) {
  say("FAKE_CUBLAS_LOG", "create");
  *h = std::malloc(1);
  return kSuccess;
}
std::size_t cublasLtGetVersion() { return 130100; }
int cublasLtMatmulDescCreate(Operation** o, int compute, int scale) {
  *o = new Operation{compute, scale};
  return kSuccess;
}
int cublasLtMatmulDescDestroy(Operation* o) {
  delete o;
  return kSuccess;
}
int cublasLtMatmulDescSetAttribute(Operation* o, int field, const void* value, std::size_t bytes) {
  if ((field == 3 || field == 4) && bytes == 4) return std::memcpy(o->transposed + field - 3, value, 4), kSuccess;
  if (field == 7 && bytes == 4) return std::memcpy(&o->epilogue, value, 4), kSuccess;
  if (field == 8 && bytes == 8) return std::memcpy(&o->bias, value, 8), kSuccess;
  return kInvalid;
}
int cublasLtMatrixLayoutCreate(Layout** l, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t line) {
  if (line < static_cast<std::int64_t>(rows)) return kInvalid;
  *l = new Layout{type, rows, columns, line};
  return kSuccess;
}
int cublasLtMatrixLayoutDestroy(Layout* l) {
  delete l;
  return kSuccess;
}
int cublasLtMatrixLayoutSetAttribute(Layout* l, int field, const void* value, std::size_t bytes) {
  if (field == 5 && bytes == 4) return std::memcpy(&l->batch, value, 4), kSuccess;
  if (field == 6 && bytes == 8) return std::memcpy(&l->step, value, 8), kSuccess;
  return kInvalid;
}
int cublasLtMatmulPreferenceCreate(Preference** p) {
  *p = new Preference;
  return kSuccess;
}
int cublasLtMatmulPreferenceDestroy(Preference* p) {
  delete p;
  return kSuccess;
}
int cublasLtMatmulPreferenceSetAttribute(Preference* p, int field, const void* value, std::size_t bytes) {
  if (field == 1 && bytes == 8) return std::memcpy(&p->workspace, value, 8), kSuccess;
  if (field >= 5 && field <= 8 && bytes == 4) return std::memcpy(p->alignment + field - 5, value, 4), kSuccess;
  return kInvalid;
}
int cublasLtMatmulAlgoGetHeuristic(void*, Operation* o, Layout* a, Layout* b, Layout* c, Layout* d, Preference* p,
                                   int wanted_count, Heuristic* out, int* found) {
  say("FAKE_CUBLAS_LOG", "heuristic %dx%dx%d", static_cast<int>(d->rows), static_cast<int>(d->columns),
      static_cast<int>(o->transposed[0] ? a->rows : a->columns));
  *found = 0;
  if (wanted("FAKE_CUBLAS_NONE")) return kNotSupported;
  if (wanted_count < 1 || p->workspace < kWorkspace || a->type != b->type || c->type != d->type) return kInvalid;
  *out = {};
  for (int i = 0; i < 4; ++i) out->algorithm.data[1 + i] = p->alignment[i];
  out->algorithm.data[0] = kMark;
  out->workspace = kWorkspace;
  *found = 1;
  return kSuccess;
}
int cublasLtMatmul(void*, Operation* op, const void* alpha, const void* a, Layout* la, const void* b, Layout* lb,
                   const void* beta, const void* c, Layout*, void* d, Layout* ld, const Algorithm* algorithm,
                   void* workspace, std::size_t bytes, void*) {
  const Operation o = *op;
  const Layout x = *la, y = *lb, z = *ld;
  const double f = read(o.scale, alpha, 0), g = read(o.scale, beta, 0);
  say("FAKE_CUBLAS_LOG", "matmul %dx%d batch %d%s", static_cast<int>(z.rows), static_cast<int>(z.columns), z.batch,
      o.epilogue == 4 ? " bias" : "");
  if (wanted("FAKE_CUBLAS_FAILS")) return kExecutionFailed;
  const std::uint64_t rows = o.transposed[0] ? x.columns : x.rows, k = o.transposed[0] ? x.rows : x.columns;
  const std::uint64_t k2 = o.transposed[1] ? y.columns : y.rows, columns = o.transposed[1] ? y.rows : y.columns;
  if (algorithm->data[0] != kMark || bytes < kWorkspace || !workspace || rows != z.rows || columns != z.columns ||
      k != k2 || x.batch != z.batch || y.batch != z.batch || (o.epilogue == 4) != (o.bias != nullptr))
    return kInvalid;
  if (!aligned(a, algorithm->data[1]) || !aligned(b, algorithm->data[2]) || !aligned(c, algorithm->data[3]) ||
      !aligned(d, algorithm->data[4]))
    return kInvalid;
  using Run = void (*)(const std::function<void()>&);
  const auto run = reinterpret_cast<Run>(dlsym(RTLD_DEFAULT, "run_on_device"));
  if (!run) return kSuccess;
  run([=] {
    const auto at = [](const Layout& l, std::int32_t n, std::uint64_t r, std::uint64_t col) {
      return n * l.step + static_cast<std::int64_t>(col) * l.line + static_cast<std::int64_t>(r);
    };
    for (std::int32_t n = 0; n < z.batch; ++n)
      for (std::uint64_t j = 0; j < columns; ++j)
        for (std::uint64_t i = 0; i < rows; ++i) {
          double sum = 0;
          for (std::uint64_t q = 0; q < k; ++q)
            sum += read(x.type, a, o.transposed[0] ? at(x, n, q, i) : at(x, n, i, q)) *
                   read(y.type, b, o.transposed[1] ? at(y, n, j, q) : at(y, n, q, j));
          double v = f * sum;
          if (g != 0) v += g * read(z.type, c, at(z, n, i, j));
          if (o.bias) v += read(z.type, o.bias, static_cast<std::int64_t>(i));
          write(z.type, d, at(z, n, i, j), v);
        }
  });
  return kSuccess;
}

}  // extern "C"
