// Optimiser steps: one pass over parameter, gradient and state, all tensors of the call in one parallel loop.
//
// Every expression holds at most one product next to an addition. Where two products are added the compiler may fuse
// either into a multiply-add, and a vector loop and its remainder could differ; which of them an element falls into
// depends on the chunks.
#include "kernels/optim.h"

#include "cpu/isa.h"
#include "cpu/past_caches.h"
#include "functors/math.h"
#include "functors/types.h"

namespace pydlx::PYDLX_ISA {
namespace {

using functors::compute_t;

// Elements per chunk: Adam moves 28 bytes per element, so a chunk is about 10 us of work; smaller models stay on one
// thread.
constexpr std::int64_t kOptimGrain = 16384;

// Calls f(t, begin, n) so that the pieces [begin, begin + n) of tensors t tile all elements; chunks run across tensor
// boundaries, so a thousand small tensors cost no more than one large one.
template <class Lists, class F>
inline __attribute__((always_inline)) void over_pieces(const Lists& k, const F& f, std::int64_t grain = kOptimGrain) {
  parallel_for(k.start[k.count], grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t low = 0, high = k.count;  // the last tensor that starts at or before `begin`
    while (high - low > 1) {
      const std::int64_t middle = (low + high) / 2;
      (k.start[middle] <= begin ? low : high) = middle;
    }
    for (std::int64_t t = low; begin < end; ++t) {
      const std::int64_t stop = k.start[t + 1] < end ? k.start[t + 1] : end;
      if (stop > begin) f(t, begin - k.start[t], stop - begin);
      begin = stop;
    }
  });
}

template <class T>
T* at(void* const* list, std::int64_t t, std::int64_t begin) {
  return static_cast<T*>(list[t]) + begin;
}
template <class T>
const T* at(const void* const* list, std::int64_t t, std::int64_t begin) {
  return static_cast<const T*>(list[t]) + begin;
}

// The gradient as the update wants it: sign of `maximize`, and weight decay if the group has any. Without decay the
// parameter is not read, so an infinite one cannot turn into NaN through 0 * inf.
template <bool Decay, class A>
inline __attribute__((always_inline)) A wanted(A grad, A param, A sign, A decay) {
  if constexpr (Decay) return sign * grad + decay * param;  // sign * grad is exact
  return sign * grad;
}

enum SgdMode { kPlain, kMomentum, kNesterov };

// `First`: the buffer has no value yet. A template argument, because a choice inside the loop keeps it scalar.
template <class T, bool Decay, int Mode, bool First>
void sgd_mode(const SgdStep& k) {
  using A = compute_t<T>;
  const A lr = static_cast<A>(k.lr), mu = static_cast<A>(k.momentum), take = static_cast<A>(1.0 - k.dampening);
  const A decay = static_cast<A>(k.weight_decay), sign = k.maximize ? A(-1) : A(1);
  over_pieces(k, [&](std::int64_t t, std::int64_t begin, std::int64_t n) {
    T* p = at<T>(k.param, t, begin);
    const T* grad = at<T>(k.grad, t, begin);
    T* buffer = Mode == kPlain ? p : at<T>(k.state[0], t, begin);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      A g = wanted<Decay>(static_cast<A>(grad[i]), static_cast<A>(p[i]), sign, decay);
      if constexpr (Mode != kPlain) {
        // take is 1 unless there is dampening, so of the two products one is exact wherever speed matters
        A b = g;
        if constexpr (!First) b = mu * static_cast<A>(buffer[i]) + take * g;
        buffer[i] = static_cast<T>(b);
        g = Mode == kNesterov ? g + mu * b : b;
      }
      p[i] = static_cast<T>(static_cast<A>(p[i]) - lr * g);
    }
  });
}
template <class T, bool Decay>
void sgd_decay(const SgdStep& k) {
  if (!k.state[0]) return sgd_mode<T, Decay, kPlain, false>(k);
  if (k.first_step)
    k.nesterov ? sgd_mode<T, Decay, kNesterov, true>(k) : sgd_mode<T, Decay, kMomentum, true>(k);
  else
    k.nesterov ? sgd_mode<T, Decay, kNesterov, false>(k) : sgd_mode<T, Decay, kMomentum, false>(k);
}
template <class T>
void sgd(const SgdStep& k) {
  k.weight_decay != 0 ? sgd_decay<T, true>(k) : sgd_decay<T, false>(k);
}

