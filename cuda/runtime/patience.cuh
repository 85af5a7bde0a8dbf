// For loops of kernels that wait for other threads or for the copy engine: a wait is microseconds long, and one that
// takes as long as this is a bug, which ends the kernel with an error instead of hanging the device.
#pragma once
#include <cstdint>

#include "cuda/runtime/launch.h"

namespace pydlx::cuda {
namespace {

#if !defined(PYDLX_CUDA_EMULATED)  // which sees when nobody can go on
// By the clock and not by the number of tries: hardware may let a try sleep, for as long as it likes.
class Patience {
 public:
  __device__ __forceinline__ Patience() : begin_(now()) {}
  __device__ __forceinline__ void wear() const {
    if (now() - begin_ > kMost) __trap();
  }

 private:
  static constexpr std::uint32_t kMost = 10'000;
  // In steps of 2^20 nanoseconds, about a millisecond.
  __device__ __forceinline__ static std::uint32_t now() {
    std::uint64_t nanoseconds;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanoseconds));
    return static_cast<std::uint32_t>(nanoseconds >> 20);
  }
  const std::uint32_t begin_;
};
#endif

}  // namespace
}  // namespace pydlx::cuda
