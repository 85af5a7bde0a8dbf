// Norms and factors of many tensors at once: gradients that are clipped or unscaled. Lists travel in the arguments of
// the kernel, as in optim.cu.
#include "cuda/runtime/each.cuh"
#include "cuda/runtime/pack.cuh"
#include "cuda/runtime/segments.cuh"
#include "functors/math.h"
#include "functors/types.h"
#include "kernels/tensor_lists.h"

namespace pydlx::cuda {
namespace {

using functors::compute_t;

// Tensors per launch: the arguments stay within 4 KiB.
constexpr int kListed = 160, kCastListed = 120;
constexpr int kFinishThreads = 1024;

// Tensors are cut into tiles, which blocks take one after the other.
template <int kMost>
struct ListOf : Segments<kMost> {
  std::int64_t tile;  // elements
  std::int64_t size[kMost];
  void* data[kMost];

  __device__ __forceinline__ int elements(int at, std::int64_t first) const {
    const std::int64_t rest = size[at] - first;
    return static_cast<int>(rest < tile ? rest : tile);
  }
};
using List = ListOf<kListed>;
struct Casts : ListOf<kCastListed> {
  const void* from[kCastListed];
  unsigned char add_to[kCastListed];
};

// Calls use(list) for as many tensors as a launch takes, in order, after put(list, i, t) of each: tensor t is number i
// there. Empty ones are left out.
template <class L, class Put, class Use>
void by_lists(const DenseList& k, std::int64_t tile, const Put& put, const Use& use) {
  constexpr int kMost = static_cast<int>(std::extent_v<decltype(L::size)>);
  for (std::int64_t t = 0; t < k.count;) {
    L list;
    list.tile = tile;
    for (; t < k.count && list.count < kMost; ++t) {
      if (k.size[t] == 0) continue;
      const int i = list.add((k.size[t] + tile - 1) / tile);
      list.size[i] = k.size[t];
      list.data[i] = k.data[t];
      put(list, i, t);
    }
    if (list.count > 0) use(list);
  }
}
template <class Use>
void by_lists(const DenseList& k, std::int64_t tile, const Use& use) {
  by_lists<List>(k, tile, [](List&, int, std::int64_t) {}, use);
}

// What a block does with a tile: n elements from x on.
template <class T>
struct Tile {
  T* x;
  int n;
  bool aligned;
  __device__ __forceinline__ Tile(const List& list, std::int64_t tile) {
    const int at = list.find(tile);
    const std::int64_t first = (tile - list.start[at]) * list.tile;
    x = static_cast<T*>(list.data[at]) + first;
    n = list.elements(at, first);
    aligned = reinterpret_cast<std::uintptr_t>(x) % kPackBytes == 0;
  }
};

// ---- norms ----------------------------------------------------------------------------------------------------------

template <ListNorm kind>
struct Merge {
  static __device__ __forceinline__ double of(double v) {
    if constexpr (kind == ListNorm::square) return v * v;
    return v < 0 ? -v : v;
  }
  static __device__ __forceinline__ double two(double a, double b) {
    if constexpr (kind == ListNorm::largest) return a > b || a != a ? a : b;  // NaN wins
    return a + b;
  }
};

// Of the whole block, in an order that the number of threads fixes; valid in thread 0.
template <ListNorm kind, int threads>
__device__ __forceinline__ double merge_block(double v) {
  __shared__ double slots[threads / kWarp];
  for (int d = kWarp / 2; d > 0; d /= 2) v = Merge<kind>::two(v, __shfl_down_sync(kFullMask, v, d));
  if (threadIdx.x % kWarp == 0) slots[threadIdx.x / kWarp] = v;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < threads / kWarp; ++w) v = Merge<kind>::two(v, slots[w]);
  __syncthreads();  // the slots may be used again
  return v;
}

template <class T, ListNorm kind>
__global__ void __launch_bounds__(kEachThreads) norm_tiles(const __grid_constant__ List list, double* parts) {
  constexpr int V = kPackOf<T>, kAhead = 4, kStep = kEachThreads * V;
  using M = Merge<kind>;
  for (std::int64_t number = blockIdx.x; number < list.total(); number += gridDim.x) {
    const Tile<const T> tile(list, number);
    double v = 0;
    for (int i = static_cast<int>(threadIdx.x) * V; i < tile.n; i += kAhead * kStep) {
      Pack<T, V> p[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) p[k] = load<T, V>(tile.x, i + k * kStep, tile.n, tile.aligned);
#pragma unroll
      for (int k = 0; k < kAhead; ++k)
#pragma unroll
        for (int j = 0; j < V; ++j) v = M::two(v, M::of(static_cast<double>(static_cast<compute_t<T>>(p[k].v[j]))));
    }
    v = merge_block<kind, kEachThreads>(v);
    if (threadIdx.x == 0) parts[number] = v;
  }
}

template <class T>
void norm_parts(const NormParts& k) {
  double* parts = k.parts;
  by_lists(k, kNormTile, [&](const List& list) {
    const unsigned blocks = grid_for(list.total(), 16);
    if (k.kind == ListNorm::magnitude)
      launch(norm_tiles<T, ListNorm::magnitude>, blocks, kEachThreads, 0, list, parts);
    else if (k.kind == ListNorm::square)
      launch(norm_tiles<T, ListNorm::square>, blocks, kEachThreads, 0, list, parts);
    else
      launch(norm_tiles<T, ListNorm::largest>, blocks, kEachThreads, 0, list, parts);
    parts += list.total();
  });
}

template <class T, ListNorm kind>
__global__ void __launch_bounds__(kFinishThreads) finish_norm(const double* parts, std::int64_t n, T* out) {
  constexpr int kAhead = 8;
  using M = Merge<kind>;
  double v = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kAhead * kFinishThreads) {
    double p[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) p[k] = i + k * kFinishThreads < n ? parts[i + k * kFinishThreads] : 0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) v = M::two(v, p[k]);
  }
  v = merge_block<kind, kFinishThreads>(v);
  if (threadIdx.x == 0) *out = static_cast<T>(static_cast<compute_t<T>>(kind == ListNorm::square ? math::sqrt(v) : v));
}

