// Euclidean distances as products of matrices (tile.cuh) whose terms are squared differences: never
// |a|^2 + |b|^2 - 2ab, which cancels where rows are close.
#include "cuda/gemm/tile.cuh"
#include "functors/math.h"
#include "kernels.h"
#include "kernels/distance.h"

namespace pydlx::cuda {
namespace {

// Row `row` of the matrix `batch` of a stack of them.
template <class T>
__device__ __forceinline__ const T* row_at(const void* stack, std::int64_t batch, std::int64_t rows, std::int64_t row,
                                           std::int64_t features) {
  return static_cast<const T*>(stack) + (batch * rows + row) * features;
}

// out[i, j] = root of the sum over features of (a[i] - b[j])^2
template <class T>
struct Between {
  using Acc = T;
  Distances d;
  std::int64_t m, n, k, batch;
  static constexpr bool a_along_k = true, b_along_k = true;

  explicit Between(const Distances& given) : d(given), m(d.rows_a), n(d.rows_b), k(d.features), batch(d.batch) {}
  __device__ T a(std::int64_t i, std::int64_t row, std::int64_t feature) const {
    return row_at<T>(d.a, i, m, row, k)[feature];
  }
  __device__ T b(std::int64_t i, std::int64_t feature, std::int64_t row) const {
    return row_at<T>(d.b, i, n, row, k)[feature];
  }
  static __device__ __forceinline__ void add(T& sum, T a, T b) {
    const T difference = a - b;
    sum += difference * difference;
  }
  __device__ void store(std::int64_t i, std::int64_t row, std::int64_t col, T sum) const {
    static_cast<T*>(d.out)[(i * m + row) * n + col] = math::sqrt(sum);
  }
};

// dx[i] = sum over j of slope[i, j] (x[i] - y[j]). The difference is formed term by term: x[i] times the sum of slopes
// would cancel against the rest.
template <class T>
struct Pull {
  using Acc = T;
  const T *x, *y, *slope;
  T* dx;
  std::int64_t m, n, k, batch;  // rows of x, features, rows of y
  std::int64_t slope_row, slope_other;
  bool a_along_k = slope_other == 1;
  static constexpr bool b_along_k = false;

  __device__ T a(std::int64_t i, std::int64_t row, std::int64_t other) const {
    return slope[i * m * k + row * slope_row + other * slope_other];
  }
  __device__ T b(std::int64_t i, std::int64_t other, std::int64_t feature) const {
    return row_at<T>(y, i, k, other, n)[feature];
  }
  __device__ T own(std::int64_t i, std::int64_t row, std::int64_t feature) const {
    return row_at<T>(x, i, m, row, n)[feature];
  }
  static __device__ __forceinline__ void add(T& sum, T slope, T other, T own) { sum += slope * (own - other); }
  __device__ void store(std::int64_t i, std::int64_t row, std::int64_t feature, T sum) const {
    dx[(i * m + row) * n + feature] = sum;
  }
};

template <class T>
void forward(const Distances& d) {
  run_product("cdist", Between<T>(d));
}

template <class T>
void backward(const Distances& d) {
  const T *a = static_cast<const T*>(d.a), *b = static_cast<const T*>(d.b), *slope = static_cast<const T*>(d.slope);
  if (d.da)
    run_product("cdist",
                Pull<T>{a, b, slope, static_cast<T*>(d.da), d.rows_a, d.features, d.rows_b, d.batch, d.rows_b, 1});
  if (d.db)
    run_product("cdist",
                Pull<T>{b, a, slope, static_cast<T*>(d.db), d.rows_b, d.features, d.rows_a, d.batch, 1, d.rows_b});
}

}  // namespace

void register_distance(KernelTable& t) {
  DistanceKernels& k = family<DistanceKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.forward[idx<T>] = forward<T>;
    k.backward[idx<T>] = backward<T>;
  });
}

}  // namespace pydlx::cuda
