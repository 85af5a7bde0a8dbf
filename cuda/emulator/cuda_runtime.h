// The part of the CUDA runtime that the backend uses, on the host: PYDLX_CUDA=EMULATE compiles the very sources of the
// backend as C++ against this header, so that every kernel's results are tested on machines without a GPU. Threads of a
// block are fibers that switch at barriers and warp collectives; blocks run one after another, those of a cluster or of
// a cooperative launch in turns. Device memory cannot be touched outside kernels and copies, so that code which
// mistakes it for host memory dies in the tests.
//
// It checks: barriers that some threads miss, warp collectives without their lanes, missing barriers (threads run in
// alternating order), work launched with impossible sizes. It says nothing about speed, memory ordering or numerics of
// the hardware's own functions. What sm_90 added is in hopper.h.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define PYDLX_CUDA_EMULATED 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // one block runs at a time; not in clusters or cooperative launches
#define __align__(n) alignas(n)

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// ---- host interface -------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorCooperativeLaunchTooLarge = 720,
  cudaErrorInvalidClusterSize = 912,
  cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone,
  cudaStreamCaptureStatusActive,
  cudaStreamCaptureStatusInvalidated
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
inline constexpr unsigned long long cudaEnableDefault = 0;
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaHostAllocMapped = 2,
                          cudaHostAllocPortable = 1;

struct cudaPointerAttributes {
  cudaMemoryType type;
};
struct cudaDeviceProp {
  char name[256];
  int major, minor, multiProcessorCount, warpSize, maxThreadsPerBlock, l2CacheSize;
  std::size_t totalGlobalMem, sharedMemPerBlockOptin;
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
using cudaGraph_t = struct EmulatedGraph*;
using cudaGraphExec_t = struct EmulatedGraph*;

const char* cudaGetErrorName(cudaError_t);
const char* cudaGetErrorString(cudaError_t);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int*);
cudaError_t cudaGetDevice(int*);
cudaError_t cudaSetDevice(int);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void**, std::size_t);
cudaError_t cudaFree(void*);
cudaError_t cudaHostAlloc(void**, std::size_t, unsigned flags);
cudaError_t cudaFreeHost(void*);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes*, const void*);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t, cudaMemcpyKind, cudaStream_t);
cudaError_t cudaMemsetAsync(void*, int value, std::size_t, cudaStream_t);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaStreamCreateWithPriority(cudaStream_t*, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t);
cudaError_t cudaStreamSynchronize(cudaStream_t);
cudaError_t cudaStreamQuery(cudaStream_t);
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned flags);
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t*);
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus*);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t*, cudaGraph_t, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t);
cudaError_t cudaGraphDestroy(cudaGraph_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t*, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t);
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t);
cudaError_t cudaEventQuery(cudaEvent_t);
cudaError_t cudaEventSynchronize(cudaEvent_t);
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t);
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned version,
                                             unsigned long long flags, cudaDriverEntryPointQueryResult*);
// cudaFuncAttributeMaxDynamicSharedMemorySize, the only one.
cudaError_t emulated_allow_shared(const void* kernel, int bytes);
template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute, int value) {
  return emulated_allow_shared(reinterpret_cast<const void*>(kernel), value);
}
cudaError_t cudaFuncGetName(const char** name, const void* kernel);
cudaError_t emulated_occupancy(int* blocks, int threads, std::size_t shared_bytes);
template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, T*, int threads, std::size_t shared_bytes) {
  return emulated_occupancy(blocks, threads, shared_bytes);
}

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension = 4 };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 grid, block;  // gridDim, blockDim: macros here
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;  // one, of clusters
  unsigned numAttrs;
};
cudaError_t emulated_clusters(int* clusters, const cudaLaunchConfig_t&);
template <class T>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, T*, const cudaLaunchConfig_t* config) {
  return emulated_clusters(clusters, *config);
}

// ---- inside kernels -------------------------------------------------------------------------------------------------

namespace emulator {

struct Thread {
  uint3 thread, block;
  dim3 block_size, grid_size;
  unsigned lane = 0;
};
extern Thread* current;

// Runs the kernel, or adds it to the graph that the stream captures.
cudaError_t launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> kernel);
// Whether the kernel may be launched on the current device with so much dynamic shared memory: 48 KiB, or as much as
// was allowed there.
cudaError_t permitted(const void* kernel, std::size_t shared_bytes);
// The same for a cooperative launch: all blocks are alive, and take turns.
cudaError_t launch_together(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel);
// The same in clusters of neighbouring blocks, whose shared memory is one.
cudaError_t launch_clusters(dim3 grid, dim3 block, dim3 cluster, std::size_t shared_bytes, cudaStream_t stream,
                            std::function<void()> kernel);
