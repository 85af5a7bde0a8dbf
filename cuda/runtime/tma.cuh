// The copy engine of sm_90 (TMA): boxes of a tensor in global memory go to shared memory by themselves, positions
// outside the tensor as zeros. The host describes the tensor in a map, which kernels take by value as a
// __grid_constant__ parameter.
#pragma once
#include <cuda.h>

#include <type_traits>

#include "cuda/runtime/mbarrier.cuh"

namespace pydlx::cuda {
namespace {

// Chunks of 16 bytes in lines of 128 bytes: chunk c of line l lies in the place of chunk c ^ (l % 8). Lines are counted
// from an address that is a multiple of this.
constexpr int kSwizzlePeriod = 1024;

// A tensor of 16-bit floats with three or four axes, the first contiguous.
template <int rank>
struct BoxSource {
  const void* data;            // a multiple of 16
  std::int64_t sizes[rank];    // 1 .. 2^31 - 1
  std::int64_t strides[rank];  // in elements; [0] is 1, the others multiples of 8, below 2^39
  int box[rank];               // elements per copy, [0] 64
};

// The driver's function that encodes maps; null where the driver is too old. Nothing is linked against the driver.
inline decltype(&cuTensorMapEncodeTiled) map_encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSymbolNotFound;
    const cudaError_t e =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &status);
    if (e != cudaSuccess) cudaGetLastError();
    const bool usable = e == cudaSuccess && status == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function) : nullptr;
  }();
  return found;
}

// The map for copies with the swizzle above. False when the driver refuses.
template <class T, int rank = 3>
bool encode_map(CUtensorMap& map, const BoxSource<rank>& s) {
  static_assert(rank == 3 || rank == 4);
  const auto encode = map_encoder();
  if (!encode) return false;
  cuuint64_t sizes[rank], strides[rank - 1];  // bytes; the first axis has none
  cuuint32_t box[rank], every[rank];
  for (int i = 0; i < rank; ++i) {
    every[i] = 1;
    sizes[i] = static_cast<cuuint64_t>(s.sizes[i]);
    box[i] = static_cast<cuuint32_t>(s.box[i]);
    if (i > 0) strides[i - 1] = static_cast<cuuint64_t>(s.strides[i]) * 2;
  }
  constexpr auto kType = std::is_same_v<T, Half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  return encode(&map, kType, rank, const_cast<void*>(s.data), sizes, strides, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Starts the copy of the box whose first element is at (x, y, z); `done` gets the bytes of the whole box.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, int x, int y, int z, Barrier* done) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::tensor_load(shared_address(to), map, {x, y, z}, shared_address(done));
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(shared_address(done)), "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}
// The same to this place in each of the blocks of the cluster that have a bit in `blocks`; each one's barrier at the
// place of `done` gets the bytes.
__device__ __forceinline__ void load_box_for(unsigned blocks, void* to, const CUtensorMap& map, int x, int y, int z,
                                             Barrier* done) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::tensor_load(shared_address(to), map, {x, y, z}, shared_address(done), blocks);
#else
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, "
      "{%4, %5, %6}], [%2], %3;" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(shared_address(done)), "h"(static_cast<std::uint16_t>(blocks)),
      "r"(x), "r"(y), "r"(z)
      : "memory");
#endif
}
// As load_box, from a tensor with four axes.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap& map, int x, int y, int z, int w, Barrier* done) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::tensor_load(shared_address(to), map, {x, y, z, w}, shared_address(done));
#else
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(shared_address(done)), "r"(x), "r"(y), "r"(z), "r"(w)
      : "memory");
#endif
}

}  // namespace
}  // namespace pydlx::cuda
