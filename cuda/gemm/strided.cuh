// A product of matrices in memory as a problem of tile.cuh.
#pragma once
#include "cuda/gemm/epilogue.cuh"
#include "cuda/gemm/tile.cuh"

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
  // Operands as they are in memory.
  __device__ T a_as_is(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<const T*>(g.a)[i * g.a_batch + row * g.a_row + col * g.a_col];
  }
  __device__ T b_as_is(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<const T*>(g.b)[i * g.b_batch + row * g.b_row + col * g.b_col];
  }
  __device__ A a(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<A>(a_as_is(i, row, col));
  }
  __device__ A b(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<A>(b_as_is(i, row, col));
  }
  // The wider activations would be more code than the tile, once for each of a thread's sums, and take its registers.
  bool stores_in_tile() const { return g.activation == Activation::none || g.activation == Activation::relu; }
  __device__ void store(std::int64_t i, std::int64_t row, std::int64_t col, A v) const {
    T* c = at(i, row, col);
    *c = Finish<T, A>(g).template at<true, false>(c, col, v);
  }
  __device__ void finish(std::int64_t i, std::int64_t row, std::int64_t col, A v) const {
    T* c = at(i, row, col);
    *c = Finish<T, A>(g).at(c, col, v);
  }

 private:
  __device__ T* at(std::int64_t i, std::int64_t row, std::int64_t col) const {
    return static_cast<T*>(g.c) + i * g.c_batch + row * g.c_row + col;
  }
};

}  // namespace
}  // namespace pydlx::cuda
