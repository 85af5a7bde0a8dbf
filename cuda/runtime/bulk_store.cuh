// The way back to memory (sm_90): a warp writes its registers into a panel of shared memory (stmatrix), and the copy
// engine stores the panel as a box of a tensor.
//
// Order, as the manual demands: what threads have written is shown to the engine by each of them (show_to_engines),
// they meet, and one of them starts the store and closes a group. The panel may be written again once that thread has
// waited until the group was read, and the threads have met again. Before a block ends, its groups must have been read.
#pragma once
#include "cuda/runtime/mma.cuh"
#include "cuda/runtime/tma.cuh"

namespace pydlx::cuda {
namespace {

// Four 8 x 8 matrices of 16-bit elements; lanes 8 m .. 8 m + 7 name the rows of matrix m. Register m has of matrix m
// elements (lane / 4, 2 (lane % 4)) and the next one.
__device__ __forceinline__ void stmatrix_x4(void* row, const std::uint32_t (&r)[4]) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::exchange(kFullMask, &row, sizeof row);
  const unsigned lane = emulator::current->lane;
  for (unsigned m = 0; m < 4; ++m) {
    unsigned char* to;
    std::memcpy(&to, emulator::slot(8 * m + lane / 4), sizeof to);
    emulator::write_shared(to + lane % 4 * 4, &r[m], 4);
  }
#else
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
#endif
}

// Starts the store of a panel into the box whose first element is at (x, y, z); what lies outside the tensor is left
// out.
__device__ __forceinline__ void store_box(const void* from, const CUtensorMap& map, int x, int y, int z) {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::tensor_store(shared_address(from), map, {x, y, z});
#else
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(
                   reinterpret_cast<std::uint64_t>(&map)),
               "r"(shared_address(from)), "r"(x), "r"(y), "r"(z)
               : "memory");
#endif
}
// Closes a group of the stores that this thread has started.
__device__ __forceinline__ void stores_commit() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::stores_commit();
#else
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
// All but the newest `pending` of this thread's groups have been read from shared memory.
template <int pending>
__device__ __forceinline__ void stores_wait_read() {
#if defined(PYDLX_CUDA_EMULATED)
  emulator::stores_wait_read(pending);
#else
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
#endif
}

}  // namespace
}  // namespace pydlx::cuda