template <class T>
void norm_of_parts(const NormOfParts& k) {
  T* out = static_cast<T*>(k.out);
  if (k.kind == ListNorm::magnitude)
    launch(finish_norm<T, ListNorm::magnitude>, 1, kFinishThreads, 0, k.parts, k.count, out);
  else if (k.kind == ListNorm::square)
    launch(finish_norm<T, ListNorm::square>, 1, kFinishThreads, 0, k.parts, k.count, out);
  else
    launch(finish_norm<T, ListNorm::largest>, 1, kFinishThreads, 0, k.parts, k.count, out);
}

// ---- factors --------------------------------------------------------------------------------------------------------

constexpr int kScaleItems = 4;  // packs per thread and pass

struct Factor {
  double given;
  const void* norm;
  bool wide;
  template <class N>
  __device__ __forceinline__ double of_norm() const {
    const N f = static_cast<N>(given) / (*static_cast<const N*>(norm) + static_cast<N>(1e-6));
    return static_cast<double>(f > N(1) ? N(1) : f);  // NaN stays
  }
  __device__ __forceinline__ double get() const { return !norm ? given : wide ? of_norm<double>() : of_norm<float>(); }
};

template <class T>
__global__ void __launch_bounds__(kEachThreads)
    scale_list(const __grid_constant__ List list, const Factor factor, float* found) {
  using A = compute_t<T>;
  constexpr int V = kPackOf<T>, kStep = kEachThreads * V;
  // A factor from the device is a tensor that takes the dtype of what it multiplies first.
  const double given = factor.get();
  const A f = factor.norm ? static_cast<A>(static_cast<T>(static_cast<A>(given))) : static_cast<A>(given);
  bool bad = false;
  for (std::int64_t number = blockIdx.x; number < list.total(); number += gridDim.x) {
    const Tile<T> tile(list, number);
    const int first = static_cast<int>(threadIdx.x) * V;
    Pack<T, V> p[kScaleItems];
#pragma unroll
    for (int k = 0; k < kScaleItems; ++k) p[k] = load<T, V>(tile.x, first + k * kStep, tile.n, tile.aligned);
#pragma unroll
    for (int k = 0; k < kScaleItems; ++k) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const T y = static_cast<T>(static_cast<A>(p[k].v[j]) * f);
        const A difference = static_cast<A>(y) - static_cast<A>(y);
        bad |= difference != difference;
        p[k].v[j] = y;
      }
      store<T, V>(tile.x, first + k * kStep, tile.n, tile.aligned, p[k]);
    }
  }
  // Whoever finds something writes the same.
  if (found && bad) *found = 1;
}

