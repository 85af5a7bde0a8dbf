// Per-thread scratch memory for kernels: grows to the largest request, is reused by every later call of the thread, and
// is released when the thread ends. One slot per kernel family, because a kernel may call another one while its own
// scratch is in use.
#pragma once
#include <cstddef>

namespace pydlx {

enum class ScratchSlot : int { gemm, gemm_convert, attention, recurrence, convolution, reduction, COUNT };

// At least `bytes` bytes aligned to 64, with whatever content the last use left; null when there is no memory.
void* thread_scratch(ScratchSlot slot, std::size_t bytes) noexcept;

}  // namespace pydlx
