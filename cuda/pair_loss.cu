// Elementwise losses: one pass forward (values or sums), one pass backward.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/faults.h"
#include "functors/pair_loss.h"
#include "functors/types.h"

namespace pydlx::cuda {
namespace {

using namespace functors;

// Four neighbouring elements, so that threads move 8 bytes or more.
constexpr int kPack = 4;
template <class T>
struct alignas(sizeof(T) * kPack) Pack {
  T v[kPack];
};
template <class... P>
bool aligned(std::size_t bytes, const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % bytes == 0) && ...);
}

// Calls f(j, i) for the elements i = 4 e + j that exist.
template <class F>
__device__ __forceinline__ void each_of_pack(std::int64_t e, std::int64_t n, const F& f) {
#pragma unroll
  for (int j = 0; j < kPack; ++j)
    if (e * kPack + j < n) f(j, e * kPack + j);
}
template <class T>
__device__ __forceinline__ Pack<T> load_pack(const void* from, std::int64_t e, std::int64_t n, bool whole) {
  const T* in = static_cast<const T*>(from);
  if (whole) return *reinterpret_cast<const Pack<T>*>(in + e * kPack);
  Pack<T> x{};
  each_of_pack(e, n, [&](int j, std::int64_t i) { x.v[j] = in[i]; });
  return x;
}
template <class T>
__device__ __forceinline__ void store_pack(void* to, std::int64_t e, std::int64_t n, bool whole, const Pack<T>& x) {
  T* out = static_cast<T*>(to);
  if (whole)
    *reinterpret_cast<Pack<T>*>(out + e * kPack) = x;
  else
    each_of_pack(e, n, [&](int j, std::int64_t i) { out[i] = x.v[j]; });
}

template <PairLossOp op, class T>
struct Value {
  using A = compute_t<T>;
  PairLoss k;
  FaultReport* faults;
  bool packed;
  __device__ __forceinline__ A of(T x_stored, T t, std::int64_t i) const {
    const A x = static_cast<A>(x_stored);
    if constexpr (op == PairLossOp::bce)
      if (!(x >= A(0) && x <= A(1)) && i < k.n) report(faults, Fault::probability, i);
    return Pair<op>::value(x, static_cast<A>(t), static_cast<A>(k.param));
  }
  __device__ __forceinline__ A at(std::int64_t i) const {
    return of(static_cast<const T*>(k.x)[i], static_cast<const T*>(k.t)[i], i);
  }
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    const bool whole = packed && (e + 1) * kPack <= k.n;
    const Pack<T> x = load_pack<T>(k.x, e, k.n, whole), t = load_pack<T>(k.t, e, k.n, whole);
    Pack<T> y;
#pragma unroll
    for (int j = 0; j < kPack; ++j) y.v[j] = static_cast<T>(of(x.v[j], t.v[j], e * kPack + j));
    store_pack(k.out, e, k.n, whole, y);
  }
};

// One block per partial sum. Sums of threads, then of lanes, then of warps: the order is fixed.
template <PairLossOp op, class T>
__global__ void __launch_bounds__(kEachThreads) partial_sums(const __grid_constant__ Value<op, T> value) {
  using A = compute_t<T>;
  __shared__ A slots[kWarp];
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * PairLoss::kChunk, n = value.k.n;
  A sum = 0;
#pragma unroll 4
  for (int j = 0; j < PairLoss::kChunk / kEachThreads; ++j) {
    const std::int64_t i = begin + j * kEachThreads + threadIdx.x;
    if (i < n) sum += value.at(i);
  }
  for (int w = kWarp / 2; w > 0; w /= 2) sum += __shfl_xor_sync(kFullMask, sum, w);
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    A total = 0;
    for (int w = 0; w < kEachThreads / kWarp; ++w) total += slots[w];
    static_cast<A*>(value.k.partial)[blockIdx.x] = total;
  }
}

template <PairLossOp op, class T>
std::int64_t forward(const PairLoss& k) {
  const Value<op, T> value{k, fault_report(), aligned(sizeof(Pack<T>), k.x, k.t, k.out)};
  if (k.out) for_each((k.n + kPack - 1) / kPack, value);
  if (k.partial && k.n > 0) launch(partial_sums<op, T>, ceil_div(k.n, PairLoss::kChunk), kEachThreads, 0, value);
  return -1;
}

template <PairLossOp op, class T>
struct Gradient {
  PairLoss k;
  bool packed;
  __device__ __forceinline__ void operator()(std::int64_t e) const {
    using A = compute_t<T>;
    const bool whole = packed && (e + 1) * kPack <= k.n;
    const Pack<T> xs = load_pack<T>(k.x, e, k.n, whole), ts = load_pack<T>(k.t, e, k.n, whole);
    const A param = static_cast<A>(k.param);
    Pack<A> g;
    if (k.grad_stride == 0) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) g.v[j] = *static_cast<const A*>(k.grad);
    } else {
      g = load_pack<A>(k.grad, e, k.n, whole);
    }
    Pack<T> dx, dt;
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      const A x = static_cast<A>(xs.v[j]), t = static_cast<A>(ts.v[j]);
      if (k.dx) dx.v[j] = static_cast<T>(g.v[j] * Pair<op>::dx(x, t, param));
      if (k.dt) dt.v[j] = static_cast<T>(g.v[j] * Pair<op>::dt(x, t, param));
    }
    if (k.dx) store_pack(k.dx, e, k.n, whole, dx);
    if (k.dt) store_pack(k.dt, e, k.n, whole, dt);
  }
};
template <PairLossOp op, class T>
void backward(const PairLoss& k) {
  const bool packed = aligned(sizeof(Pack<T>), k.x, k.t, k.dx, k.dt) &&
                      (k.grad_stride == 0 || aligned(sizeof(Pack<compute_t<T>>), k.grad));
  for_each((k.n + kPack - 1) / kPack, Gradient<op, T>{k, packed});
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

}  // namespace pydlx::cuda