template <class T>
void scale(const ScaleList& k) {
  by_lists(k, std::int64_t{kEachThreads} * kPackOf<T> * kScaleItems, [&](const List& list) {
    launch(scale_list<T>, grid_for(list.total(), 16), kEachThreads, 0, list, Factor{k.factor, k.norm, k.wide}, k.found);
  });
}

// ---- casts ----------------------------------------------------------------------------------------------------------

constexpr int kCastItems = 4;  // packs per thread and pass

template <class To, class From>
__global__ void __launch_bounds__(kEachThreads) cast_list(const __grid_constant__ Casts list) {
  constexpr int V = kPackOf<float>, kStep = kEachThreads * V;  // one of the two types is float
  for (std::int64_t tile = blockIdx.x; tile < list.total(); tile += gridDim.x) {
    const int at = list.find(tile);
    const std::int64_t begin = (tile - list.start[at]) * list.tile;
    To* to = static_cast<To*>(list.data[at]) + begin;
    const From* from = static_cast<const From*>(list.from[at]) + begin;
    const int n = list.elements(at, begin), first = static_cast<int>(threadIdx.x) * V;
    const bool adds = list.add_to[at] != 0,
               aligned = reinterpret_cast<std::uintptr_t>(to) % sizeof(Pack<To, V>) == 0 &&
                         reinterpret_cast<std::uintptr_t>(from) % sizeof(Pack<From, V>) == 0;
    Pack<From, V> x[kCastItems];
    Pack<To, V> y[kCastItems];
#pragma unroll
    for (int k = 0; k < kCastItems; ++k) x[k] = load<From, V>(from, first + k * kStep, n, aligned);
    if (adds)
#pragma unroll
      for (int k = 0; k < kCastItems; ++k) y[k] = load<To, V>(to, first + k * kStep, n, aligned);
#pragma unroll
    for (int k = 0; k < kCastItems; ++k) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const float v = static_cast<float>(x[k].v[j]);
        y[k].v[j] = static_cast<To>(adds ? static_cast<float>(y[k].v[j]) + v : v);
      }
      store<To, V>(to, first + k * kStep, n, aligned, y[k]);
    }
  }
}

template <class To, class From>
void cast(const CastList& k) {
  by_lists<Casts>(
      k, std::int64_t{kEachThreads} * kPackOf<float> * kCastItems,
      [&](Casts& list, int i, std::int64_t t) {
        list.from[i] = k.from[t];
        list.add_to[i] = k.add[t];
      },
      [](const Casts& list) { launch(cast_list<To, From>, grid_for(list.total(), 16), kEachThreads, 0, list); });
}

}  // namespace

void register_tensor_lists(KernelTable& t) {
  TensorListKernels& k = family<TensorListKernels>(t);
  each_type(FloatTypes{}, [&]<class T>() {
    k.norm_parts[idx<T>] = norm_parts<T>;
    k.norm_of_parts[idx<T>] = norm_of_parts<T>;
    k.scale[idx<T>] = scale<T>;
  });
  k.cast[idx<float>][idx<float>] = cast<float, float>;
  each_type(Types<Half, BFloat16>{}, [&]<class T>() {
    k.cast[idx<T>][idx<float>] = cast<T, float>;
    k.cast[idx<float>][idx<T>] = cast<float, T>;
  });
}

}  // namespace pydlx::cuda