template <class T, bool Decay, bool Amsgrad>
void adam_mode(const AdamStep& k) {
  using A = compute_t<T>;
  const A take1 = static_cast<A>(1.0 - k.beta1), take2 = static_cast<A>(1.0 - k.beta2), eps = static_cast<A>(k.eps);
  const A step = static_cast<A>(-k.step_size), root = static_cast<A>(k.correction2_sqrt),
          shrink = static_cast<A>(k.shrink);
  const A decay = static_cast<A>(k.weight_decay), sign = k.maximize ? A(-1) : A(1);
  over_pieces(k, [&](std::int64_t t, std::int64_t begin, std::int64_t n) {
    T *p = at<T>(k.param, t, begin), *mean = at<T>(k.state[0], t, begin), *square = at<T>(k.state[1], t, begin);
    T* most = Amsgrad ? at<T>(k.state[2], t, begin) : square;
    const T* grad = at<T>(k.grad, t, begin);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const A param = static_cast<A>(p[i]) * shrink;
      const A g = wanted<Decay>(static_cast<A>(grad[i]), static_cast<A>(p[i]), sign, decay);
      const A m0 = static_cast<A>(mean[i]), v0 = static_cast<A>(square[i]);
      const A m = m0 + take1 * (g - m0), v = v0 + take2 * (g * g - v0);
      mean[i] = static_cast<T>(m);
      square[i] = static_cast<T>(v);
      A scale = v;
      if constexpr (Amsgrad) {
        const A w = static_cast<A>(most[i]);
        scale = v > w || v != v ? v : w;  // NaN wins
        most[i] = static_cast<T>(scale);
      }
      p[i] = static_cast<T>(param + step * m / (math::sqrt(scale) / root + eps));
    }
  });
}
template <class T, bool Decay>
void adam_decay(const AdamStep& k) {
  k.state[2] ? adam_mode<T, Decay, true>(k) : adam_mode<T, Decay, false>(k);
}
template <class T>
void adam(const AdamStep& k) {
  k.weight_decay != 0 ? adam_decay<T, true>(k) : adam_decay<T, false>(k);
}

template <class T, bool Decay, bool Centered, bool Momentum>
void rmsprop_mode(const RmspropStep& k) {
  using A = compute_t<T>;
  const A lr = static_cast<A>(k.lr), take = static_cast<A>(1.0 - k.alpha), eps = static_cast<A>(k.eps),
          mu = static_cast<A>(k.momentum);
  const A decay = static_cast<A>(k.weight_decay), sign = k.maximize ? A(-1) : A(1);
  over_pieces(k, [&](std::int64_t t, std::int64_t begin, std::int64_t n) {
    T *p = at<T>(k.param, t, begin), *square = at<T>(k.state[0], t, begin);
    T* mean = Centered ? at<T>(k.state[1], t, begin) : square;
    T* buffer = Momentum ? at<T>(k.state[2], t, begin) : square;
    const T* grad = at<T>(k.grad, t, begin);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const A g = wanted<Decay>(static_cast<A>(grad[i]), static_cast<A>(p[i]), sign, decay);
      const A v0 = static_cast<A>(square[i]);
      A v = v0 + take * (g * g - v0);
      square[i] = static_cast<T>(v);
      if constexpr (Centered) {
        const A m0 = static_cast<A>(mean[i]), m = m0 + take * (g - m0);
        mean[i] = static_cast<T>(m);
        v = v - m * m;
        v = v < A(0) ? A(0) : v;  // rounding must not put a negative variance under the root
      }
      const A scale = math::sqrt(v) + eps;
      if constexpr (Momentum) {
        const A b = mu * static_cast<A>(buffer[i]) + g / scale;
        buffer[i] = static_cast<T>(b);
        p[i] = static_cast<T>(static_cast<A>(p[i]) - lr * b);
      } else {
        p[i] = static_cast<T>(static_cast<A>(p[i]) - lr * g / scale);
      }
    }
  });
}
template <class T, bool Decay>
void rmsprop_decay(const RmspropStep& k) {
  if (k.state[1]) return k.state[2] ? rmsprop_mode<T, Decay, true, true>(k) : rmsprop_mode<T, Decay, true, false>(k);
  k.state[2] ? rmsprop_mode<T, Decay, false, true>(k) : rmsprop_mode<T, Decay, false, false>(k);
}
template <class T>
void rmsprop(const RmspropStep& k) {
  k.weight_decay != 0 ? rmsprop_decay<T, true>(k) : rmsprop_decay<T, false>(k);
}

