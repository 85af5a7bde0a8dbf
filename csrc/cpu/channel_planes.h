// Batch normalisation of planes of float, on explicit vectors. Short planes of neighbouring channels pass together:
// they lie next to each other in memory, and lanes are added up once per channel instead of once per plane.
#pragma once
#include "cpu/past_caches.h"
#include "cpu/vector_rows.h"
#include "functors/math.h"
#include "kernels/norm.h"

namespace pydlx::PYDLX_ISA {
namespace {
namespace planes {

using vmath::kWidth;
using vmath::V;

constexpr int kTogether = 16;                 // channels
constexpr std::int64_t kTask = 16384;         // elements per parallel unit
constexpr std::int64_t kTogetherSize = 4096;  // elements of one sample's planes that pass together: a prefetched run
constexpr std::int64_t kPlanes = 64;          // planes summed before the partial sum joins the total
constexpr std::int64_t kRun = 256 * kWidth;   // elements of a plane summed by four vectors

// How many channels pass together: a function of the shape alone. Few channels are left to share among threads.
inline std::int64_t channels_together(const ChannelNorm& k) {
  std::int64_t count = kTogetherSize / k.spatial;
  count = count < 1 ? 1 : count > kTogether ? kTogether : count;
  while (count > 1 && k.channels / count < 16) count /= 2;
  return count;
}

// Calls fn(first channel, channels) for every group of them.
template <class F>
PYDLX_INLINE void each_group(const ChannelNorm& k, const F& fn) {
  const std::int64_t together = channels_together(k), work = together * k.batch * k.spatial;
  parallel_for((k.channels + together - 1) / together, work >= kTask ? 1 : kTask / (work + 1) + 1,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const std::int64_t c = i * together, left = k.channels - c;
                   fn(c, static_cast<int>(left < together ? left : together));
                 }
               });
}

// a[c], b[c] <- sums over a group's planes: f(channel in the group, position, count, x, y) adds the vector of a plane's
// elements from `position` on to x and y, `count` lanes of it. Lanes are added up, and join the total in double
// precision, once per run of a long plane or once for some short planes.
template <class F>
PYDLX_INLINE void sums(const ChannelNorm& k, std::int64_t first, int channels, double* a, double* b, const F& f) {
  V part[kTogether][2];
  for (int c = 0; c < channels; ++c) a[c] = b[c] = 0;
  for (std::int64_t n0 = 0; n0 < k.batch; n0 += kPlanes) {
    for (int c = 0; c < channels; ++c) part[c][0] = part[c][1] = V{};
    for (std::int64_t n = n0; n < k.batch && n < n0 + kPlanes; ++n)
      for (int c = 0; c < channels; ++c) {
        const std::int64_t at = (n * k.channels + first + c) * k.spatial, end = at + k.spatial;
        std::int64_t i = at;
        while (true) {
          const bool last = end - i < kRun;
          V x[4] = {}, y[4] = {};
          for (const std::int64_t stop = last ? end : i + kRun; i + 4 * kWidth <= stop; i += 4 * kWidth)
#pragma GCC unroll 4
            for (int u = 0; u < 4; ++u) f(c, i + u * kWidth, kWidth, x[u], y[u]);
          if (last) {
            for (; i + kWidth <= end; i += kWidth) f(c, i, kWidth, x[0], y[0]);
            if (i < end) f(c, i, static_cast<int>(end - i), x[1], y[1]);
          }
          const V sum = (x[0] + x[1]) + (x[2] + x[3]), other = (y[0] + y[1]) + (y[2] + y[3]);
          if (last) {
            part[c][0] += sum;
            part[c][1] += other;
            break;
          }
          a[c] += vmath::lane_sum(sum);
          b[c] += vmath::lane_sum(other);
        }
      }
    for (int c = 0; c < channels; ++c) a[c] += vmath::lane_sum(part[c][0]), b[c] += vmath::lane_sum(part[c][1]);
  }
}

inline void group_stats(const ChannelNorm& k, std::int64_t first, int channels) {
  const float* x = static_cast<const float*>(k.x);
  const double count = static_cast<double>(k.batch * k.spatial);
  double total[kTogether], unused[kTogether];
  float m[kTogether];
  // Two passes: centred squares cannot cancel.
  sums(k, first, channels, total, unused,
       [&](int, std::int64_t at, int lanes, V& a, V&)
           __attribute__((always_inline)) { a += load_count(x + at, lanes); });
  for (int c = 0; c < channels; ++c) m[c] = static_cast<float>(total[c] / count);
  sums(k, first, channels, total, unused,
       [&](int c, std::int64_t at, int lanes, V& a, V&) __attribute__((always_inline)) {
         const V d = load_count(x + at, lanes) - m[c];
         a += lanes == kWidth ? d * d : (vmath::lane_numbers() < lanes ? d * d : V{});
       });
  for (int c = 0; c < channels; ++c) {
    const float v = static_cast<float>(total[c] / count);
    static_cast<float*>(k.mean)[first + c] = m[c];
    static_cast<float*>(k.var)[first + c] = v;
    static_cast<float*>(k.rstd)[first + c] = 1.0f / math::sqrt(v + static_cast<float>(k.eps));
  }
}
inline void stats(const ChannelNorm& k) {
  each_group(k, [&](std::int64_t first, int channels) { group_stats(k, first, channels); });
}

inline bool past_caches(const ChannelNorm& k) {
  return vmath::rows_past_caches(k.out, k.batch * k.channels, k.spatial);
}

// Plane p of x, normalised by the statistics of channel c.
template <bool past>
PYDLX_INLINE void apply_plane(const ChannelNorm& k, std::int64_t p, std::int64_t c) {
  const float *w = static_cast<const float*>(k.weight), *b = static_cast<const float*>(k.bias);
  const float m = static_cast<const float*>(k.mean)[c], s = static_cast<const float*>(k.rstd)[c],
              scale = w ? s * w[c] : s, shift = b ? b[c] : 0.0f;
  const float* in = static_cast<const float*>(k.x) + p * k.spatial;
  float* out = static_cast<float*>(k.out) + p * k.spatial;
  vmath::each_vector(k.spatial, [&](std::int64_t i, int count) __attribute__((always_inline)) {
    vmath::put<past>(out + i, (load_count(in + i, count) - m) * scale + shift, count);
  });
}

template <bool past>
void apply(const ChannelNorm& k) {
  parallel_for(k.batch * k.channels, k.spatial >= kTask ? 1 : kTask / (k.spatial + 1) + 1,
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t p = begin, c = begin % k.channels; p < end; ++p, c = c + 1 < k.channels ? c + 1 : 0)
                   apply_plane<past>(k, p, c);
                 if (past) past_caches_done();
               });
}

