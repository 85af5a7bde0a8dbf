// Connectionist temporal classification: forward variables, and the posterior of every state from forward and backward
// variables. One sequence is the work of one thread; its states advance side by side. Every step is relative to its
// likeliest state, so that the numbers stay small and exact however long the sequence is.
#include "kernels/ctc.h"

#include "cpu/first_bad.h"
#include "cpu/isa.h"
#include "functors/math.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class T>
inline constexpr T kNever = -static_cast<T>(__builtin_inf());  // the logarithm of 0

// What both directions need of one sequence.
template <class T>
struct Sequence {
  const T* x;  // of step 0
  std::int64_t step, states, frames, blank;
  const std::int64_t* target;
  T *before, *now, *emission, *skip;  // each with two states more than there are

  Sequence(const Ctc& k, std::int64_t n)
      : x(static_cast<const T*>(k.x) + n * k.classes),
        step(k.batch * k.classes),
        states(2 * k.labels[n] + 1),
        frames(k.frames[n]),
        blank(k.blank),
        target(k.target + n * k.longest) {
    const std::int64_t room = 2 * k.longest + 3;
    before = static_cast<T*>(k.scratch) + n * 4 * room;
    now = before + room;
    emission = now + room;
    skip = emission + room;
  }
  inline __attribute__((always_inline)) std::int64_t symbol(std::int64_t s) const {
    return s % 2 == 0 ? blank : target[s / 2];
  }
  // 0 where a path may enter state s from s - 2, over a blank between different symbols.
  void find_skips() {
    for (std::int64_t s = 0; s < states + 2; ++s) skip[s] = kNever<T>;
    for (std::int64_t s = 3; s < states; s += 2)
      if (symbol(s) != blank && symbol(s) != symbol(s - 2)) skip[s] = 0;
  }
  void emissions(std::int64_t t) {
    const T* row = x + t * step;
    const T pause = row[blank];
    for (std::int64_t s = 0; s + 1 < states; s += 2) {
      emission[s] = pause;
      emission[s + 1] = row[target[s / 2]];
    }
    emission[states - 1] = pause;
  }
};

