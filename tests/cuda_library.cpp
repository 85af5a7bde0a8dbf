// Tests of products by cuBLASLt, with fake_cublas_lt.cpp in its place, whose results are computed under the emulator.
// test_cuda_library.py compiles both and runs one part per process: `cuda_library PART`; PYDLX_CUDA_GEMM and
// PYDLX_CUBLAS_LT are set by it.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/verbose.h"
#include "cuda/gemm/library.h"
#include "cuda/runtime/launch.h"

extern "C" void run_on_device(const std::function<void()>& work) { emulator::launch(1, 1, 0, nullptr, work); }

namespace pydlx {
const bool verbose_on = false;
void verbose_note(const char*, ...) noexcept {}

namespace cuda {
void fail_call(const char* call, cudaError_t e) {
  std::fprintf(stderr, "%s: error %d\n", call, e);
  std::exit(1);
}
Stream& current_stream() {
  static Stream s;
  return s;
}
int current_device() { return 0; }
}  // namespace cuda

namespace {
class DeviceMemory final : public Allocator {
 public:
  void* allocate(std::size_t n) override {
    void* p = nullptr;
    cuda::check(cudaMalloc(&p, n), "cudaMalloc");
    return p;
  }
  void deallocate(void* p, std::size_t) noexcept override { cudaFree(p); }
  void empty_cache() noexcept override {}
  AllocatorStats stats() const noexcept override { return {}; }
  void reset_peak() noexcept override {}
};
}  // namespace
Allocator& allocator_for(Device) {
  static DeviceMemory m;
  return m;
}
}  // namespace pydlx

using namespace pydlx;
using namespace pydlx::cuda;