template <class T, bool Decay>
void adagrad_decay(const AdagradStep& k) {
  using A = compute_t<T>;
  const A lr = static_cast<A>(k.lr), eps = static_cast<A>(k.eps);
  const A decay = static_cast<A>(k.weight_decay), sign = k.maximize ? A(-1) : A(1);
  over_pieces(k, [&](std::int64_t t, std::int64_t begin, std::int64_t n) {
    T *p = at<T>(k.param, t, begin), *sum = at<T>(k.state[0], t, begin);
    const T* grad = at<T>(k.grad, t, begin);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
      const A g = wanted<Decay>(static_cast<A>(grad[i]), static_cast<A>(p[i]), sign, decay);
      const A s = static_cast<A>(sum[i]) + g * g;
      sum[i] = static_cast<T>(s);
      p[i] = static_cast<T>(static_cast<A>(p[i]) - lr * g / (math::sqrt(s) + eps));
    }
  });
}
template <class T>
void adagrad(const AdagradStep& k) {
  k.weight_decay != 0 ? adagrad_decay<T, true>(k) : adagrad_decay<T, false>(k);
}

// Together the tensors may be larger than any cache where none of them is: ResNet-18's gradients take 0.5 ms past the
// caches, and 0.8 through them.
void zero(const ZeroStep& k) {
  constexpr std::int64_t kLines = 2048;  // per chunk
  const bool past_caches = num_threads() > 1 && k.start[k.count] * kCacheLine >= kPastCaches;
  over_pieces(
      k,
      [&](std::int64_t t, std::int64_t begin, std::int64_t n) {
        char* const to = static_cast<char*>(k.data[t]) + begin * kCacheLine;
        const std::int64_t left = k.bytes[t] - begin * kCacheLine,
                           bytes = n * kCacheLine < left ? n * kCacheLine : left;
        if (!past_caches || reinterpret_cast<std::uintptr_t>(to) % kCacheLine != 0) {
          std::memset(to, 0, static_cast<std::size_t>(bytes));
          return;
        }
        std::int64_t i = 0;
        for (; i + kVectorBytes <= bytes; i += kVectorBytes)
          store_past_caches<float>(reinterpret_cast<float*>(to + i), Vector<float>{});
        std::memset(to + i, 0, static_cast<std::size_t>(bytes - i));
        past_caches_done();
      },
      kLines);
}

}  // namespace

void register_optim(KernelTable& t) {
  OptimKernels& k = family<OptimKernels>(t);
  k.zero = zero;
  each_type(FloatTypes{}, [&]<class T>() {
    k.sgd[idx<T>] = sgd<T>;
    k.adam[idx<T>] = adam<T>;
    k.rmsprop[idx<T>] = rmsprop<T>;
    k.adagrad[idx<T>] = adagrad<T>;
  });
}

}  // namespace pydlx::PYDLX_ISA
