// The mean of a loss over rows, for as many as one block reads quickly: one launch instead of three.
#include "cuda/runtime/launch.h"
#include "kernels.h"
#include "kernels/loss.h"

namespace pydlx::cuda {
namespace {

constexpr int kMeanThreads = 1024, kMeanAhead = 4;

// Both sums in an order that the number of threads fixes, carried in double as other sums are.
template <class T>
__global__ void __launch_bounds__(kMeanThreads)
    mean_of_rows(const T* loss, const T* weight, int n, T* mean, T* total_weight) {
  __shared__ double slots[2][kMeanThreads / kWarp];
  double a = 0, b = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kMeanAhead * kMeanThreads) {
    T x[kMeanAhead], w[kMeanAhead];
#pragma unroll
    for (int k = 0; k < kMeanAhead; ++k) {
      const int at = i + k * kMeanThreads;
      x[k] = at < n ? loss[at] : T(0);
      w[k] = at < n ? weight[at] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kMeanAhead; ++k) {
      a += static_cast<double>(x[k]);
      b += static_cast<double>(w[k]);
    }
  }
  for (int d = kWarp / 2; d > 0; d /= 2) {
    a += __shfl_down_sync(kFullMask, a, d);
    b += __shfl_down_sync(kFullMask, b, d);
  }
  if (threadIdx.x % kWarp == 0) {
    slots[0][threadIdx.x / kWarp] = a;
    slots[1][threadIdx.x / kWarp] = b;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kMeanThreads / kWarp; ++w) {
    a += slots[0][w];
    b += slots[1][w];
  }
  *total_weight = static_cast<T>(b);
  *mean = static_cast<T>(a) / static_cast<T>(b);
}

template <class T>
void mean_rows(const MeanLoss& k) {
  launch(mean_of_rows<T>, 1, kMeanThreads, 0, static_cast<const T*>(k.loss), static_cast<const T*>(k.row_weight),
         static_cast<int>(k.rows), static_cast<T*>(k.mean), static_cast<T*>(k.total_weight));
}

}  // namespace

void register_loss_mean(KernelTable& t) {
  each_type(WideTypes{}, [&]<class T>() { family<LossKernels>(t).mean[idx<T>] = mean_rows<T>; });
}

}  // namespace pydlx::cuda
