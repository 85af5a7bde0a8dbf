#include "cuda/libraries/cublas_lt.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>

#include "core/verbose.h"
#include "cuda/runtime/launch.h"
#include "cuda/runtime/scratch.h"

namespace pydlx::cuda {

namespace {

constexpr const char *kVariable = "PYDLX_CUDA_GEMM", *kName = "cublas";

// ---- the library's interface ----------------------------------------------------------------------------------------
// What is used of it, by the names and numbers of the public manual (cuBLAS 12 and 13), so that no header is needed to
// build. Its enumerations are ints.

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
using Handle = struct LtContext*;
using Operation = struct LtOperation*;
using Layout = struct LtLayout*;
using Preference = struct LtPreference*;

enum DataType : int { kReal32 = 0, kReal64 = 1, kReal16 = 2, kBrain16 = 14 };      // cudaDataType
enum Compute : int { kCompute32 = 68, kCompute64 = 70 };                           // cublasComputeType_t
enum OperationField : int { kTransA = 3, kTransB = 4, kEpilogue = 7, kBias = 8 };  // CUBLASLT_MATMUL_DESC_*
enum LayoutField : int { kBatchCount = 5, kBatchOffset = 6 };                      // CUBLASLT_MATRIX_LAYOUT_*
enum PreferenceField : int { kMaxWorkspace = 1, kMinAlignment = 5 };               // CUBLASLT_MATMUL_PREF_*; A, B, C, D
enum : int { kSuccess = 0, kTransposed = 1, kEpilogueBias = 4 };

struct Library {
  int (*create)(Handle*);
  std::size_t (*version)();
  int (*operation_create)(Operation*, int compute, int scale);
  int (*operation_destroy)(Operation);
  int (*operation_set)(Operation, int field, const void*, std::size_t);
  int (*layout_create)(Layout*, int type, std::uint64_t rows, std::uint64_t columns, std::int64_t line);
  int (*layout_destroy)(Layout);
  int (*layout_set)(Layout, int field, const void*, std::size_t);
  int (*preference_create)(Preference*);
  int (*preference_destroy)(Preference);
  int (*preference_set)(Preference, int field, const void*, std::size_t);
  int (*heuristic)(Handle, Operation, Layout a, Layout b, Layout c, Layout d, Preference, int wanted, Heuristic*,
                   int* found);
  int (*matmul)(Handle, Operation, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta,
                const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace, std::size_t, cudaStream_t);
  SharedLibrary file{"PYDLX_CUBLAS_LT", {"libcublasLt.so.13", "libcublasLt.so.12"}};

  Library() {
    file.find(create, "cublasLtCreate");
    file.find(version, "cublasLtGetVersion");
    file.find(operation_create, "cublasLtMatmulDescCreate");
    file.find(operation_destroy, "cublasLtMatmulDescDestroy");
    file.find(operation_set, "cublasLtMatmulDescSetAttribute");
    file.find(layout_create, "cublasLtMatrixLayoutCreate");
    file.find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    file.find(layout_set, "cublasLtMatrixLayoutSetAttribute");
    file.find(preference_create, "cublasLtMatmulPreferenceCreate");
    file.find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    file.find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    file.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    file.find(matmul, "cublasLtMatmul");
  }
};

const Library& library() {
  static const auto* l = new Library;  // stays open: kernels of it may run when the process ends
  return *l;
}

void require_success(int status, const char* call) {
  require(status == kSuccess, "matmul", "", ErrorKind::Device, call, ": status ", status,
          " (see cublasStatus_t in the manual of cuBLAS); PYDLX_CUDA_GEMM=own does without it");
}

// ---- products in its terms ------------------------------------------------------------------------------------------
// It stores matrices column by column, so it is given the transpose of everything: C^T [n, m] = B^T A^T.

// rows x columns with these strides, as a stored matrix that may have to be transposed. `line` 0: impossible.
struct Stored {
  std::int64_t rows = 0, columns = 0, line = 0;
  bool transposed = false;

