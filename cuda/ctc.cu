// Connectionist temporal classification. A sequence is the work of a block, whose threads own its states: a step is one
// barrier, after which every thread knows the likeliest state, which the step's numbers are relative to. The sums of
// posteriors by symbol, which no step waits for, are left to a kernel over all steps at a time. A symbol's states are
// added by one thread in their order: no atomics.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "cuda/runtime/rows.cuh"
#include "functors/math.h"
#include "kernels.h"
#include "kernels/ctc.h"

namespace pydlx::cuda {
namespace {

template <class T>
inline constexpr T kNever = -math::kInfinity<T>;  // the logarithm of 0

template <class T>
inline constexpr int kMostThreads = sizeof(T) == 4 ? 1024 : 512;

struct TheLarger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

// log(e^a + e^b + e^c)
template <class T>
__device__ __forceinline__ T sum_of_three(T a, T b, T c) {
  const T ab = a > b ? a : b, m = ab > c ? ab : c, low = m > T(-1e30) ? m : T(-1e30);
  const T s = math::exp(a - low) + math::exp(b - low) + math::exp(c - low);
  return s == T(0) ? kNever<T> : low + math::log(s);
}

// ---- a sequence -----------------------------------------------------------------------------------------------------

template <class T>
struct Sequence {
  const T* x;  // of step 0
  const std::int64_t* target;
  std::int64_t step, states, frames, blank;

