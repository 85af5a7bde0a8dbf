// Spatial transformer sampling (Jaderberg et al. 2015). Points are handled 64 at a time: their corner offsets and
// weights are computed once and used for all channels. The image gradient is split over images and channels, so no two
// threads add to one element.
#include "cpu/isa.h"
#include "functors/types.h"
#include "kernels/resample.h"

namespace pydlx::PYDLX_ISA {
namespace {

constexpr int kSpan = 64;

// A coordinate in pixels and its derivative with respect to the grid value.
template <class T>
struct Place {
  T at, slope;
};

template <class T>
Place<T> place_of(T g, std::int64_t size, const GridSample& s) {
  const T n = static_cast<T>(size);
  Place<T> p = s.align_corners ? Place<T>{(g + 1) / 2 * (n - 1), (n - 1) / 2} : Place<T>{((g + 1) * n - 1) / 2, n / 2};
  if (s.padding == GridSample::Padding::reflection) {
    const T low = s.align_corners ? T(0) : T(-0.5), span = s.align_corners ? n - 1 : n;
    if (span <= 0) {
      p = {0, 0};
    } else {
      T d = p.at - low;
      if (d < 0) {
        d = -d;
        p.slope = -p.slope;
      }
      const T turns = sizeof(T) == 4 ? static_cast<T>(__builtin_floorf(static_cast<float>(d / span)))
                                     : static_cast<T>(__builtin_floor(d / span));
      const T rest = d - turns * span;
      const T half = turns * T(0.5);
      const bool even = half == (sizeof(T) == 4 ? static_cast<T>(__builtin_floorf(static_cast<float>(half)))
                                                : static_cast<T>(__builtin_floor(half)));
      p.at = even ? rest + low : span - rest + low;
      if (!even) p.slope = -p.slope;
    }
  }
  if (s.padding != GridSample::Padding::zeros) {
    if (p.at <= 0) p = {0, 0};
    if (p.at >= n - 1) p = {n - 1, 0};
  }
  // Far outside (and NaN): any place without neighbours in the image, small enough to become an integer.
  if (!(p.at > T(-1e9) && p.at < T(1e9))) p = {T(-100), 0};
  return p;
}

template <class T>
struct Corners {
  std::int64_t offset[8][kSpan];  // -1 for corners outside
  T weight[8][kSpan];
  T slope[3][8][kSpan];  // derivative of the weight with respect to each grid coordinate (x first)
};

template <class T>
T floor_of(T v) {
  return sizeof(T) == 4 ? static_cast<T>(__builtin_floorf(static_cast<float>(v))) : static_cast<T>(__builtin_floor(v));
}
template <class T>
T nearest_of(T v) {
  return sizeof(T) == 4 ? static_cast<T>(__builtin_rintf(static_cast<float>(v))) : static_cast<T>(__builtin_rint(v));
}

template <class T>
int find_corners(const GridSample& s, std::int64_t image, std::int64_t first, std::int64_t n, bool slopes,
                 Corners<T>& c) {
  const T* grid = static_cast<const T*>(s.grid) + (image * s.points + first) * s.axes;
  const int axes = s.axes, corners = s.mode == GridSample::Mode::nearest ? 1 : 1 << axes;
  for (std::int64_t j = 0; j < n; ++j) {
    std::int64_t low[3];
    T part[3][2], slope[3];  // per axis, x first: weights of the lower and upper neighbour
    for (int a = 0; a < axes; ++a) {
      const Place<T> p = place_of(grid[j * axes + a], s.in[2 - a], s);
      if (corners == 1) {
        low[a] = static_cast<std::int64_t>(nearest_of(p.at));
        part[a][0] = 1;
        slope[a] = 0;
      } else {
        const T base = floor_of(p.at);
        low[a] = static_cast<std::int64_t>(base);
        part[a][1] = p.at - base;
        part[a][0] = 1 - part[a][1];
        slope[a] = p.slope;
      }
    }
    for (int k = 0; k < corners; ++k) {
      bool inside = true;
      std::int64_t offset = 0;
      T w = 1;
      for (int a = axes - 1; a >= 0; --a) {
        const std::int64_t i = low[a] + (k >> a & 1), size = s.in[2 - a];
        inside = inside && i >= 0 && i < size;
        offset = offset * size + i;
        w *= part[a][k >> a & 1];
      }
      c.offset[k][j] = inside ? offset : -1;
      c.weight[k][j] = w;
      if (!slopes) continue;
      for (int a = 0; a < axes; ++a) {
        T d = slope[a] * ((k >> a & 1) ? T(1) : T(-1));
        for (int o = 0; o < axes; ++o)
          if (o != a) d *= part[o][k >> o & 1];
        c.slope[a][k][j] = d;
      }
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

template <class T>
void add_grid_sample(ResampleKernels& k) {
  constexpr int t = static_cast<int>(DTypeOf<T>::value);
  k.grid_sample[t] = sample<T>;
  k.grid_sample_backward[t] = sample_backward<T>;
}

}  // namespace

void register_grid_sample(KernelTable& t) {
  add_grid_sample<float>(family<ResampleKernels>(t));
  add_grid_sample<double>(family<ResampleKernels>(t));
}

}  // namespace pydlx::PYDLX_ISA
