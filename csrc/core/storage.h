// A block of device memory shared by all views of it, with the version counter that catches in-place changes of saved
// tensors.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/callsite.h"
#include "core/device.h"
#include "core/ref.h"

namespace pydlx {

struct Storage : RefCounted {
  using Deleter = void (*)(void* data, std::size_t nbytes, void* context) noexcept;

  void* data = nullptr;
  std::size_t nbytes = 0;
  Device device;
  bool read_only = false;             // memory imported from a read-only buffer
  std::uint32_t version = 0;          // counts in-place writes
  const char* last_writer = nullptr;  // op that bumped `version` last, and from where, for error messages
  CallSite last_write_site;
  Deleter deleter = nullptr;  // null: memory belongs to the device's caching allocator
  void* context = nullptr;
  // Data of 0-d tensors and the like lives in the object itself: Python numbers on their way into an op cost no
  // allocation.
  static constexpr std::size_t kInline = 16;
  alignas(16) unsigned char inline_data[kInline];
};

void destroy(Storage* s) noexcept;
Ref<Storage> new_storage(std::size_t nbytes, Device device);
// Wraps foreign memory (NumPy, DLPack, a mapped file); `deleter` runs when the last view dies.
Ref<Storage> foreign_storage(void* data, std::size_t nbytes, Device device, Storage::Deleter deleter, void* context,
                             bool read_only);

}  // namespace pydlx
