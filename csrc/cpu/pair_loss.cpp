// Elementwise losses: one pass forward (values or sums), one pass backward.
#include "functors/pair_loss.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
#include "functors/types.h"
#include "kernels/pair_loss.h"
#include "kernels/pointwise.h"

namespace pydlx::PYDLX_ISA {
namespace {

using namespace functors;

constexpr int kLanes = 32;
constexpr std::int64_t kGrain = 8192;

template <PairLossOp op, class T>
std::int64_t forward(const PairLoss& k) {
  using A = compute_t<T>;
  const T *x = static_cast<const T*>(k.x), *t = static_cast<const T*>(k.t);
  const A param = static_cast<A>(k.param);
  FirstBad bad;
  auto value = [&](std::int64_t i) { return Pair<op>::value(static_cast<A>(x[i]), static_cast<A>(t[i]), param); };
  if constexpr (op == PairLossOp::bce)
    parallel_for(k.n, kGrain, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t i = b; i < e; ++i)
        if (!(static_cast<A>(x[i]) >= A(0) && static_cast<A>(x[i]) <= A(1))) {
          bad.note(i);
          return;
        }
    });
  if (bad.position >= 0) return bad.position;
  if (k.out)
    parallel_for(k.n, kGrain, [&](std::int64_t b, std::int64_t e) {
      auto* out = static_cast<bits_t<T>*>(k.out);
#pragma omp simd
      for (std::int64_t i = b; i < e; ++i) out[i] = bits_of(static_cast<T>(value(i)));
    });
  if (k.partial)
    parallel_for((k.n + PairLoss::kChunk - 1) / PairLoss::kChunk, 2, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t c = b; c < e; ++c) {
        const std::int64_t begin = c * PairLoss::kChunk,
                           end = begin + PairLoss::kChunk < k.n ? begin + PairLoss::kChunk : k.n;
        A lane[kLanes] = {};
        std::int64_t i = begin;
        for (; i + kLanes <= end; i += kLanes) {
#pragma omp simd
          for (int l = 0; l < kLanes; ++l) lane[l] += value(i + l);
        }
        for (int l = 0; i < end; ++i, ++l) lane[l] += value(i);
        for (int w = kLanes / 2; w > 0; w /= 2)
          for (int l = 0; l < w; ++l) lane[l] += lane[l + w];
        static_cast<A*>(k.partial)[c] = lane[0];
      }
    });
  return -1;
}

template <PairLossOp op, class T>
void backward(const PairLoss& k) {
  using A = compute_t<T>;
  const T *x = static_cast<const T*>(k.x), *t = static_cast<const T*>(k.t);
  auto *dx = static_cast<bits_t<T>*>(k.dx), *dt = static_cast<bits_t<T>*>(k.dt);
  const A* g = static_cast<const A*>(k.grad);
  const A param = static_cast<A>(k.param);
  parallel_for(k.n, kGrain, [&](std::int64_t b, std::int64_t e) {
    const auto write = [&](bits_t<T>* out, const auto& slope) __attribute__((always_inline)) {
      if (k.grad_stride == 0) {
        const A f = g[0];
#pragma omp simd
        for (std::int64_t i = b; i < e; ++i)
          out[i] = bits_of(static_cast<T>(f * slope(static_cast<A>(x[i]), static_cast<A>(t[i]))));
      } else {
#pragma omp simd
        for (std::int64_t i = b; i < e; ++i)
          out[i] = bits_of(static_cast<T>(g[i] * slope(static_cast<A>(x[i]), static_cast<A>(t[i]))));
      }
    };
    if (dx) write(dx, [&](A v, A u) __attribute__((always_inline)) { return Pair<op>::dx(v, u, param); });
    if (dt) write(dt, [&](A v, A u) __attribute__((always_inline)) { return Pair<op>::dt(v, u, param); });
  });
}

template <PairLossOp... ops>
void fill(PairLossKernels& k) {
  each_type(FloatTypes{}, [&]<class T>() {
    ((k.forward[static_cast<int>(ops)][idx<T>] = forward<ops, T>), ...);
    ((k.backward[static_cast<int>(ops)][idx<T>] = backward<ops, T>), ...);
  });
}

}  // namespace

void register_pair_loss(KernelTable& t) {
  using enum PairLossOp;
  fill<mse, l1, smooth_l1, huber, bce, bce_logits, kl, kl_log>(family<PairLossKernels>(t));
}

}  // namespace pydlx::PYDLX_ISA