  static Stored of(std::int64_t rows, std::int64_t columns, std::int64_t row_stride, std::int64_t column_stride) {
    if ((row_stride == 1 || rows == 1) && (columns == 1 || column_stride >= rows))
      return {rows, columns, columns == 1 ? rows : column_stride, false};
    if ((column_stride == 1 || columns == 1) && (rows == 1 || row_stride >= columns))
      return {columns, rows, rows == 1 ? columns : row_stride, true};
    return {};
  }
};

std::int64_t alignment(const void* p) {
  const auto at = reinterpret_cast<std::uintptr_t>(p) | 256;
  return static_cast<std::int64_t>(at & (~at + 1));
}

struct Product {
  DType dtype;
  int device;
  const Gemm& g;
  Stored first, second, result;

  Product(const Gemm& gemm, DType t)
      : dtype(t),
        device(current_device()),
        g(gemm),
        first(Stored::of(g.n, g.k, g.b_col, g.b_row)),
        second(Stored::of(g.k, g.m, g.a_col, g.a_row)),
        result(Stored::of(g.n, g.m, 1, g.c_row)) {}

  // Why it cannot be expressed, or null.
  const char* obstacle() const {
    constexpr std::int64_t kMost = (std::int64_t{1} << 31) - 1;
    if (g.m < 1 || g.n < 1 || g.k < 1 || g.batch < 1) return "an empty matrix";
    if (std::max({g.m, g.n, g.k, g.batch}) > kMost) return "more than 2^31 rows, columns, terms or matrices";
    if (g.activation != Activation::none) return "an activation";  // its relu does not say what becomes of NaN
    if (first.line == 0 || second.line == 0) return "an operand is contiguous along neither axis";
    if (result.line == 0 || result.transposed || (g.batch > 1 && g.c_batch < 1)) return "rows of the result overlap";
    return nullptr;
  }

  using Key = std::array<std::int64_t, 20>;
  Key key() const {
    const bool many = g.batch > 1;
    return {static_cast<int>(dtype),
            device,
            g.m,
            g.n,
            g.k,
            g.batch,
            first.line,
            second.line,
            result.line,
            first.transposed,
            second.transposed,
            many ? g.b_batch : 0,
            many ? g.a_batch : 0,
            many ? g.c_batch : 0,
            g.bias != nullptr,
            g.beta != 0,
            alignment(g.b),
            alignment(g.a),
            alignment(g.c),
            g.bias ? alignment(g.bias) : 0};
  }
};

// What was found for a shape. Kept until the cache is full of other shapes.
struct Choice {
  Operation operation = nullptr;
  Layout first = nullptr, second = nullptr, result = nullptr;
  Heuristic best = {};
  bool served = false;

