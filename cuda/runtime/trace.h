// PYDLX_CUDA_TRACE=FILE: what is queued on devices, a line each, appended to FILE (docs/gpu.md, "What a step
// launches"). Off, a launch costs one test of a constant.
#pragma once
#include "cuda/runtime/api.h"

namespace pydlx::cuda {

extern const bool trace_on;

__attribute__((cold)) void trace_kernel(const void* kernel, dim3 grid, dim3 block, std::size_t shared) noexcept;
// "copy", "fill", "graph", or "wait" where the host waits for the device; bytes where there are any.
__attribute__((cold)) void trace_other(const char* what, std::size_t bytes) noexcept;

}  // namespace pydlx::cuda