void* shared_memory();
void barrier();
// Waits for the lanes of `mask`; then every lane's bytes can be read with `slot`. At most 16 bytes.
void exchange(unsigned mask, const void* value, std::size_t bytes);
const void* slot(unsigned lane);
bool lane_in(unsigned mask, unsigned lane);

template <class T>
T shuffle(unsigned mask, T value, unsigned from, bool inside) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "what the hardware's shuffle takes");
  exchange(mask, &value, sizeof value);
  T other = value;
  if (inside && lane_in(mask, from)) std::memcpy(&other, slot(from), sizeof other);
  return other;
}

}  // namespace emulator

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* c, void (*kernel)(P...), A&&... args) {
  if (const cudaError_t e = emulator::permitted(reinterpret_cast<const void*>(kernel), c->dynamicSmemBytes)) return e;
  return emulator::launch_clusters(c->grid, c->block, c->attrs->val.clusterDim, c->dynamicSmemBytes, c->stream,
                                   [=] { kernel(static_cast<P>(args)...); });
}

#define threadIdx (::emulator::current->thread)
#define blockIdx (::emulator::current->block)
#define blockDim (::emulator::current->block_size)
#define gridDim (::emulator::current->grid_size)
inline constexpr int warpSize = 32;

inline void __syncthreads() { emulator::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  char nothing = 0;
  emulator::exchange(mask, &nothing, 1);
}
inline void __threadfence() {}
inline void __threadfence_system() {}

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
  const unsigned lane = emulator::current->lane, base = lane & ~static_cast<unsigned>(width - 1);
  return emulator::shuffle(mask, v, base + (static_cast<unsigned>(from) & static_cast<unsigned>(width - 1)), true);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const unsigned lane = emulator::current->lane, from = lane ^ static_cast<unsigned>(bits);
  return emulator::shuffle(mask, v, from,
                           (from & ~static_cast<unsigned>(width - 1)) == (lane & ~static_cast<unsigned>(width - 1)));
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const unsigned lane = emulator::current->lane, from = lane + by;
  return emulator::shuffle(mask, v, from,
                           (lane & static_cast<unsigned>(width - 1)) + by < static_cast<unsigned>(width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32) {
  const unsigned lane = emulator::current->lane, from = lane - by;
  return emulator::shuffle(mask, v, from, (lane & static_cast<unsigned>(width - 1)) >= by);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const char p = predicate != 0;
  emulator::exchange(mask, &p, 1);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (emulator::lane_in(mask, l) && *static_cast<const char*>(emulator::slot(l))) bits |= 1u << l;
  return bits;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T v) {
  emulator::exchange(mask, &v, sizeof v);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l)
    if (emulator::lane_in(mask, l) && std::memcmp(emulator::slot(l), &v, sizeof v) == 0) bits |= 1u << l;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<std::uint64_t>(a) * b >> 32);
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
// Not fused with what is done with the result.
inline float __fmul_rn(float x, float y) {
  const volatile float z = x * y;
  return z;
}
inline double __dmul_rn(double x, double y) {
  const volatile double z = x * y;
  return z;
}
inline float __fsub_rn(float x, float y) {
  const volatile float z = x - y;
  return z;
}
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}

// Blocks and threads take turns, so plain reads and writes are atomic.
template <class T>
T atomicAdd(T* p, T v) {
  const T old = *p;
  *p = old + v;
  return old;
}
template <class T>
T atomicMax(T* p, T v) {
  const T old = *p;
  if (v > old) *p = v;
  return old;
}
template <class T>
T atomicMin(T* p, T v) {
  const T old = *p;
  if (v < old) *p = v;
  return old;
}
template <class T>
T atomicExch(T* p, T v) {
  const T old = *p;
  *p = v;
  return old;
}
template <class T>
T atomicCAS(T* p, T expected, T v) {
  const T old = *p;
  if (old == expected) *p = v;
  return old;
}
template <class T>
T atomicOr(T* p, T v) {
  const T old = *p;
  *p = old | v;
  return old;
}
