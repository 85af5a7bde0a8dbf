// Optimiser steps: one pass over parameter, gradient and state. Lists of tensors travel in the arguments of the kernel,
// dozens at a time, so that a captured step needs no memory of the host.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/segments.cuh"
#include "functors/math.h"
#include "functors/types.h"
#include "kernels/optim.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

constexpr int kListed = 64;    // tensors per launch: the arguments stay within 4 KiB
constexpr int kStepItems = 8;  // elements per thread and pass
constexpr int kStepTile = kEachThreads * kStepItems;

// Tensors are cut into tiles, which blocks take one after the other.
struct Lists : Segments<kListed> {
  std::int64_t size[kListed];
  void* param[kListed];
  const void* grad[kListed];
};
// State lists are separate, because most steps have one or two.
struct States {
  void* list[kMaxOptimState][kListed];
};

// ---- the rules ------------------------------------------------------------------------------------------------------

template <class A>
struct Common {
  A decay, sign;
  bool decays;
  const double* numbers;
  explicit Common(const OptimStep& k)
      : decay(static_cast<A>(k.weight_decay)),
        sign(k.maximize ? A(-1) : A(1)),
        decays(k.weight_decay != 0),
        numbers(k.numbers) {}
  // Without decay the parameter is not used, so an infinite one cannot turn into NaN through 0 * inf.
  __device__ __forceinline__ A wanted(A grad, A param) const {
    return decays ? sign * grad + decay * param : sign * grad;
  }
};

// Every rule updates p and the state s[] that it uses from the gradient g. What it always or never uses is known when
// it is compiled, and takes no registers. renew() takes what changes from step to step out of the numbers of a recorded
// step, as the constructor takes it from the arguments.
template <class T>
struct Sgd : Common<compute_t<T>> {
  using A = compute_t<T>;
  A lr, mu, take;
  bool nesterov, first, buffered;
  explicit Sgd(const SgdStep& k)
      : Common<A>(k),
        lr(static_cast<A>(k.lr)),
        mu(static_cast<A>(k.momentum)),
        take(static_cast<A>(1.0 - k.dampening)),
        nesterov(k.nesterov),
        first(k.first_step),
        buffered(k.state[0] != nullptr) {}
  __device__ __forceinline__ bool uses(int l) const { return l == 0 && buffered; }
  __device__ __forceinline__ void renew(const double* n) {
    lr = static_cast<A>(n[0]);
    first = n[1] != 0;
  }
  __device__ __forceinline__ void update(A& p, A grad, A (&s)[kMaxOptimState]) const {
    A g = this->wanted(grad, p);
    if (buffered) {
      s[0] = first ? g : mu * s[0] + take * g;
      g = nesterov ? g + mu * s[0] : s[0];
    }
    p = p - lr * g;
  }
};

template <class T>
struct Adam : Common<compute_t<T>> {
  using A = compute_t<T>;
  A take1, take2, eps, step, root, shrink;
  bool amsgrad;
  explicit Adam(const AdamStep& k)
      : Common<A>(k),
        take1(static_cast<A>(1.0 - k.beta1)),
        take2(static_cast<A>(1.0 - k.beta2)),
        eps(static_cast<A>(k.eps)),
        step(static_cast<A>(-k.step_size)),
        root(static_cast<A>(k.correction2_sqrt)),
        shrink(static_cast<A>(k.shrink)),
        amsgrad(k.state[2] != nullptr) {}
  __device__ __forceinline__ bool uses(int l) const { return l < 2 || amsgrad; }
  __device__ __forceinline__ void renew(const double* n) {
    step = static_cast<A>(-n[0]);
    root = static_cast<A>(n[1]);
    shrink = static_cast<A>(n[2]);
  }
  __device__ __forceinline__ void update(A& p, A grad, A (&s)[kMaxOptimState]) const {
    const A param = p * shrink, g = this->wanted(grad, p);
    s[0] = s[0] + take1 * (g - s[0]);
    s[1] = s[1] + take2 * (g * g - s[1]);
    A scale = s[1];
    if (amsgrad) {
      scale = s[1] > s[2] || s[1] != s[1] ? s[1] : s[2];  // NaN wins
      s[2] = scale;
    }
    p = param + step * s[0] / (math::sqrt(scale) / root + eps);
  }
};

