// Batch and group normalisation of x[batch, channels, spatial]. Sums are taken per (sample, channel) plane in fixed
// lanes and the planes are added in order of the samples, so no result depends on the number of threads.
#include "cpu/channel_planes.h"
#include "cpu/isa.h"
#include "functors/math.h"
#include "functors/running.h"
#include "functors/types.h"
#include "kernels/norm.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::bits_of, functors::bits_t, functors::compute_t;

constexpr int kLanes = 32;
constexpr std::int64_t kRowBlock = 256;  // rows summed before the partial sum joins the total

// Two sums over [0, n) in one pass: f adds to a and b.
template <class A, class F>
inline __attribute__((always_inline)) void plane_sums(std::int64_t n, A& a, A& b, const F& f) {
  A la[kLanes] = {}, lb[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma omp simd
    for (int l = 0; l < kLanes; ++l) f(i + l, la[l], lb[l]);
  }
  for (int l = 0; i < n; ++i, ++l) f(i, la[l], lb[l]);
  for (int w = kLanes / 2; w > 0; w /= 2)
    for (int l = 0; l < w; ++l) la[l] += la[l + w], lb[l] += lb[l + w];
  a = la[0];
  b = lb[0];
}

std::int64_t grain_for(std::int64_t elements) { return elements >= 16384 ? 1 : 16384 / (elements + 1) + 1; }

// ---- batch norm
// ------------------------------------------------------------------------------------------------------------------

// Runs per_plane(channel) over channels when planes are long, else per_columns(first channel, width) over blocks of 64
// channels.
template <class P, class C>
inline __attribute__((always_inline)) void over_channels(const ChannelNorm& k, const P& per_channel,
                                                         const C& per_columns) {
  if (k.spatial > 1)
    parallel_for(k.channels, grain_for(k.batch * k.spatial), [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t c = b; c < e; ++c) per_channel(c);
    });
  else
    parallel_for((k.channels + 63) / 64, grain_for(k.batch * 64), [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t block = b; block < e; ++block) {
        const std::int64_t c0 = block * 64;
        per_columns(c0, static_cast<int>(k.channels - c0 < 64 ? k.channels - c0 : 64));
      }
    });
}

// Per column sums of up to 64 columns over rows [first, rows): f(row, column, a, b) adds to a and b.
template <class A, class F>
inline __attribute__((always_inline)) void column_sums(std::int64_t rows, int width, A (&a)[64], A (&b)[64], const F& f,
                                                       std::int64_t first = 0) {
  for (int l = 0; l < 64; ++l) a[l] = b[l] = 0;
  for (std::int64_t r0 = first; r0 < rows; r0 += kRowBlock) {
    A pa[64] = {}, pb[64] = {};
    const std::int64_t r1 = r0 + kRowBlock < rows ? r0 + kRowBlock : rows;
    std::int64_t r = r0;
    for (; r + 4 <= r1; r += 4)  // four rows at a time: the sums are read and written once for them
      for (int l = 0; l < width; ++l) {
        A sa = pa[l], sb = pb[l];
        for (int k = 0; k < 4; ++k) f(r + k, l, sa, sb);
        pa[l] = sa;
        pb[l] = sb;
      }
    for (; r < r1; ++r)
      for (int l = 0; l < width; ++l) f(r, l, pa[l], pb[l]);
    for (int l = 0; l < 64; ++l) a[l] += pa[l], b[l] += pb[l];
  }
}

// Few channels: threads share the rows instead, in segments whose sums are added in order. How many depends on the
// shape alone; there are at most kShares blocks of a segment and 64 channels. 1: the blocks are enough.
constexpr std::int64_t kShares = 16, kSegmentRows = 512, kFewChannels = kShares / 2 * 64;
std::int64_t row_segments(const ChannelNorm& k) {
  if (k.spatial > 1 || k.channels > kFewChannels) return 1;
  const std::int64_t most = kShares / ((k.channels + 63) / 64), long_enough = k.batch / kSegmentRows;
  return long_enough < 2 ? 1 : long_enough < most ? long_enough : most;
}
std::int64_t segment_rows(const ChannelNorm& k, std::int64_t segments) { return (k.batch + segments - 1) / segments; }