// log(e^a + e^b + e^c)
template <class T>
inline __attribute__((always_inline)) T sum_of_three(T a, T b, T c) {
  const T ab = a > b ? a : b, m = ab > c ? ab : c, low = m > T(-1e30) ? m : T(-1e30);
  const T s = math::exp(a - low) + math::exp(b - low) + math::exp(c - low);
  return s == T(0) ? kNever<T> : low + math::log(s);
}
template <class T>
inline __attribute__((always_inline)) T largest(const T* v, std::int64_t n) {
  T m = kNever<T>;
#pragma omp simd reduction(max : m)
  for (std::int64_t i = 0; i < n; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
// Subtracts the largest, which is returned, or 0 if there is nothing to be relative to.
template <class T>
inline __attribute__((always_inline)) T make_relative(T* v, std::int64_t n) {
  const T m = largest(v, n);
  if (!(m > kNever<T>)) return 0;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) v[i] -= m;
  return m;
}

template <class T>
void forward_sequence(const Ctc& k, std::int64_t n) {
  Sequence<T> q(k, n);
  T& loss = static_cast<T*>(k.loss)[n];
  if (q.frames == 0) {
    loss = q.states == 1 ? T(0) : -kNever<T>;
    return;
  }
  const std::int64_t room = 2 * k.longest + 1, states = q.states;
  T* const kept = k.alpha ? static_cast<T*>(k.alpha) + n * k.steps * room : nullptr;
  q.find_skips();
  T *a = q.before, *b = q.now;  // two states that are never reached come first
  for (std::int64_t s = 0; s < states + 2; ++s) a[s] = b[s] = kNever<T>;
  double scale = 0;
  for (std::int64_t t = 0; t < q.frames; ++t) {
    q.emissions(t);
    if (t == 0) {
      for (std::int64_t s = 0; s < states && s < 2; ++s) b[s + 2] = q.emission[s];
    } else {
      const T *e = q.emission, *skip = q.skip;
#pragma omp simd
      for (std::int64_t s = 0; s < states; ++s) b[s + 2] = sum_of_three(a[s + 2], a[s + 1], a[s] + skip[s]) + e[s];
    }
    scale += static_cast<double>(make_relative(b + 2, states));
    if (kept) std::memcpy(kept + t * room, b + 2, static_cast<std::size_t>(states) * sizeof(T));
    T* const c = a;
    a = b, b = c;
  }
  const double last = static_cast<double>(a[states + 1]),
               other = states > 1 ? static_cast<double>(a[states]) : kNever<double>;
  loss = static_cast<T>(-(scale + sum_of_three(last, other, kNever<double>)));
}

// dx = -grad times the posterior of the symbol, which is summed over its states. A target that does not fit has none.
template <class T>
void backward_sequence(const Ctc& k, std::int64_t n) {
  Sequence<T> q(k, n);
  const std::int64_t room = 2 * k.longest + 1, states = q.states;
  const T g = static_cast<const T*>(k.grad)[n], total = static_cast<const T*>(k.total)[n];
  const T* const alpha = static_cast<const T*>(k.alpha) + n * k.steps * room;
  T* const dx = static_cast<T*>(k.dx) + n * k.classes;
  for (std::int64_t t = 0; t < k.steps; ++t)
    std::memset(dx + t * q.step, 0, static_cast<std::size_t>(k.classes) * sizeof(T));
  if (total == -kNever<T>) return;
  q.find_skips();
  T *a = q.before, *b = q.now;  // two states that lead nowhere come last
  for (std::int64_t s = 0; s < states + 2; ++s) a[s] = b[s] = kNever<T>;
  for (std::int64_t t = q.frames - 1; t >= 0; --t) {
    if (t == q.frames - 1) {
      for (std::int64_t s = states < 2 ? 0 : states - 2; s < states; ++s) b[s] = 0;
    } else {
      q.emissions(t + 1);
      const T *e = q.emission, *skip = q.skip;
#pragma omp simd
      for (std::int64_t s = 0; s < states; ++s) a[s] += e[s];
#pragma omp simd
      for (std::int64_t s = 0; s < states; ++s) b[s] = sum_of_three(a[s], a[s + 1], a[s + 2] + skip[s + 2]);
    }
    make_relative(b, states);
    const T* reached = alpha + t * room;
    T* posterior = q.emission;
    for (std::int64_t s = 0; s < states; ++s) posterior[s] = reached[s] + b[s];
    make_relative(posterior, states);
    T sum = 0;
#pragma omp simd
    for (std::int64_t s = 0; s < states; ++s) posterior[s] = math::exp(posterior[s]);
    for (std::int64_t s = 0; s < states; ++s) sum += posterior[s];
    const T factor = -g / sum;
    T* const to = dx + t * q.step;
    for (std::int64_t s = 0; s < states; ++s) to[q.symbol(s)] += factor * posterior[s];
    T* const c = a;
    a = b, b = c;
  }
}

bool fits(const Ctc& k, std::int64_t n) {
  const std::int64_t length = k.labels[n];
  if (k.frames[n] < 0 || k.frames[n] > k.steps || length < 0 || length > k.longest) return false;
  for (std::int64_t i = 0; i < length; ++i)
    if (const std::int64_t symbol = k.target[n * k.longest + i]; symbol < 0 || symbol >= k.classes) return false;
  return true;
}
template <class T, void (*sequence)(const Ctc&, std::int64_t)>
std::int64_t each_sequence(const Ctc& k) {
  const std::int64_t work = k.steps * (2 * k.longest + 1);
  FirstBad bad;
  parallel_for(k.batch, work >= 1024 ? 1 : 1024 / (work + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) fits(k, n) ? sequence(k, n) : bad.note(n);
  });
  return bad.position;
}

}  // namespace

void register_ctc(KernelTable& t) {
  CtcKernels& k = family<CtcKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.forward[idx<T>] = each_sequence<T, forward_sequence<T>>;
    k.backward[idx<T>] = each_sequence<T, backward_sequence<T>>;
  });
}

}  // namespace pydlx::PYDLX_ISA
