// Layer and RMS normalisation, one row at a time while it is in the first-level cache.
#include "kernels/norm.h"

#include "cpu/isa.h"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

constexpr std::int64_t kLanes = 32;

template <class A, class F>
inline __attribute__((always_inline)) A lane_sum(std::int64_t n, const F& f) {
  A lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += f(i + l);
  for (int l = 0; i < n; ++i, ++l) lane[l] += f(i);
  for (int w = kLanes / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
  return lane[0];
}

std::int64_t row_grain(std::int64_t cols) { return cols >= 16384 ? 1 : 16384 / (cols + 1) + 1; }

template <class T>
void forward(const LayerNormForward& k) {
  using A = compute_t<T>;
  const T *w = static_cast<const T*>(k.weight), *b = static_cast<const T*>(k.bias);
  parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* x = static_cast<const T*>(k.x) + r * k.cols;
      T* y = static_cast<T*>(k.y) + r * k.cols;
      // Two passes: the variance is summed from centred values, so it cannot cancel.
      // RMS normalisation is the same around 0.
      const A mean =
          k.mean ? lane_sum<A>(k.cols, [&](std::int64_t i) { return static_cast<A>(x[i]); }) / static_cast<A>(k.cols)
                 : A(0);
      const A var = lane_sum<A>(k.cols,
                                [&](std::int64_t i) {
                                  const A d = static_cast<A>(x[i]) - mean;
                                  return d * d;
                                }) /
                    static_cast<A>(k.cols);
      const A rstd = A(1) / math::sqrt(var + static_cast<A>(k.eps));
      if (k.mean) static_cast<A*>(k.mean)[r] = mean;
      static_cast<A*>(k.rstd)[r] = rstd;
      if (w && b)
        for (std::int64_t i = 0; i < k.cols; ++i)
          y[i] = static_cast<T>((static_cast<A>(x[i]) - mean) * rstd * static_cast<A>(w[i]) + static_cast<A>(b[i]));
      else
        for (std::int64_t i = 0; i < k.cols; ++i) {
          A v = (static_cast<A>(x[i]) - mean) * rstd;
          if (w) v *= static_cast<A>(w[i]);
          if (b) v += static_cast<A>(b[i]);
          y[i] = static_cast<T>(v);
        }
    }
  });
}

template <class T>
void backward(const LayerNormBackward& k) {
  using A = compute_t<T>;
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd);
  const T* w = static_cast<const T*>(k.weight);
  if (k.dx)
    parallel_for(k.rows, row_grain(k.cols), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const T *dy = static_cast<const T*>(k.dy) + r * k.cols, *x = static_cast<const T*>(k.x) + r * k.cols;
        T* dx = static_cast<T*>(k.dx) + r * k.cols;
        const A m = mean ? mean[r] : A(0), s = rstd[r];
        auto h = [&](std::int64_t i) {
          return w ? static_cast<A>(dy[i]) * static_cast<A>(w[i]) : static_cast<A>(dy[i]);
        };
        const A mean_h = mean ? lane_sum<A>(k.cols, h) / static_cast<A>(k.cols) : A(0);
        const A mean_hx = lane_sum<A>(k.cols, [&](std::int64_t i) { return h(i) * (static_cast<A>(x[i]) - m) * s; }) /
                          static_cast<A>(k.cols);
        for (std::int64_t i = 0; i < k.cols; ++i)
          dx[i] = static_cast<T>(s * (h(i) - mean_h - (static_cast<A>(x[i]) - m) * s * mean_hx));
      }
    });
  if (k.dweight || k.dbias)
    // Threads own columns, so rows are added in order whatever their number.
    parallel_for((k.cols + 63) / 64, k.rows > 512 ? 1 : 512 / (k.rows + 1) + 1,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t block = begin; block < end; ++block) {
                     const std::int64_t c0 = block * 64;
                     const int width = static_cast<int>(k.cols - c0 < 64 ? k.cols - c0 : 64);
                     A dw[64] = {}, db[64] = {};
                     for (std::int64_t r0 = 0; r0 < k.rows; r0 += 256) {
                       A pw[64] = {}, pb[64] = {};
                       const std::int64_t r1 = r0 + 256 < k.rows ? r0 + 256 : k.rows;
                       for (std::int64_t r = r0; r < r1; ++r) {
                         const T *dy = static_cast<const T*>(k.dy) + r * k.cols + c0,
                                 *x = static_cast<const T*>(k.x) + r * k.cols + c0;
                         const A m = mean ? mean[r] : A(0), s = rstd[r];
                         for (int l = 0; l < width; ++l) {
                           pb[l] += static_cast<A>(dy[l]);
                           pw[l] += static_cast<A>(dy[l]) * (static_cast<A>(x[l]) - m) * s;
                         }
                       }
                       for (int l = 0; l < 64; ++l) dw[l] += pw[l], db[l] += pb[l];
                     }
                     for (int l = 0; l < width; ++l) {
                       if (k.dweight) static_cast<T*>(k.dweight)[c0 + l] = static_cast<T>(dw[l]);
                       if (k.dbias) static_cast<T*>(k.dbias)[c0 + l] = static_cast<T>(db[l]);
                     }
                   }
                 });
}

template <class T>
void add_norm(NormKernels& n) {
  n.layer_norm[static_cast<int>(DTypeOf<T>::value)] = forward<T>;
  n.layer_norm_backward[static_cast<int>(DTypeOf<T>::value)] = backward<T>;
}

}  // namespace

void register_norm(KernelTable& t) {
  add_norm<Half>(family<NormKernels>(t));
  add_norm<BFloat16>(family<NormKernels>(t));
  add_norm<float>(family<NormKernels>(t));
  add_norm<double>(family<NormKernels>(t));
}

}  // namespace pydlx::PYDLX_ISA
