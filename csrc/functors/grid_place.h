// Where a point of a sampling grid lies in an image. Shared by the CPU and CUDA backends.
#pragma once
#include "functors/math.h"
#include "kernels/resample.h"

namespace pydlx::functors {

// A coordinate in pixels and its derivative with respect to the grid value.
template <class T>
struct GridPlace {
  T at, slope;
};

template <class T>
PYDLX_HD GridPlace<T> grid_place(T g, std::int64_t size, const GridSample& s) {
  const T n = static_cast<T>(size);
  GridPlace<T> p =
      s.align_corners ? GridPlace<T>{(g + 1) / 2 * (n - 1), (n - 1) / 2} : GridPlace<T>{((g + 1) * n - 1) / 2, n / 2};
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
      const T turns = math::floor(d / span);
      const T rest = d - turns * span;
      const T half = turns * T(0.5);
      const bool even = half == math::floor(half);
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

// The neighbours of one point along every axis (x first), with their weights.
template <class T>
struct GridPoint {
  std::int64_t low[3];
  T part[3][2], slope[3];  // weights of the lower and upper neighbour, derivative of the upper one's
};

template <class T>
PYDLX_HD GridPoint<T> grid_point(const GridSample& s, const T* grid) {
  GridPoint<T> p;
  for (int a = 0; a < s.axes; ++a) {
    const GridPlace<T> place = grid_place(grid[a], s.in[2 - a], s);
    if (s.mode == GridSample::Mode::nearest) {
      p.low[a] = static_cast<std::int64_t>(math::round(place.at));
      p.part[a][0] = 1;
      p.part[a][1] = 0;
      p.slope[a] = 0;
    } else {
      const T base = math::floor(place.at);
      p.low[a] = static_cast<std::int64_t>(base);
      p.part[a][1] = place.at - base;
      p.part[a][0] = 1 - p.part[a][1];
      p.slope[a] = place.slope;
    }
  }
  return p;
}

PYDLX_HD int grid_corners(const GridSample& s) { return s.mode == GridSample::Mode::nearest ? 1 : 1 << s.axes; }

// Corner k of the point: its offset in the image, or -1 outside, and its weight.
template <class T>
PYDLX_HD std::int64_t grid_corner(const GridSample& s, const GridPoint<T>& p, int k, T& weight) {
  bool inside = true;
  std::int64_t offset = 0;
  weight = 1;
  for (int a = s.axes - 1; a >= 0; --a) {
    const std::int64_t i = p.low[a] + (k >> a & 1), size = s.in[2 - a];
    inside = inside && i >= 0 && i < size;
    offset = offset * size + i;
    weight *= p.part[a][k >> a & 1];
  }
  return inside ? offset : -1;
}

// Derivative of corner k's weight with respect to grid coordinate a.
template <class T>
PYDLX_HD T grid_slope(const GridSample& s, const GridPoint<T>& p, int k, int a) {
  T d = p.slope[a] * ((k >> a & 1) ? T(1) : T(-1));
  for (int o = 0; o < s.axes; ++o)
    if (o != a) d *= p.part[o][k >> o & 1];
  return d;
}

}  // namespace pydlx::functors