// Both at once: a channel's planes are still in the second-level cache when its statistics are known.
template <bool past>
void train(const ChannelNorm& k) {
  each_group(k, [&](std::int64_t first, int channels) {
    group_stats(k, first, channels);
    for (std::int64_t n = 0; n < k.batch; ++n)
      for (int c = 0; c < channels; ++c) apply_plane<past>(k, n * k.channels + first + c, first + c);
    if (past) past_caches_done();
  });
}

// dx = w rstd (dy - mean(dy) - xhat mean(dy xhat)); in evaluation the statistics are constants: dx = w rstd dy.
template <bool past>
void backward(const ChannelNorm& k) {
  const float *x = static_cast<const float*>(k.x), *dy = static_cast<const float*>(k.dy),
              *mean = static_cast<const float*>(k.mean), *rstd = static_cast<const float*>(k.rstd),
              *w = static_cast<const float*>(k.weight);
  float *dw = static_cast<float*>(k.dweight), *db = static_cast<float*>(k.dbias);
  const double count = static_cast<double>(k.batch * k.spatial);
  const bool summed = dw || db || k.training;
  each_group(k, [&](std::int64_t first, int channels) {
    double total[kTogether] = {}, total_x[kTogether] = {};
    float scale[kTogether], mean_g[kTogether], slope[kTogether];
    if (summed)
      sums(k, first, channels, total, total_x,
           [&](int c, std::int64_t at, int lanes, V& a, V& b) __attribute__((always_inline)) {
             const V g = load_count(dy + at, lanes);  // 0 in lanes beyond the plane
             a += g;
             b += g * (load_count(x + at, lanes) - mean[first + c]);
           });
    for (int c = 0; c < channels; ++c) {
      const float s = rstd[first + c];
      total_x[c] *= s;
      if (dw) dw[first + c] = static_cast<float>(total_x[c]);
      if (db) db[first + c] = static_cast<float>(total[c]);
      scale[c] = w ? s * w[first + c] : s;
      mean_g[c] = k.training ? static_cast<float>(total[c] / count) : 0.0f;
      slope[c] = k.training ? static_cast<float>(s * total_x[c] / count) : 0.0f;
    }
    if (!k.out) return;
    for (std::int64_t n = 0; n < k.batch; ++n)
      for (int c = 0; c < channels; ++c) {
        const std::int64_t at = (n * k.channels + first + c) * k.spatial;
        const float m = mean[first + c], sc = scale[c], mg = mean_g[c], sl = slope[c], *g = dy + at, *p = x + at;
        float* out = static_cast<float*>(k.out) + at;
        vmath::each_vector(k.spatial, [&](std::int64_t i, int lanes) __attribute__((always_inline)) {
          vmath::put<past>(out + i, sc * (load_count(g + i, lanes) - mg - (load_count(p + i, lanes) - m) * sl), lanes);
        });
      }
    if (past) past_caches_done();
  });
}

}  // namespace planes
}  // namespace
}  // namespace pydlx::PYDLX_ISA