  Choice(const Library& l, Handle handle, const Product& p) {
    const int type = p.dtype == DType::Float32   ? kReal32
                     : p.dtype == DType::Float64 ? kReal64
                     : p.dtype == DType::Float16 ? kReal16
                                                 : kBrain16;
    const bool wide = p.dtype == DType::Float64;
    require_success(l.operation_create(&operation, wide ? kCompute64 : kCompute32, wide ? kReal64 : kReal32),
                    "cublasLtMatmulDescCreate");
    set_operation(l, kTransA, p.first.transposed ? kTransposed : 0);
    set_operation(l, kTransB, p.second.transposed ? kTransposed : 0);
    if (p.g.bias) {
      set_operation(l, kEpilogue, kEpilogueBias);
      set_operation(l, kBias, p.g.bias);
    }
    const auto layout = [&](Layout& to, const Stored& s, std::int64_t step) {
      require_success(
          l.layout_create(&to, type, static_cast<std::uint64_t>(s.rows), static_cast<std::uint64_t>(s.columns), s.line),
          "cublasLtMatrixLayoutCreate");
      if (p.g.batch == 1) return;
      const auto count = static_cast<std::int32_t>(p.g.batch);
      require_success(l.layout_set(to, kBatchCount, &count, sizeof count), "cublasLtMatrixLayoutSetAttribute");
      require_success(l.layout_set(to, kBatchOffset, &step, sizeof step), "cublasLtMatrixLayoutSetAttribute");
    };
    layout(first, p.first, p.g.b_batch);
    layout(second, p.second, p.g.a_batch);
    layout(result, p.result, p.g.c_batch);

    constexpr std::uint64_t kWorkspace = 32 << 20;  // what its manual recommends for sm_90
    Preference preference = nullptr;
    require_success(l.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
    int status = l.preference_set(preference, kMaxWorkspace, &kWorkspace, sizeof kWorkspace), field = kMinAlignment;
    for (const void* data : {p.g.b, p.g.a, static_cast<const void*>(p.g.c), static_cast<const void*>(p.g.c)}) {
      const auto bytes = static_cast<std::uint32_t>(alignment(data));
      if (status == kSuccess) status = l.preference_set(preference, field, &bytes, sizeof bytes);
      ++field;
    }
    int found = 0;
    const int answer = status != kSuccess ? status
                                          : l.heuristic(handle, operation, first, second, result, result, preference, 1,
                                                        &best, &found);
    l.preference_destroy(preference);
    require_success(status, "cublasLtMatmulPreferenceSetAttribute");
    served = answer == kSuccess && found > 0 && best.status == kSuccess;
  }
  void destroy(const Library& l) {
    l.layout_destroy(first);
    l.layout_destroy(second);
    l.layout_destroy(result);
    l.operation_destroy(operation);
  }
  template <class V>
  void set_operation(const Library& l, OperationField field, const V& value) {
    require_success(l.operation_set(operation, field, &value, sizeof value), "cublasLtMatmulDescSetAttribute");
  }
};

// Handles of devices and choices for shapes. The lock is held while a product is queued, because its bias is written
// into the choice.
class Choices {
 public:
  bool run(const Library& l, const Product& p) {
    const std::lock_guard lock(mutex_);
    const Handle handle = handle_of(l, p.device);
    auto it = choices_.find(p.key());
    if (it == choices_.end()) {
      if (choices_.size() >= kMost) {
        for (auto& [key, choice] : choices_) choice.destroy(l);
        choices_.clear();
      }
      it = choices_.emplace(p.key(), Choice(l, handle, p)).first;
    }
    Choice& c = it->second;
    if (!c.served) return false;
    if (p.g.bias) c.set_operation(l, kBias, p.g.bias);
    const Scratch<unsigned char> workspace(static_cast<std::int64_t>(c.best.workspace));
    const float narrow[2] = {static_cast<float>(p.g.alpha), static_cast<float>(p.g.beta)};
    const double wide[2] = {p.g.alpha, p.g.beta};
    const bool is_wide = p.dtype == DType::Float64;
    const void* alpha = is_wide ? static_cast<const void*>(wide) : narrow;
    const void* beta = is_wide ? static_cast<const void*>(wide + 1) : narrow + 1;
    require_success(l.matmul(handle, c.operation, alpha, p.g.b, c.first, p.g.a, c.second, beta, p.g.c, c.result, p.g.c,
                             c.result, &c.best.algorithm, c.best.workspace ? workspace.get() : nullptr,
                             c.best.workspace, current_stream().handle),
                    "cublasLtMatmul");
    return true;
  }

 private:
  static constexpr std::size_t kMost = 4096;
  Handle handle_of(const Library& l, int device) {
    Handle& h = handles_[device];
    if (!h) require_success(l.create(&h), "cublasLtCreate");
    return h;
  }
  std::mutex mutex_;
  std::map<int, Handle> handles_;
  std::map<Product::Key, Choice> choices_;
};

Choices& choices() {
  static auto* c = new Choices;
  return *c;
}

}  // namespace

UseLibrary products_by_library() {
  static const UseLibrary use = library_use("matmul", kVariable, kName);
  return use;
}

bool library_product(const Gemm& g, DType dtype) {
  const UseLibrary use = products_by_library();
  if (use == UseLibrary::never) return false;
  const Library& l = library();
  if (!l.file.ready(use, "matmul", kVariable, kName)) return false;
  // Small products are over before another library's launch pays.
  constexpr double kLeast = 1 << 18;
  const double work =
      static_cast<double>(g.m) * static_cast<double>(g.n) * static_cast<double>(g.k) * static_cast<double>(g.batch);
  const Product p(g, dtype);
  const char* why = use == UseLibrary::automatic && work < kLeast ? "few terms" : p.obstacle();
  if (!why && !choices().run(l, p)) why = "it has no algorithm";
  if (verbose_on) {
    if (why)
      verbose_note("; not cuBLASLt: %s", why);
    else
      verbose_note(": cuBLASLt %zu", l.version());
  }
  return why == nullptr;
}

}  // namespace pydlx::cuda