  __device__ __forceinline__ Sequence(const Ctc& k, std::int64_t n)
      : x(static_cast<const T*>(k.x) + n * k.classes),
        target(k.target + n * k.longest),
        step(k.batch * k.classes),
        states(2 * k.labels[n] + 1),
        frames(k.frames[n]),
        blank(k.blank) {}
  __device__ __forceinline__ std::int64_t symbol(std::int64_t s) const { return s % 2 == 0 ? blank : target[s / 2]; }
  // 0 where a path may enter state s from s - 2, over a blank between different symbols.
  __device__ __forceinline__ T skip(std::int64_t s) const {
    return s >= 3 && s < states && s % 2 == 1 && symbol(s) != blank && symbol(s) != symbol(s - 2) ? T(0) : kNever<T>;
  }
  __device__ __forceinline__ T emission(std::int64_t t, std::int64_t s) const { return x[t * step + symbol(s)]; }
};

// Asked by a whole block.
__device__ __forceinline__ bool fits(const Ctc& k, std::int64_t n) {
  __shared__ int bad;
  const std::int64_t frames = k.frames[n], labels = k.labels[n];
  if (frames < 0 || frames > k.steps || labels < 0 || labels > k.longest) return false;
  if (threadIdx.x == 0) bad = 0;
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < labels; i += blockDim.x)
    if (const std::int64_t c = k.target[n * k.longest + i]; c < 0 || c >= k.classes) bad = 1;
  __syncthreads();
  return bad == 0;
}

// What a thread's first state needs of one step after another, asked for two steps before it is used: a step takes less
// time than memory. Further states, of targets with more states than threads, ask when they need it.
template <class T>
struct Ahead {
  T next, after;
  __device__ __forceinline__ T take(T later) {
    const T now = next;
    next = after;
    after = later;
    return now;
  }
};

// The largest number of the block, in every thread, or 0 if there is nothing to be relative to. Its barrier is the only
// one of a step: calls take turns with two rows of slots, so that one step may write while others still read.
template <class T>
__device__ __forceinline__ T largest(T mine, T* slots) {
  for (int w = kWarp / 2; w > 0; w /= 2) mine = TheLarger()(mine, __shfl_xor_sync(kFullMask, mine, w));
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = mine;
  __syncthreads();
  T m = slots[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) m = TheLarger()(m, slots[w]);
  return m > kNever<T> ? m : T(0);
}

// Four rows of states and two more, of a length that shared memory has room for, or where the caller has it.
template <class T, bool in_shared>
__device__ __forceinline__ T* working_memory(const Ctc& k, std::int64_t n) {
  if constexpr (in_shared)
    return dynamic_shared<T>();
  else
    return static_cast<T*>(k.scratch) + n * ctc_scratch(k.longest);
}

// ---- steps ----------------------------------------------------------------------------------------------------------

template <class T, bool in_shared>
__global__ void __launch_bounds__(kMostThreads<T>, 1) ctc_forward(const __grid_constant__ Ctc k, FaultReport* faults) {
  __shared__ T slots[2][kMostThreads<T> / kWarp];
  const std::int64_t first = threadIdx.x, threads = blockDim.x, width = 2 * k.longest + 1, room = width + 2;
  for (std::int64_t n = blockIdx.x; n < k.batch; n += gridDim.x) {
    __syncthreads();  // nothing of the sequence before is read any more
    T& loss = static_cast<T*>(k.loss)[n];
    if (!fits(k, n)) {
      if (first == 0) {
        report(faults, Fault::target, n);
        loss = -kNever<T>;
      }
      continue;
    }
    const Sequence<T> q(k, n);
    if (q.frames == 0) {
      if (first == 0) loss = q.states == 1 ? T(0) : -kNever<T>;
      continue;
    }
    T *a = working_memory<T, in_shared>(k, n), *b = a + room, *const skip = b + room;
    for (std::int64_t s = first; s < q.states + 2; s += threads) {  // two states that are never reached come first
      a[s] = b[s] = kNever<T>;
      skip[s] = q.skip(s);
    }
    const auto ask = [&](std::int64_t t) { return t < q.frames && first < q.states ? q.emission(t, first) : T(0); };
    Ahead<T> emission{ask(0), ask(1)};
    T* kept = k.alpha ? static_cast<T*>(k.alpha) + n * k.steps * width : nullptr;
    T top = 0;
    double scale = 0;
    __syncthreads();
    for (std::int64_t t = 0; t < q.frames; ++t) {
      const T mine = emission.take(ask(t + 2));
      T most = kNever<T>;
      for (std::int64_t s = first; s < q.states; s += threads) {
        const T e = s == first ? mine : q.emission(t, s);
        T v = s < 2 ? e : kNever<T>;
        if (t > 0) v = sum_of_three(a[s + 2] - top, a[s + 1] - top, a[s] - top + skip[s]) + e;
        b[s + 2] = v;
        most = TheLarger()(most, v);
      }
      top = largest(most, slots[t % 2]);
      scale += static_cast<double>(top);
      if (kept) {
        for (std::int64_t s = first; s < q.states; s += threads) kept[s] = b[s + 2] - top;
        kept += width;
      }
      T* const c = a;
      a = b, b = c;
    }
    if (first == 0) {
      const double last = static_cast<double>(a[q.states + 1] - top),
                   other = q.states > 1 ? static_cast<double>(a[q.states] - top) : kNever<double>;
      loss = static_cast<T>(-(scale + sum_of_three(last, other, kNever<double>)));
    }
  }
}

__device__ __forceinline__ bool has_gradient(float total) { return total != math::kInfinity<float>; }
__device__ __forceinline__ bool has_gradient(double total) { return total != math::kInfinity<double>; }

// posterior[n, t, s] = the logarithm of the probability of state s at step t, up to a number that the step shares.
template <class T, bool in_shared>
__global__ void __launch_bounds__(kMostThreads<T>, 1) ctc_backward(const __grid_constant__ Ctc k, T* posterior) {
  __shared__ T slots[2][kMostThreads<T> / kWarp];
  const std::int64_t first = threadIdx.x, threads = blockDim.x, width = 2 * k.longest + 1, room = width + 2;
  for (std::int64_t n = blockIdx.x; n < k.batch; n += gridDim.x) {
    __syncthreads();
    if (!has_gradient(static_cast<const T*>(k.total)[n]) || !fits(k, n)) continue;
    const Sequence<T> q(k, n);
    // Rows of what follows a state, with its own emission in a and b and without in `own`.
    T *a = working_memory<T, in_shared>(k, n), *b = a + room, *const skip = b + room, *const own = skip + room;
    for (std::int64_t s = first; s < q.states + 2; s += threads) {  // two states that lead nowhere come last
      a[s] = b[s] = kNever<T>;
      skip[s] = q.skip(s);
    }
    const T* const alpha = static_cast<const T*>(k.alpha) + n * k.steps * width;
    T* const out = posterior + n * k.steps * width;
    const auto ask = [&](std::int64_t t) { return t >= 0 && first < q.states ? q.emission(t, first) : T(0); };
    const auto ask_reached = [&](std::int64_t t) {
      return t >= 0 && first < q.states ? alpha[t * width + first] : T(0);
    };
    const std::int64_t last = q.frames - 1;
    Ahead<T> emission{ask(last), ask(last - 1)}, reached{ask_reached(last), ask_reached(last - 1)};
    T top = 0;
    __syncthreads();
    for (std::int64_t t = last; t >= 0; --t) {
      const T mine = emission.take(ask(t - 2)), mine_reached = reached.take(ask_reached(t - 2));
      T most = kNever<T>;
      for (std::int64_t s = first; s < q.states; s += threads) {
        T v = s + 2 >= q.states ? T(0) : kNever<T>;
        if (t < last) v = sum_of_three(a[s] - top, a[s + 1] - top, a[s + 2] - top + skip[s + 2]);
        own[s] = v;
        b[s] = v + (s == first ? mine : q.emission(t, s));
        most = TheLarger()(most, v);
      }
      top = largest(most, slots[t % 2]);
      for (std::int64_t s = first; s < q.states; s += threads)
        out[t * width + s] = (s == first ? mine_reached : alpha[t * width + s]) + (own[s] - top);
      T* const c = a;
      a = b, b = c;
    }
  }
}

// ---- sums by symbol -------------------------------------------------------------------------------------------------

// The places of a symbol in a target as a list: head[n, c] is the first one, next[n, i] the one after i; -1: none.
template <class T>
struct Chains {
  Ctc k;
  std::int32_t *head, *next;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const auto [n, i] = divide(e, k.longest);
    const std::int64_t labels = k.labels[n], c = k.target[e];
    if (!has_gradient(static_cast<const T*>(k.total)[n]) || labels > k.longest || i >= labels || c < 0 ||
        c >= k.classes)
      return;
    const std::int64_t* const target = k.target + n * k.longest;
    std::int64_t later = i + 1, earlier = i - 1;
    while (later < labels && target[later] != c) ++later;
    while (earlier >= 0 && target[earlier] != c) --earlier;
    next[e] = later < labels ? static_cast<std::int32_t>(later) : -1;
    if (earlier < 0) head[n * k.classes + c] = static_cast<std::int32_t>(i);
  }
};