template <class T>
struct Rmsprop : Common<compute_t<T>> {
  using A = compute_t<T>;
  A lr, take, eps, mu;
  bool centered, buffered;
  explicit Rmsprop(const RmspropStep& k)
      : Common<A>(k),
        lr(static_cast<A>(k.lr)),
        take(static_cast<A>(1.0 - k.alpha)),
        eps(static_cast<A>(k.eps)),
        mu(static_cast<A>(k.momentum)),
        centered(k.state[1] != nullptr),
        buffered(k.state[2] != nullptr) {}
  __device__ __forceinline__ bool uses(int l) const { return l == 0 || (l == 1 ? centered : buffered); }
  __device__ __forceinline__ void renew(const double* n) { lr = static_cast<A>(n[0]); }
  __device__ __forceinline__ void update(A& p, A grad, A (&s)[kMaxOptimState]) const {
    const A g = this->wanted(grad, p);
    s[0] = s[0] + take * (g * g - s[0]);
    A v = s[0];
    if (centered) {
      s[1] = s[1] + take * (g - s[1]);
      v = v - s[1] * s[1];
      v = v < A(0) ? A(0) : v;  // rounding must not put a negative variance under the root
    }
    const A scale = math::sqrt(v) + eps;
    if (buffered) {
      s[2] = mu * s[2] + g / scale;
      p = p - lr * s[2];
    } else {
      p = p - lr * g / scale;
    }
  }
};

template <class T>
struct Adagrad : Common<compute_t<T>> {
  using A = compute_t<T>;
  A lr, eps;
  explicit Adagrad(const AdagradStep& k) : Common<A>(k), lr(static_cast<A>(k.lr)), eps(static_cast<A>(k.eps)) {}
  __device__ __forceinline__ bool uses(int l) const { return l == 0; }
  __device__ __forceinline__ void renew(const double* n) { lr = static_cast<A>(n[0]); }
  __device__ __forceinline__ void update(A& p, A grad, A (&s)[kMaxOptimState]) const {
    const A g = this->wanted(grad, p);
    s[0] = s[0] + g * g;
    p = p - lr * g / (math::sqrt(s[0]) + eps);
  }
};

// ---- the pass over memory -------------------------------------------------------------------------------------------

// V neighbouring elements of every operand.
template <class T, int V, class Rule>
__device__ __forceinline__ void step_at(const Rule& rule, T* param, const T* grad, T* const (&state)[kMaxOptimState],
                                        std::int64_t i) {
  using A = compute_t<T>;
  using P = Pack<T, V>;
  P p = get<T, V>(param + i), s[kMaxOptimState] = {};
  const P g = get<T, V>(grad + i);
#pragma unroll
  for (int l = 0; l < kMaxOptimState; ++l)
    if (rule.uses(l)) s[l] = get<T, V>(state[l] + i);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    A x = static_cast<A>(p.v[j]), y[kMaxOptimState];
#pragma unroll
    for (int l = 0; l < kMaxOptimState; ++l) y[l] = static_cast<A>(s[l].v[j]);
    rule.update(x, static_cast<A>(g.v[j]), y);
    p.v[j] = static_cast<T>(x);
#pragma unroll
    for (int l = 0; l < kMaxOptimState; ++l) s[l].v[j] = static_cast<T>(y[l]);
  }
  put(param + i, p);
#pragma unroll
  for (int l = 0; l < kMaxOptimState; ++l)
    if (rule.uses(l)) put(state[l] + i, s[l]);
}

// Three blocks run at a time; left to itself the compiler stops just short of that, or spills.
template <class T, class Rule>
__global__ void __launch_bounds__(kEachThreads, 3)
    step_lists(const __grid_constant__ Lists lists, const __grid_constant__ States states,
               const __grid_constant__ Rule given) {
  Rule rule = given;
  if (rule.numbers) rule.renew(rule.numbers);
  constexpr int V = 16 / static_cast<int>(sizeof(T));
  for (std::int64_t tile = blockIdx.x; tile < lists.total(); tile += gridDim.x) {
    const int at = lists.find(tile);
    T* param = static_cast<T*>(lists.param[at]);
    const T* grad = static_cast<const T*>(lists.grad[at]);
    T* state[kMaxOptimState];
    auto addresses = reinterpret_cast<std::uintptr_t>(param) | reinterpret_cast<std::uintptr_t>(grad);
#pragma unroll
    for (int l = 0; l < kMaxOptimState; ++l) {
      state[l] = rule.uses(l) ? static_cast<T*>(states.list[l][at]) : nullptr;
      addresses |= reinterpret_cast<std::uintptr_t>(state[l]);
    }
    const std::int64_t first = (tile - lists.start[at]) * kStepTile, rest = lists.size[at] - first;
    const int n = rest < kStepTile ? static_cast<int>(rest) : kStepTile, thread = static_cast<int>(threadIdx.x);
    const int packed = addresses % 16 == 0 ? n / V * V : 0;
    for (int i = thread * V; i < packed; i += kEachThreads * V) step_at<T, V>(rule, param, grad, state, first + i);
    for (int i = packed + thread; i < n; i += kEachThreads) step_at<T, 1>(rule, param, grad, state, first + i);
  }
}

