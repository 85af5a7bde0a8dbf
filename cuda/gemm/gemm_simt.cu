// Matrix products on the ordinary arithmetic units: every dtype, every stride.
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/tile.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

template <class T, class A>
struct Strided {
  using Acc = A;
  Gemm g;
  std::int64_t m, n, k, batch;
  bool a_along_k, b_along_k;

  explicit Strided(const Gemm& gemm)
      : g(gemm),
        m(g.m),
        n(g.n),
        k(g.k),
        batch(g.batch),
        a_along_k(g.a_col == 1),
        b_along_k(g.b_row == 1 && g.b_col != 1) {}
  __device__ A a(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<A>(static_cast<const T*>(g.a)[i * g.a_batch + row * g.a_row + col * g.a_col]);
  }
  __device__ A b(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<A>(static_cast<const T*>(g.b)[i * g.b_batch + row * g.b_row + col * g.b_col]);
  }
  __device__ void store(std::int64_t i, std::int64_t row, std::int64_t col, A v) const {
    store_product(g, static_cast<T*>(g.c) + i * g.c_batch + row * g.c_row + col, col, v);
  }
};

template <class T, class A>
void add(GemmKernels& k) {
  k.gemm[static_cast<int>(DTypeOf<T>::value)] = [](const Gemm& g) { run_product("matmul", Strided<T, A>(g)); };
}

}  // namespace

void register_gemm_simt(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  add<float, float>(k);
  add<double, double>(k);
  add<Half, float>(k);
  add<BFloat16, float>(k);
  // Unsigned arithmetic wraps where signed overflow would be undefined; the bits are the same.
  add<std::uint8_t, std::uint32_t>(k);
  add<std::int8_t, std::uint32_t>(k);
  add<std::int16_t, std::uint32_t>(k);
  add<std::int32_t, std::uint32_t>(k);
  add<std::int64_t, std::uint64_t>(k);
}

}  // namespace pydlx::cuda