// dx = -grad times the posterior of the symbol, which is summed over its states. A target that does not fit has none.
template <class T>
__global__ void __launch_bounds__(kRowThreads, 4)
    ctc_gradient(const __grid_constant__ Ctc k, T* posterior, const std::int32_t* head, const std::int32_t* next,
                 RowLayout layout) {
  __shared__ T shared[kRowThreads];
  const RowThread at(layout);
  const std::int64_t rows = k.steps * k.batch, width = 2 * k.longest + 1;
  for (std::int64_t before = static_cast<std::int64_t>(blockIdx.x) * at.rows; before < rows;
       before += static_cast<std::int64_t>(gridDim.x) * at.rows) {
    const std::int64_t row = before + at.row;
    const bool mine = row < rows;
    const auto [t, n] = divide(mine ? row : 0, k.batch);
    const std::int64_t labels = k.labels[n], states = 2 * labels + 1;
    const bool live = mine && labels >= 0 && labels <= k.longest && t < k.frames[n] &&
                      has_gradient(static_cast<const T*>(k.total)[n]);
    T* const p = posterior + (n * k.steps + t) * width;
    T top = kNever<T>;
    if (live)
      for (std::int64_t s = at.lane; s < states; s += at.lanes) top = TheLarger()(top, p[s]);
    top = at.all(top, shared, TheLarger());
    if (!(top > kNever<T>)) top = 0;
    T sum = 0, pauses = 0;
    if (live)
      for (std::int64_t s = at.lane; s < states; s += at.lanes) {
        p[s] = math::exp(p[s] - top);
        sum += p[s];
        if (s % 2 == 0) pauses += p[s];
      }
    sum = at.all(sum, shared, Adder());
    pauses = at.all(pauses, shared, Adder());
    __syncthreads();  // all lanes have written their states
    if (!mine) continue;
    const T factor = -static_cast<const T*>(k.grad)[n] / sum;
    T* const dx = static_cast<T*>(k.dx) + row * k.classes;
    for (std::int64_t c = at.lane; c < k.classes; c += at.lanes) {
      T total = live && c == k.blank ? pauses : T(0);
      if (live)
        for (std::int64_t i = head[n * k.classes + c]; i >= 0; i = next[n * k.longest + i]) total += p[2 * i + 1];
      dx[c] = total == 0 ? T(0) : factor * total;
    }
  }
}

