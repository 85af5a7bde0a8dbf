// Matrix products of float64 and integers on the ordinary arithmetic units, any strides.
#include "cuda/gemm/strided.cuh"
#include "cuda/libraries/cublas_lt.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

template <class T, class A>
void add(GemmKernels& k) {
  k.gemm[static_cast<int>(DTypeOf<T>::value)] = [](const Gemm& g) { run_product("matmul", Strided<T, A>(g)); };
}

}  // namespace

void register_gemm_simt(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  add<double, double>(k);
  k.external[static_cast<int>(DType::Float64)] = [](const Gemm& g) { return library_product(g, DType::Float64); };
  // Unsigned arithmetic wraps where signed overflow would be undefined; the bits are the same.
  add<std::uint8_t, std::uint32_t>(k);
  add<std::int8_t, std::uint32_t>(k);
  add<std::int16_t, std::uint32_t>(k);
  add<std::int32_t, std::uint32_t>(k);
  add<std::int64_t, std::uint64_t>(k);
}

}  // namespace pydlx::cuda
