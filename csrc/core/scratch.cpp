#include "core/scratch.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

namespace pydlx {

namespace {

struct Buffers {
  struct Buffer {
    void* data = nullptr;
    std::size_t capacity = 0;
  } slot[static_cast<int>(ScratchSlot::COUNT)];
  ~Buffers() {
    for (auto& b : slot) std::free(b.data);
  }
};
thread_local Buffers t_buffers;

}  // namespace

void* thread_scratch(ScratchSlot slot, std::size_t bytes) noexcept {
  auto& b = t_buffers.slot[static_cast<int>(slot)];
  if (bytes <= b.capacity) return b.data;
  // Large buffers start on a huge page: packed panels are walked end to end, and small pages would thrash the address
  // cache.
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  const std::size_t unit = bytes >= kHuge / 4 ? kHuge : 4096;
  if (bytes > static_cast<std::size_t>(-1) / 2) return nullptr;
  const std::size_t size = (bytes + unit - 1) / unit * unit;
  std::free(b.data);
  b = {};
  void* p = std::aligned_alloc(unit, size);
  if (!p) return nullptr;
#ifdef MADV_HUGEPAGE
  if (unit == kHuge) madvise(p, size, MADV_HUGEPAGE);
#endif
  b.data = p;
  b.capacity = size;
  return p;
}

}  // namespace pydlx