// ---- choice ---------------------------------------------------------------------------------------------------------

constexpr std::size_t kSharedBytes = 44 << 10;  // with the slots that is what every kernel may have

template <class T, auto in_shared, auto elsewhere, class... A>
void run_steps(const Ctc& k, A... more) {
  const int threads = power_of_two_up_to(2 * k.longest + 1, kMostThreads<T>);
  const std::size_t bytes = static_cast<std::size_t>(ctc_scratch(k.longest)) * sizeof(T);
  const unsigned grid = grid_for(k.batch, 32), block = static_cast<unsigned>(threads < kWarp ? kWarp : threads);
  if (bytes <= kSharedBytes)
    launch(in_shared, grid, block, bytes, k, more...);
  else
    launch(elsewhere, grid, block, 0, k, more...);
}

template <class T>
std::int64_t forward(const Ctc& k) {
  if (k.batch > 0) run_steps<T, ctc_forward<T, true>, ctc_forward<T, false>>(k, fault_report());
  return -1;
}

template <class T>
std::int64_t backward(const Ctc& k) {
  const std::int64_t rows = k.steps * k.batch, width = 2 * k.longest + 1;
  if (rows == 0 || k.classes == 0) return -1;
  require(k.longest < INT32_MAX, "ctc_loss", "targets", ErrorKind::Value, "expected fewer than 2^31 symbols, got ",
          k.longest);
  const Scratch<T> posterior(checked_mul(rows, width, "ctc_loss"));
  const Scratch<std::int32_t> head(checked_mul(k.batch, k.classes, "ctc_loss")), next(k.batch * k.longest);
  fill_bytes(head.get(), 0xff, static_cast<std::size_t>(k.batch * k.classes) * sizeof(std::int32_t));
  for_each(k.batch * k.longest, Chains<T>{k, head.get(), next.get()});
  run_steps<T, ctc_backward<T, true>, ctc_backward<T, false>>(k, posterior.get());
  const RowLayout layout = RowLayout::along(width > k.classes ? width : k.classes);
  launch(ctc_gradient<T>, layout.grid(rows), kRowThreads, 0, k, posterior.get(),
         static_cast<const std::int32_t*>(head.get()), static_cast<const std::int32_t*>(next.get()), layout);
  return -1;
}

}  // namespace

void register_ctc(KernelTable& t) {
  CtcKernels& k = family<CtcKernels>(t);
  each_type(WideTypes{}, [&]<class T>() {
    k.forward[idx<T>] = forward<T>;
    k.backward[idx<T>] = backward<T>;
  });
}

}  // namespace pydlx::cuda