namespace {

void require_that(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

// Device memory with host values.
template <class T>
class Array {
 public:
  explicit Array(std::size_t n, unsigned seed) : values(n) {
    for (T& v : values) v = static_cast<T>(static_cast<float>((seed = seed * 1664525u + 1013904223u) >> 24) / 64 - 2);
    check(cudaMalloc(&data, n * sizeof(T)), "cudaMalloc");
    check(cudaMemcpyAsync(data, values.data(), n * sizeof(T), cudaMemcpyHostToDevice, nullptr), "copy");
  }
  ~Array() { cudaFree(data); }
  std::vector<T> now() const {
    std::vector<T> v(values.size());
    check(cudaMemcpyAsync(v.data(), data, v.size() * sizeof(T), cudaMemcpyDeviceToHost, nullptr), "copy");
    return v;
  }
  std::vector<T> values;
  void* data = nullptr;
};

struct Shape {
  std::int64_t m, n, k, batch;
};

// Both operands either way, lines longer than their content, every combination of bias and beta.
template <class T>
void products(DType dtype, const Shape& s) {
  constexpr std::int64_t kPad = 3;
  for (const bool a_transposed : {false, true})
    for (const bool b_transposed : {false, true})
      for (const bool with_bias : {false, true})
        for (const double beta : {0.0, 0.5}) {
          Gemm g;
          g.m = s.m, g.n = s.n, g.k = s.k, g.batch = s.batch;
          g.alpha = 1.5, g.beta = beta;
          const std::int64_t a_line = (a_transposed ? s.m : s.k) + kPad, b_line = (b_transposed ? s.k : s.n) + kPad;
          (a_transposed ? g.a_row : g.a_col) = 1, (a_transposed ? g.a_col : g.a_row) = a_line;
          (b_transposed ? g.b_row : g.b_col) = 1, (b_transposed ? g.b_col : g.b_row) = b_line;
          g.c_row = s.n + kPad;
          g.a_batch = s.batch > 2 ? 0 : a_line * (a_transposed ? s.k : s.m);
          g.b_batch = b_line * (b_transposed ? s.n : s.k);
          g.c_batch = g.c_row * s.m;
          const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
          const Array<T> a(size(s.batch * a_line * (a_transposed ? s.k : s.m)), 1), b(size(s.batch * g.b_batch), 2),
              c(size(s.batch * g.c_batch), 3), bias(size(s.n), 4);
          g.a = a.data, g.b = b.data, g.c = c.data;
          if (with_bias) g.bias = bias.data;
          require_that(library_product(g, dtype), "the library serves it");
          const std::vector<T> got = c.now();
          for (std::int64_t i = 0; i < static_cast<std::int64_t>(got.size()); ++i) {
            const std::int64_t n = i / g.c_batch, row = i % g.c_batch / g.c_row, column = i % g.c_row;
            double want = static_cast<double>(static_cast<float>(c.values[size(i)]));
            if (column < s.n) {
              double sum = 0;
              for (std::int64_t p = 0; p < s.k; ++p)
                sum += static_cast<double>(
                           static_cast<float>(a.values[size(n * g.a_batch + row * g.a_row + p * g.a_col)])) *
                       static_cast<double>(
                           static_cast<float>(b.values[size(n * g.b_batch + p * g.b_row + column * g.b_col)]));
              want = 1.5 * sum + beta * want;
              if (with_bias) want += static_cast<double>(static_cast<float>(bias.values[size(column)]));
            }
            const double difference = std::fabs(static_cast<double>(static_cast<float>(got[size(i)])) - want);
            require_that(difference <= (sizeof(T) == 2 ? 8e-3 : 1e-6) * (std::fabs(want) + 1), "a product's value");
          }
        }
}

void all_products() {
  for (const Shape& s : {Shape{5, 7, 3, 1}, Shape{1, 9, 4, 1}, Shape{6, 1, 2, 1}, Shape{3, 4, 1, 1}, Shape{4, 3, 5, 2},
                         Shape{2, 3, 4, 3}}) {
    products<float>(DType::Float32, s);
    products<double>(DType::Float64, s);
    products<Half>(DType::Float16, s);
    products<BFloat16>(DType::BFloat16, s);
  }
}

Gemm simple(const Array<float>& a, const Array<float>& b, const Array<float>& c, std::int64_t n) {
  Gemm g;
  g.m = g.n = g.k = n;
  g.a = a.data, g.b = b.data, g.c = c.data;
  g.a_row = g.b_row = g.c_row = n;
  g.a_col = g.b_col = 1;
  return g;
}

void refusals() {
  const Array<float> a(64, 1), b(64, 2), c(64, 3);
  const auto refuses = [&](auto change) {
    Gemm g = simple(a, b, c, 4);
    change(g);
    return !library_product(g, DType::Float32);
  };
  require_that(!refuses([](Gemm&) {}), "an ordinary product");
  require_that(refuses([](Gemm& g) { g.activation = Activation::relu; }), "activations");
  require_that(refuses([](Gemm& g) { g.k = 0; }), "no terms");
  require_that(refuses([](Gemm& g) { g.batch = 0; }), "no matrices");
  require_that(refuses([](Gemm& g) { g.a_col = 2; }), "gaps between elements");
  require_that(refuses([](Gemm& g) { g.b_row = 0; }), "repeated rows");
  require_that(refuses([](Gemm& g) { g.m = std::int64_t{1} << 31; }), "too large");
  for (const float v : c.now()) require_that(std::isfinite(v), "nothing is written");
}

void cached() {  // the calls are counted by the test
  const Array<float> a(64, 1), b(64, 2), c(64, 3);
  for (int i = 0; i < 3; ++i)
    for (const std::int64_t n : {4, 6}) library_product(simple(a, b, c, n), DType::Float32);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back([&] { library_product(simple(a, b, c, 4), DType::Float32); });
  for (auto& t : threads) t.join();
}

void served() {
  const Array<float> a(64, 1), b(64, 2), c(64, 3);
  try {
    std::puts(library_product(simple(a, b, c, 4), DType::Float32) ? "yes" : "no");
  } catch (const Error& e) {
    std::puts(e.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "";
  if (part == "products") return all_products(), 0;
  if (part == "refusals") return refusals(), 0;
  if (part == "cached") return cached(), 0;
  if (part == "served") return served(), 0;
  return 2;
}