// a[c], b[c] <- the sums of all channels; f as above, with the channel as its column.
template <class A, class F>
inline __attribute__((always_inline)) void segment_sums(const ChannelNorm& k, std::int64_t segments, A* a, A* b,
                                                        const F& f) {
  A part[kShares][2][64];
  const std::int64_t blocks = (k.channels + 63) / 64, rows = segment_rows(k, segments);
  parallel_for(blocks * segments, grain_for(rows * 64), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t c0 = task / segments * 64, first = task % segments * rows;
      const std::int64_t last = first + rows < k.batch ? first + rows : k.batch;
      const auto add = [&](std::int64_t r, int l, A& x, A& y) { f(r, c0 + l, x, y); };
      if (k.channels - c0 >= 64)
        column_sums<A>(last, 64, part[task][0], part[task][1], add, first);
      else
        column_sums<A>(last, static_cast<int>(k.channels - c0), part[task][0], part[task][1], add, first);
    }
  });
  for (std::int64_t c = 0; c < k.channels; ++c) {
    a[c] = b[c] = 0;
    for (std::int64_t s = 0; s < segments; ++s) {
      a[c] += part[c / 64 * segments + s][0][c % 64];
      b[c] += part[c / 64 * segments + s][1][c % 64];
    }
  }
}

template <class T>
void batch_stats(const ChannelNorm& k) {
  using A = compute_t<T>;
  if constexpr (__is_same(T, float))
    if (k.spatial > 1) return planes::stats(k);
  const T* x = static_cast<const T*>(k.x);
  A *mean = static_cast<A*>(k.mean), *rstd = static_cast<A*>(k.rstd), *var = static_cast<A*>(k.var);
  const A count = static_cast<A>(k.batch * k.spatial), eps = static_cast<A>(k.eps);
  auto finish = [&](std::int64_t c, A m, A squares) {
    const A v = squares / count;
    mean[c] = m;
    var[c] = v;
    rstd[c] = A(1) / math::sqrt(v + eps);
  };
  if (const std::int64_t segments = row_segments(k); segments > 1) {
    A m[kFewChannels], squares[kFewChannels], unused[kFewChannels];
    segment_sums<A>(k, segments, m, unused,
                    [&](std::int64_t r, std::int64_t c, A& a, A&) { a += static_cast<A>(x[r * k.channels + c]); });
    for (std::int64_t c = 0; c < k.channels; ++c) m[c] /= count;
    segment_sums<A>(k, segments, squares, unused, [&](std::int64_t r, std::int64_t c, A& a, A&) {
      const A d = static_cast<A>(x[r * k.channels + c]) - m[c];
      a += d * d;
    });
    for (std::int64_t c = 0; c < k.channels; ++c) finish(c, m[c], squares[c]);
    return;
  }
  over_channels(
      k,
      [&](std::int64_t c) {  // two passes: centred squares cannot cancel
        A m = 0, squares = 0, s, unused;
        for (std::int64_t n = 0; n < k.batch; ++n) {
          const T* p = x + (n * k.channels + c) * k.spatial;
          plane_sums<A>(k.spatial, s, unused, [&](std::int64_t i, A& a, A&) { a += static_cast<A>(p[i]); });
          m += s;
        }
        m /= count;
        for (std::int64_t n = 0; n < k.batch; ++n) {
          const T* p = x + (n * k.channels + c) * k.spatial;
          plane_sums<A>(k.spatial, s, unused, [&](std::int64_t i, A& a, A&) {
            const A d = static_cast<A>(p[i]) - m;
            a += d * d;
          });
          squares += s;
        }
        finish(c, m, squares);
      },
      [&](std::int64_t c0, int width) {
        A m[64], squares[64], unused[64];
        column_sums<A>(k.batch, width, m, unused,
                       [&](std::int64_t r, int l, A& a, A&) { a += static_cast<A>(x[r * k.channels + c0 + l]); });
        for (int l = 0; l < 64; ++l) m[l] /= count;
        column_sums<A>(k.batch, width, squares, unused, [&](std::int64_t r, int l, A& a, A&) {
          const A d = static_cast<A>(x[r * k.channels + c0 + l]) - m[l];
          a += d * d;
        });
        for (int l = 0; l < width; ++l) finish(c0 + l, m[l], squares[l]);
      });
}

