// Tests of products by cuBLASLt and convolutions by cuDNN, with fake_cublas_lt.cpp and fake_cudnn.cpp in their place,
// whose results are computed under the emulator. test_cuda_library.py compiles them and runs one part per process:
// `cuda_library PART`; the variables that choose the libraries are set by it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "core/backend.h"
#include "core/verbose.h"
#include "cuda/libraries/cublas_lt.h"
#include "cuda/libraries/cudnn.h"
#include "cuda/runtime/launch.h"
#include "tests/host_program.h"
#include "tests/host_runtime.h"

extern "C" void run_on_device(const std::function<void()>& work) { emulator::launch(1, 1, 0, nullptr, work); }

namespace pydlx {
const bool verbose_on = false;
void verbose_note(const char*, ...) noexcept {}

namespace cuda {
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

// ---- convolutions ---------------------------------------------------------------------------------------------------

ConvShape conv_shape(std::int64_t batch, std::int64_t groups, std::int64_t cin, std::int64_t cout,
                     std::array<std::int64_t, 3> in, std::array<std::int64_t, 3> kernel,
                     std::array<std::int64_t, 3> stride, std::array<std::int64_t, 3> pad,
                     std::array<std::int64_t, 3> dilation) {
  ConvShape s;
  s.batch = batch, s.groups = groups, s.cin = cin, s.cout = cout;
  for (std::size_t d = 0; d < 3; ++d) {
    s.in[d] = in[d], s.kernel[d] = kernel[d], s.stride[d] = stride[d], s.pad[d] = pad[d], s.dilation[d] = dilation[d];
    s.out[d] = (in[d] + 2 * pad[d] - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1;
  }
  return s;
}
std::int64_t volume(const std::int64_t (&a)[3]) { return a[0] * a[1] * a[2]; }

// f(x, w, y) for every product of the convolution, by flat positions.
template <class F>
void each_product(const ConvShape& s, const F& f) {
  for (std::int64_t n = 0; n < s.batch; ++n)
    for (std::int64_t g = 0; g < s.groups; ++g)
      for (std::int64_t o = 0; o < s.cout; ++o)
        for (std::int64_t i = 0; i < s.cin; ++i)
          for (std::int64_t p = 0; p < volume(s.out); ++p)
            for (std::int64_t t = 0; t < volume(s.kernel); ++t) {
              std::int64_t at = 0, rest_p = p, rest_t = t, unit = 1;
              bool inside = true;
              for (int d = 2; d >= 0; --d) {
                const std::int64_t look =
                    rest_p % s.out[d] * s.stride[d] - s.pad[d] + rest_t % s.kernel[d] * s.dilation[d];
                rest_p /= s.out[d], rest_t /= s.kernel[d];
                inside = inside && look >= 0 && look < s.in[d];
                at += look * unit, unit *= s.in[d];
              }
              if (!inside) continue;
              f(((n * s.groups + g) * s.cin + i) * volume(s.in) + at,
                ((g * s.cout + o) * s.cin + i) * volume(s.kernel) + t,
                ((n * s.groups + g) * s.cout + o) * volume(s.out) + p);
            }
}

template <class T>
void convolution(DType dtype, const ConvShape& s) {
  const auto size = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const auto value = [](const std::vector<T>& v, std::int64_t i) {
    return static_cast<double>(static_cast<float>(v[static_cast<std::size_t>(i)]));
  };
  const std::int64_t channels_x = s.groups * s.cin, channels_y = s.groups * s.cout;
  for (const ConvPass pass : {ConvPass::forward, ConvPass::input_grad, ConvPass::weight_grad}) {
    const Array<T> x(size(s.batch * channels_x * volume(s.in)), 1), w(size(channels_y * s.cin * volume(s.kernel)), 2),
        y(size(s.batch * channels_y * volume(s.out)), 3), bias(size(std::max(channels_x, channels_y)), 4);
    Conv c;
    c.shape = s;
    c.x = x.data, c.w = w.data, c.y = y.data;
    if (pass != ConvPass::weight_grad) c.bias = bias.data;
    require_that(library_conv(c, pass, dtype), "the library serves it");
    const bool forward = pass == ConvPass::forward;
    const Array<T>& written = forward ? y : pass == ConvPass::input_grad ? x : w;
    std::vector<double> want(written.values.size());
    each_product(s, [&](std::int64_t i, std::int64_t k, std::int64_t o) {
      if (forward)
        want[size(o)] += value(x.values, i) * value(w.values, k);
      else if (pass == ConvPass::input_grad)
        want[size(i)] += value(y.values, o) * value(w.values, k);
      else
        want[size(k)] += value(x.values, i) * value(y.values, o);
    });
    const std::vector<T> got = written.now();
    for (std::size_t i = 0; i < got.size(); ++i) {
      double v = want[i];
      const auto at = static_cast<std::int64_t>(i);
      if (c.bias) v += value(bias.values, forward ? at / volume(s.out) % channels_y : at / volume(s.in) % channels_x);
      // The bias is added to a rounded sum.
      require_that(std::fabs(value(got, at) - v) <= (sizeof(T) == 2 ? 1.6e-2 : 2e-6) * (std::fabs(want[i]) + 3),
                   "a convolution's value");
    }
  }
}

void convolutions() {
  const ConvShape shapes[] = {
      conv_shape(2, 1, 3, 5, {1, 6, 7}, {1, 3, 2}, {1, 1, 1}, {0, 1, 0}, {1, 1, 1}),
      conv_shape(1, 2, 2, 3, {1, 9, 8}, {1, 3, 3}, {1, 2, 3}, {0, 2, 1}, {1, 2, 1}),
      conv_shape(3, 4, 1, 2, {1, 1, 11}, {1, 1, 4}, {1, 1, 2}, {0, 0, 3}, {1, 1, 1}),
      conv_shape(2, 1, 2, 2, {4, 5, 3}, {2, 3, 1}, {2, 1, 1}, {1, 0, 0}, {1, 1, 1}),
  };
  for (const ConvShape& s : shapes) {
    convolution<float>(DType::Float32, s);
    convolution<double>(DType::Float64, s);
    convolution<Half>(DType::Float16, s);
    convolution<BFloat16>(DType::BFloat16, s);
    convolution<float>(DType::Float32, s);  // from the cache
  }
  const Array<float> memory(4096, 5);
  const auto refuses = [&](auto change) {
    Conv c;
    c.shape = shapes[0];
    c.x = c.w = c.y = memory.data;
    change(c);
    return !library_conv(c, ConvPass::forward, DType::Float32);
  };
  require_that(!refuses([](Conv&) {}), "an ordinary convolution");
  require_that(refuses([](Conv& c) { c.shape.out[1] += 1; }), "more padding behind");
  require_that(refuses([](Conv& c) { c.shape.channels_last = true; }), "channels last");
  require_that(refuses([](Conv& c) { c.shape.exact = true; }), "what must be exact");
  require_that(refuses([](Conv& c) { c.activation = Activation::relu; }), "activations");
  require_that(refuses([](Conv& c) { c.scale = c.w; }), "factors");
  require_that(refuses([](Conv& c) { c.shape.batch = 0; }), "no images");
  require_that(refuses([](Conv& c) { c.shape.batch = std::int64_t{1} << 28; }), "too large");
  require_that(refuses([](Conv& c) { c.x = static_cast<char*>(c.x) + 4; }), "unaligned memory");
}

void conv_served() {
  const Array<float> memory(4096, 5);
  Conv c;
  c.shape = conv_shape(2, 1, 3, 5, {1, 6, 7}, {1, 3, 2}, {1, 1, 1}, {0, 1, 0}, {1, 1, 1});
  c.x = c.w = c.y = memory.data;
  try {
    std::puts(library_conv(c, ConvPass::forward, DType::Float32) ? "yes" : "no");
  } catch (const Error& e) {
    std::puts(e.what());
  }
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
  if (part == "convolutions") return convolutions(), 0;
  if (part == "conv_served") return conv_served(), 0;
  return 2;
}
