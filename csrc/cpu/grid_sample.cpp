// Spatial transformer sampling (Jaderberg et al. 2015). Points are handled 64 at a time: their corner offsets and
// weights are computed once and used for all channels. The image gradient is split over images and channels, so no two
// threads add to one element.
#include "cpu/isa.h"
#include "functors/grid_place.h"
#include "kernels/resample.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kSpan = 64;

template <class T>
struct Corners {
  std::int64_t offset[8][kSpan];  // -1 for corners outside
  T weight[8][kSpan];
  T slope[3][8][kSpan];  // derivative of the weight with respect to each grid coordinate (x first)
};

template <class T>
int find_corners(const GridSample& sample, std::int64_t image, std::int64_t first, std::int64_t n, bool slopes,
                 Corners<T>& c) {
  const GridSample s =
      sample;  // a copy: what is written to c could be part of the original, for all the compiler knows
  const T* grid = static_cast<const T*>(s.grid) + (image * s.points + first) * s.axes;
  const int corners = functors::grid_corners(s);
  for (std::int64_t j = 0; j < n; ++j) {
    const functors::GridPoint<T> p = functors::grid_point(s, grid + j * s.axes);
    for (int k = 0; k < corners; ++k) {
      c.offset[k][j] = functors::grid_corner(s, p, k, c.weight[k][j]);
      if (!slopes) continue;
      for (int a = 0; a < s.axes; ++a) c.slope[a][k][j] = functors::grid_slope(s, p, k, a);
    }
  }
  return corners;
}

std::int64_t volume(const GridSample& s) { return s.in[0] * s.in[1] * s.in[2]; }

template <class T>
void sample(const GridSample& s) {
  const std::int64_t blocks = (s.points + kSpan - 1) / kSpan, plane = volume(s);
  parallel_for(s.batch * blocks, 8192 / (kSpan * (s.channels + 1)) + 1, [&](std::int64_t b, std::int64_t e) {
    Corners<T> c;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t image = u / blocks, first = u % blocks * kSpan,
                         n = s.points - first < kSpan ? s.points - first : kSpan;
      const int corners = find_corners(s, image, first, n, false, c);
      for (std::int64_t ch = 0; ch < s.channels; ++ch) {
        const T* x = static_cast<const T*>(s.x) + (image * s.channels + ch) * plane;
        T* y = static_cast<T*>(s.y) + (image * s.channels + ch) * s.points + first;
        T sum[kSpan] = {};
        for (int k = 0; k < corners; ++k)
          for (std::int64_t j = 0; j < n; ++j) {
            const std::int64_t o = c.offset[k][j];
            const T v = x[o < 0 ? 0 : o];
            sum[j] += o < 0 ? T(0) : c.weight[k][j] * v;
          }
        for (std::int64_t j = 0; j < n; ++j) y[j] = sum[j];
      }
    }
  });
}

template <class T>
void image_gradient(const GridSample& s) {
  const std::int64_t plane = volume(s), share = 8, parts = (s.channels + share - 1) / share;
  parallel_for(s.batch * parts, 1, [&](std::int64_t b, std::int64_t e) {
    Corners<T> c;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t image = u / parts, c0 = u % parts * share,
                         c1 = c0 + share < s.channels ? c0 + share : s.channels;
      T* dx = static_cast<T*>(s.dx) + image * s.channels * plane;
      for (std::int64_t i = c0 * plane; i < c1 * plane; ++i) dx[i] = T(0);
      for (std::int64_t first = 0; first < s.points; first += kSpan) {
        const std::int64_t n = s.points - first < kSpan ? s.points - first : kSpan;
        const int corners = find_corners(s, image, first, n, false, c);
        for (std::int64_t ch = c0; ch < c1; ++ch) {
          const T* dy = static_cast<const T*>(s.dy) + (image * s.channels + ch) * s.points + first;
          T* to = dx + ch * plane;
          for (std::int64_t j = 0; j < n; ++j)
            for (int k = 0; k < corners; ++k)
              if (c.offset[k][j] >= 0) to[c.offset[k][j]] += c.weight[k][j] * dy[j];
        }
      }
    }
  });
}

template <class T>
void grid_gradient(const GridSample& s) {
  const std::int64_t blocks = (s.points + kSpan - 1) / kSpan, plane = volume(s);
  parallel_for(s.batch * blocks, 8192 / (kSpan * (s.channels + 1)) + 1, [&](std::int64_t b, std::int64_t e) {
    Corners<T> c;
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t image = u / blocks, first = u % blocks * kSpan,
                         n = s.points - first < kSpan ? s.points - first : kSpan;
      const int corners = find_corners(s, image, first, n, true, c);
      T sum[3][kSpan] = {};
      for (std::int64_t ch = 0; ch < s.channels; ++ch) {
        const T* x = static_cast<const T*>(s.x) + (image * s.channels + ch) * plane;
        const T* dy = static_cast<const T*>(s.dy) + (image * s.channels + ch) * s.points + first;
        for (int k = 0; k < corners; ++k)
          for (std::int64_t j = 0; j < n; ++j) {
            if (c.offset[k][j] < 0) continue;
            const T v = x[c.offset[k][j]] * dy[j];
            for (int a = 0; a < s.axes; ++a) sum[a][j] += c.slope[a][k][j] * v;
          }
      }
      T* dgrid = static_cast<T*>(s.dgrid) + (image * s.points + first) * s.axes;
      for (std::int64_t j = 0; j < n; ++j)
        for (int a = 0; a < s.axes; ++a) dgrid[j * s.axes + a] = sum[a][j];
    }
  });
}

template <class T>
void sample_backward(const GridSample& s) {
  if (s.dx) image_gradient<T>(s);
  if (s.dgrid) grid_gradient<T>(s);
}

}  // namespace

void register_grid_sample(KernelTable& t) {
  ResampleKernels& k = family<ResampleKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.grid_sample[idx<T>] = sample<T>;
    k.grid_sample_backward[idx<T>] = sample_backward<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