template <class T>
void batch_apply(const ChannelNorm& k) {
  using A = compute_t<T>;
  if constexpr (__is_same(T, float))
    if (k.spatial > 1) return planes::past_caches(k) ? planes::apply<true>(k) : planes::apply<false>(k);
  const T* x = static_cast<const T*>(k.x);
  auto* y = static_cast<bits_t<T>*>(k.out);
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd),
          *w = static_cast<const A*>(k.weight), *b = static_cast<const A*>(k.bias);
  if (k.spatial > 1) {
    parallel_for(k.batch * k.channels, grain_for(k.spatial), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t p = begin; p < end; ++p) {
        const std::int64_t c = p % k.channels;
        const A m = mean[c], scale = w ? rstd[c] * w[c] : rstd[c], shift = b ? b[c] : A(0);
        const T* in = x + p * k.spatial;
        auto* out = y + p * k.spatial;
#pragma omp simd
        for (std::int64_t i = 0; i < k.spatial; ++i)
          out[i] = bits_of(static_cast<T>((static_cast<A>(in[i]) - m) * scale + shift));
      }
    });
    return;
  }
  parallel_for(k.batch, grain_for(k.channels), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const T* in = x + r * k.channels;
      auto* out = y + r * k.channels;
#pragma omp simd
      for (std::int64_t c = 0; c < k.channels; ++c) {
        const A scale = w ? rstd[c] * w[c] : rstd[c], shift = b ? b[c] : A(0);
        out[c] = bits_of(static_cast<T>((static_cast<A>(in[c]) - mean[c]) * scale + shift));
      }
    }
  });
}

template <class T>
void move_running(const ChannelNorm& k) {
  if (!k.running_mean && !k.running_var) return;
  using A = compute_t<T>;
  const functors::Running<A> running(k);
  for (std::int64_t c = 0; c < k.channels; ++c)
    running.move(c, static_cast<const A*>(k.mean)[c], static_cast<const A*>(k.var)[c]);
}
template <class T>
void batch_stats_running(const ChannelNorm& k) {
  batch_stats<T>(k);
  move_running<T>(k);
}
template <class T>
void batch_fixed(const ChannelNorm& k) {
  for (std::int64_t c = 0; c < k.channels; ++c) functors::use_running<compute_t<T>>(k, c);
}

void batch_train(const ChannelNorm& k) {
  constexpr std::int64_t kShared = 16;  // channels: fewer are no fair shares for threads, planes are
  if (k.spatial > 1 && k.channels >= kShared) {
    planes::past_caches(k) ? planes::train<true>(k) : planes::train<false>(k);
  } else {
    batch_stats<float>(k);
    batch_apply<float>(k);
  }
  move_running<float>(k);
}