template <class T, class Rule, class Step>
void run(const Step& k) {
  const Rule rule(k);
  for (std::int64_t begin = 0; begin < k.count; begin += kListed) {
    Lists lists;
    States states;
    for (std::int64_t t = begin; t < k.count && t < begin + kListed; ++t) {
      const std::int64_t n = k.start[t + 1] - k.start[t];
      if (n == 0) continue;
      const int i = lists.add(ceil_div(n, kStepTile));
      lists.size[i] = n;
      lists.param[i] = k.param[t];
      lists.grad[i] = k.grad[t];
      for (int l = 0; l < kMaxOptimState; ++l) states.list[l][i] = k.state[l] ? k.state[l][t] : nullptr;
    }
    if (lists.count > 0) launch(step_lists<T, Rule>, grid_for(lists.total(), 16), kEachThreads, 0, lists, states, rule);
  }
}

// ---- zeros ----------------------------------------------------------------------------------------------------------

constexpr int kZeroListed = 160;
constexpr int kZeroItems = 8;  // chunks of 16 bytes per thread and pass
constexpr int kZeroTile = kEachThreads * kZeroItems;

struct ZeroList : Segments<kZeroListed> {
  unsigned char *first[kZeroListed], *end[kZeroListed];
};

// Chunks lie at multiples of 16 bytes wherever a tensor begins; those that it shares with its neighbours are written
// byte by byte.
__global__ void __launch_bounds__(kEachThreads) zero_list(const __grid_constant__ ZeroList list) {
  for (std::int64_t tile = blockIdx.x; tile < list.total(); tile += gridDim.x) {
    const int at = list.find(tile);
    unsigned char *const first = list.first[at], *const end = list.end[at];
    unsigned char* chunk =
        first - reinterpret_cast<std::uintptr_t>(first) % 16 + ((tile - list.start[at]) * kZeroTile + threadIdx.x) * 16;
#pragma unroll
    for (int j = 0; j < kZeroItems; ++j, chunk += kEachThreads * 16) {
      if (chunk >= first && chunk + 16 <= end)
        *reinterpret_cast<uint4*>(chunk) = uint4{};
      else
        for (unsigned char* byte = chunk; byte < chunk + 16 && byte < end; ++byte)
          if (byte >= first) *byte = 0;
    }
  }
}

void zero(const ZeroStep& k) {
  for (std::int64_t begin = 0; begin < k.count; begin += kZeroListed) {
    ZeroList list;
    for (std::int64_t t = begin; t < k.count && t < begin + kZeroListed; ++t) {
      auto* const first = static_cast<unsigned char*>(k.data[t]);
      const std::int64_t before = reinterpret_cast<std::uintptr_t>(first) % 16;  // bytes of the first chunk
      const int i = list.add(ceil_div(before + k.bytes[t], std::int64_t{kZeroTile} * 16));
      list.first[i] = first;
      list.end[i] = first + k.bytes[t];
    }
    launch(zero_list, grid_for(list.total(), 16), kEachThreads, 0, list);
  }
}

}  // namespace

void register_optim(KernelTable& t) {
  OptimKernels& k = family<OptimKernels>(t);
  k.zero = zero;
  each_type(FloatTypes{}, [&]<class T>() {
    k.sgd[idx<T>] = run<T, Sgd<T>, SgdStep>;
    k.adam[idx<T>] = run<T, Adam<T>, AdamStep>;
    k.rmsprop[idx<T>] = run<T, Rmsprop<T>, RmspropStep>;
    k.adagrad[idx<T>] = run<T, Adagrad<T>, AdagradStep>;
  });
}

}  // namespace pydlx::cuda
