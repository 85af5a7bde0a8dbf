// Spatial transformer sampling (Jaderberg et al. 2015). A thread handles one point for a few channels, so that its
// corners are computed once. In the image's gradient points that share a pixel take turns: the order of additions is
// fixed.
#include "cuda/runtime/each.cuh"
#include "cuda/sort/claim.cuh"
#include "functors/grid_place.h"
#include "kernels/resample.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

constexpr std::int64_t kChannels = 8;  // handled by one thread

std::int64_t channel_parts(const GridSample& s) { return (s.channels + kChannels - 1) / kChannels; }

template <class T>
struct Sample {
  GridSample s;
  Divider by_points, by_parts;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [u, j] = by_points(e);
    const auto [image, part] = by_parts(u);
    const std::int64_t plane = s.in[0] * s.in[1] * s.in[2], c0 = part * kChannels;
    const GridPoint<T> p = grid_point(s, static_cast<const T*>(s.grid) + (image * s.points + j) * s.axes);
    const T* x = static_cast<const T*>(s.x) + (image * s.channels + c0) * plane;
    T* y = static_cast<T*>(s.y) + (image * s.channels + c0) * s.points + j;
    T sum[kChannels] = {};
    for (int k = 0; k < grid_corners(s); ++k) {
      T weight;
      const std::int64_t at = grid_corner(s, p, k, weight);
      if (at < 0) continue;
#pragma unroll
      for (int c = 0; c < kChannels; ++c)
        if (c0 + c < s.channels) sum[c] += weight * x[c * plane + at];
    }
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (c0 + c < s.channels) y[c * s.points] = sum[c];
  }
};

template <class T>
void sample(const GridSample& s) {
  const std::int64_t parts = channel_parts(s), n = s.batch * parts * s.points;
  for_each(n, Sample<T>{s, Divider(s.points, n), Divider(parts, n)});
}

// A block owns a few channels of an image and walks all points; corner by corner, in order of the points.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    image_gradient(const __grid_constant__ GridSample s, std::int64_t parts, Claims claims) {
  const std::int64_t plane = s.in[0] * s.in[1] * s.in[2];
  for (std::int64_t u = blockIdx.x; u < s.batch * parts; u += gridDim.x) {
    const std::int64_t image = u / parts, c0 = u % parts * kChannels;
    T* dx = static_cast<T*>(s.dx) + (image * s.channels + c0) * plane;
    for (std::int64_t first = 0; first < s.points; first += kEachThreads) {
      const std::int64_t j = first + threadIdx.x;
      const bool inside = j < s.points;
      GridPoint<T> p{};
      T dy[kChannels] = {};
      if (inside) {
        p = grid_point(s, static_cast<const T*>(s.grid) + (image * s.points + j) * s.axes);
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          if (c0 + c < s.channels) dy[c] = static_cast<const T*>(s.dy)[(image * s.channels + c0 + c) * s.points + j];
      }
      for (int k = 0; k < grid_corners(s); ++k) {
        T weight = 0;
        const std::int64_t at = inside ? grid_corner(s, p, k, weight) : -1;
        claims.in_order(at, [&] {
#pragma unroll
          for (int c = 0; c < kChannels; ++c)
            if (c0 + c < s.channels) dx[c * plane + at] += weight * dy[c];
        });
      }
    }
  }
}

template <class T>
struct GridGradient {
  GridSample s;
  Divider by_points;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [image, j] = by_points(e);
    const std::int64_t plane = s.in[0] * s.in[1] * s.in[2];
    const GridPoint<T> p = grid_point(s, static_cast<const T*>(s.grid) + e * s.axes);
    T sum[3] = {};
    for (int k = 0; k < grid_corners(s); ++k) {
      T weight;
      const std::int64_t at = grid_corner(s, p, k, weight);
      if (at < 0) continue;
      T dot = 0;
      for (std::int64_t c = 0; c < s.channels; ++c)
        dot += static_cast<const T*>(s.x)[(image * s.channels + c) * plane + at] *
               static_cast<const T*>(s.dy)[(image * s.channels + c) * s.points + j];
      for (int a = 0; a < s.axes; ++a) sum[a] += grid_slope(s, p, k, a) * dot;
    }
    for (int a = 0; a < s.axes; ++a) static_cast<T*>(s.dgrid)[e * s.axes + a] = sum[a];
  }
};

template <class T>
void sample_backward(const GridSample& s) {
  if (s.dx) {
    const std::int64_t plane = s.in[0] * s.in[1] * s.in[2], parts = channel_parts(s);
    const std::size_t bytes = static_cast<std::size_t>(s.batch * s.channels * plane) * sizeof(T);
    fill_bytes(s.dx, 0, bytes);
    if (bytes > 0 && s.points > 0) {
      const unsigned blocks = claim_blocks(s.batch * parts, plane);
      const ClaimTable table(blocks, plane);
      launch(image_gradient<T>, blocks, kEachThreads, 0, s, parts, table.claims());
    }
  }
  if (s.dgrid) for_each(s.batch * s.points, GridGradient<T>{s, Divider(s.points, s.batch * s.points)});
}

}  // namespace

void register_grid_sample(KernelTable& t) {
  ResampleKernels& k = family<ResampleKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.grid_sample[idx<T>] = sample<T>;
    k.grid_sample_backward[idx<T>] = sample_backward<T>;
  });
}

}  // namespace pydlx::cuda