// dx = w rstd (dy - mean(dy) - xhat mean(dy xhat)); in evaluation the statistics are constants: dx = w rstd dy.
template <class T>
void batch_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  if constexpr (__is_same(T, float))
    if (k.spatial > 1) return k.out && planes::past_caches(k) ? planes::backward<true>(k) : planes::backward<false>(k);
  const T *x = static_cast<const T*>(k.x), *dy = static_cast<const T*>(k.dy);
  auto* dx = static_cast<bits_t<T>*>(k.out);
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd),
          *w = static_cast<const A*>(k.weight);
  A *dw = static_cast<A*>(k.dweight), *db = static_cast<A*>(k.dbias);
  const A count = static_cast<A>(k.batch * k.spatial);
  const bool sums = dw || db || k.training;
  if (const std::int64_t segments = row_segments(k); segments > 1) {
    A total[kFewChannels] = {}, total_x[kFewChannels] = {}, mean_g[kFewChannels], slope[kFewChannels],
      scale[kFewChannels];
    if (sums)
      segment_sums<A>(k, segments, total, total_x, [&](std::int64_t r, std::int64_t c, A& a, A& b) {
        const A v = static_cast<A>(dy[r * k.channels + c]);
        a += v;
        b += v * (static_cast<A>(x[r * k.channels + c]) - mean[c]);
      });
    for (std::int64_t c = 0; c < k.channels; ++c) {
      total_x[c] *= rstd[c];
      if (dw) dw[c] = total_x[c];
      if (db) db[c] = total[c];
      scale[c] = w ? rstd[c] * w[c] : rstd[c];
      mean_g[c] = k.training ? total[c] / count : A(0);
      slope[c] = k.training ? rstd[c] * total_x[c] / count : A(0);
    }
    if (!dx) return;
    parallel_for(k.batch, grain_for(k.channels), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t at = r * k.channels;
#pragma omp simd
        for (std::int64_t c = 0; c < k.channels; ++c)
          dx[at + c] = bits_of(static_cast<T>(
              scale[c] * (static_cast<A>(dy[at + c]) - mean_g[c] - (static_cast<A>(x[at + c]) - mean[c]) * slope[c])));
      }
    });
    return;
  }
  over_channels(
      k,
      [&](std::int64_t c) {
        const A m = mean[c], s = rstd[c], scale = w ? s * w[c] : s;
        A total = 0, total_x = 0;
        for (std::int64_t n = 0; n < k.batch && sums; ++n) {
          const std::int64_t at = (n * k.channels + c) * k.spatial;
          const T *g = dy + at, *p = x + at;
          A a, b;
          plane_sums<A>(k.spatial, a, b, [&](std::int64_t i, A& la, A& lb) {
            const A v = static_cast<A>(g[i]);
            la += v;
            lb += v * (static_cast<A>(p[i]) - m);
          });
          total += a;
          total_x += b;
        }
        total_x *= s;
        if (dw) dw[c] = total_x;
        if (db) db[c] = total;
        if (!dx) return;
        const A mean_g = k.training ? total / count : A(0), slope = k.training ? s * total_x / count : A(0);
        for (std::int64_t n = 0; n < k.batch; ++n) {
          const std::int64_t at = (n * k.channels + c) * k.spatial;
          const T *g = dy + at, *p = x + at;
          auto* out = dx + at;
#pragma omp simd
          for (std::int64_t i = 0; i < k.spatial; ++i)
            out[i] =
                bits_of(static_cast<T>(scale * (static_cast<A>(g[i]) - mean_g - (static_cast<A>(p[i]) - m) * slope)));
        }
      },
      [&](std::int64_t c0, int width) {
        A total[64] = {}, total_x[64] = {};
        const A *m = mean + c0, *s = rstd + c0;
        if (sums)
          column_sums<A>(k.batch, width, total, total_x, [&](std::int64_t r, int l, A& a, A& b) {
            const std::int64_t at = r * k.channels + c0 + l;
            const A v = static_cast<A>(dy[at]);
            a += v;
            b += v * (static_cast<A>(x[at]) - m[l]);
          });
        A mean_g[64] = {}, slope[64] = {}, scale[64] = {};
        for (int l = 0; l < width; ++l) {
          total_x[l] *= s[l];
          if (dw) dw[c0 + l] = total_x[l];
          if (db) db[c0 + l] = total[l];
          scale[l] = w ? s[l] * w[c0 + l] : s[l];
          if (k.training) mean_g[l] = total[l] / count, slope[l] = s[l] * total_x[l] / count;
        }
        if (!dx) return;
        for (std::int64_t r = 0; r < k.batch; ++r)
          for (int l = 0; l < width; ++l) {
            const std::int64_t at = r * k.channels + c0 + l;
            dx[at] = bits_of(static_cast<T>(
                scale[l] * (static_cast<A>(dy[at]) - mean_g[l] - (static_cast<A>(x[at]) - m[l]) * slope[l])));
          }
      });
}

// ---- group norm
// ------------------------------------------------------------------------------------------------------------------

template <class T>
void group_forward(const ChannelNorm& k) {
  using A = compute_t<T>;
  const A *w = static_cast<const A*>(k.weight), *b = static_cast<const A*>(k.bias);
  const std::int64_t per_group = k.channels / k.groups, length = per_group * k.spatial;
  parallel_for(k.batch * k.groups, grain_for(length), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const T* x = static_cast<const T*>(k.x) + g * length;
      auto* y = static_cast<bits_t<T>*>(k.out) + g * length;
      A sum, squares, unused;
      plane_sums<A>(length, sum, unused, [&](std::int64_t i, A& a, A&) { a += static_cast<A>(x[i]); });
      const A m = sum / static_cast<A>(length);
      plane_sums<A>(length, squares, unused, [&](std::int64_t i, A& a, A&) {
        const A d = static_cast<A>(x[i]) - m;
        a += d * d;
      });
      const A s = A(1) / math::sqrt(squares / static_cast<A>(length) + static_cast<A>(k.eps));
      static_cast<A*>(k.mean)[g] = m;
      static_cast<A*>(k.rstd)[g] = s;
      for (std::int64_t j = 0; j < per_group; ++j) {
        const std::int64_t c = g % k.groups * per_group + j;
        const A scale = w ? s * w[c] : s, shift = b ? b[c] : A(0);
        const T* in = x + j * k.spatial;
        auto* out = y + j * k.spatial;
#pragma omp simd
        for (std::int64_t i = 0; i < k.spatial; ++i)
          out[i] = bits_of(static_cast<T>((static_cast<A>(in[i]) - m) * scale + shift));
      }
    }
  });
}

