// Memory for tensor data, one caching allocator per device type.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/device.h"

namespace pydlx {

struct AllocatorStats {
  std::uint64_t in_use = 0;       // bytes handed out, rounded to size classes
  std::uint64_t peak_in_use = 0;  // high-water mark of in_use
  std::uint64_t reserved = 0;     // bytes held from the system, cached ones included
  std::uint64_t peak_reserved = 0;
  std::uint64_t allocations = 0;  // calls since start
  std::uint64_t cache_hits = 0;   // calls served without asking the system
};

class Allocator {
 public:
  virtual ~Allocator() = default;
  // Returns at least max(nbytes, 1) bytes aligned to 64; throws OutOfMemory naming requested/in use/cached. `nbytes`
  // must be passed back unchanged to deallocate.
  virtual void* allocate(std::size_t nbytes) = 0;
  virtual void deallocate(void* p, std::size_t nbytes) noexcept = 0;
  virtual void empty_cache() noexcept = 0;  // returns cached blocks to the system
  virtual AllocatorStats stats() const noexcept = 0;
  virtual void reset_peak() noexcept = 0;
};

Allocator& cpu_allocator();
Allocator& allocator_for(Device device);  // DeviceError when the backend is absent

}  // namespace pydlx