template <class T>
void group_backward(const ChannelNorm& k) {
  using A = compute_t<T>;
  const A *mean = static_cast<const A*>(k.mean), *rstd = static_cast<const A*>(k.rstd),
          *w = static_cast<const A*>(k.weight);
  A *sum_g = static_cast<A*>(k.scratch),
    *sum_gx = sum_g + k.batch * k.channels;  // per (sample, channel): sum dy, sum dy xhat
  const std::int64_t per_group = k.channels / k.groups, length = per_group * k.spatial;
  parallel_for(k.batch * k.groups, grain_for(length), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t g = begin; g < end; ++g) {
      const std::int64_t plane0 = g * per_group, c0 = g % k.groups * per_group;
      const A m = mean[g], s = rstd[g];
      A mean_h = 0, mean_hx = 0;  // means of h = dy w and of h xhat over the group
      for (std::int64_t j = 0; j < per_group; ++j) {
        const std::int64_t at = (plane0 + j) * k.spatial;
        const T *dy = static_cast<const T*>(k.dy) + at, *x = static_cast<const T*>(k.x) + at;
        A a, b;
        plane_sums<A>(k.spatial, a, b, [&](std::int64_t i, A& la, A& lb) {
          const A v = static_cast<A>(dy[i]);
          la += v;
          lb += v * ((static_cast<A>(x[i]) - m) * s);
        });
        sum_g[plane0 + j] = a;
        sum_gx[plane0 + j] = b;
        const A scale = w ? w[c0 + j] : A(1);
        mean_h += scale * a;
        mean_hx += scale * b;
      }
      if (!k.out) continue;
      mean_h /= static_cast<A>(length);
      mean_hx /= static_cast<A>(length);
      for (std::int64_t j = 0; j < per_group; ++j) {
        const std::int64_t at = (plane0 + j) * k.spatial;
        const T *dy = static_cast<const T*>(k.dy) + at, *x = static_cast<const T*>(k.x) + at;
        auto* dx = static_cast<bits_t<T>*>(k.out) + at;
        const A scale = w ? w[c0 + j] : A(1);
#pragma omp simd
        for (std::int64_t i = 0; i < k.spatial; ++i)
          dx[i] = bits_of(
              static_cast<T>(s * (static_cast<A>(dy[i]) * scale - mean_h - (static_cast<A>(x[i]) - m) * s * mean_hx)));
      }
    }
  });
  A *dw = static_cast<A*>(k.dweight), *db = static_cast<A*>(k.dbias);
  if (!dw && !db) return;
  parallel_for(k.channels, grain_for(k.batch), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      A a = 0, b = 0;
      for (std::int64_t n = 0; n < k.batch; ++n) {
        a += sum_g[n * k.channels + c];
        b += sum_gx[n * k.channels + c];
      }
      if (dw) dw[c] = b;
      if (db) db[c] = a;
    }
  });
}

}  // namespace

void register_channel_norm(KernelTable& t) {
  NormKernels& k = family<NormKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.batch_norm_stats[idx<T>] = batch_stats_running<T>;
    k.batch_norm_fixed[idx<T>] = batch_fixed<T>;
    k.batch_norm_apply[idx<T>] = batch_apply<T>;
    k.batch_norm_backward[idx<T>] = batch_backward<T>;
    k.group_norm[idx<T>] = group_forward<T>;
    k.group_norm_backward[idx<T>] = group_backward<T>;
  });
  k.batch_norm_train[idx<float>] = batch_train;
}

}  // namespace pydlx::PYDLX_ISA
