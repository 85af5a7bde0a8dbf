#include "core/allocator.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "core/check.h"

namespace pydlx {

namespace {

// Size classes: multiples of 64 bytes up to 4 KiB, then eight per octave.
struct SizeClass {
  std::size_t index, bytes;
};
SizeClass size_class(std::size_t n) {
  if (n == 0) n = 1;
  if (n <= 4096) return {(n - 1) / 64, ((n - 1) / 64 + 1) * 64};
  const int octave = 63 - __builtin_clzll(n - 1);  // 2^octave <= n-1
  const std::size_t step = std::size_t{1} << (octave - 3);
  const std::size_t k = (n - 1 - (std::size_t{1} << octave)) / step;
  return {64 + static_cast<std::size_t>(octave - 12) * 8 + k, (std::size_t{1} << octave) + (k + 1) * step};
}
constexpr std::size_t kClasses = 64 + 52 * 8;

class CpuAllocator final : public Allocator {
 public:
  void* allocate(std::size_t nbytes) override {
    require(nbytes <= (std::size_t{1} << 62), "allocate", "size", ErrorKind::OutOfMemory, "expected at most 2^62 bytes, got ", nbytes);
    const auto [index, bytes] = size_class(nbytes);
    {
      const std::lock_guard lock(mutex_);
      ++stats_.allocations;
      stats_.in_use += bytes;
      stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
      if (auto& bin = bins_[index]; !bin.empty()) {
        void* p = bin.back();
        bin.pop_back();
        ++stats_.cache_hits;
        return p;
      }
    }
    void* p = std::aligned_alloc(64, bytes);
    if (!p) {
      empty_cache();
      p = std::aligned_alloc(64, bytes);
    }
    const std::lock_guard lock(mutex_);
    if (!p) {
      stats_.in_use -= bytes;
      fail("allocate", "", ErrorKind::OutOfMemory, "out of CPU memory: requested ", nbytes, " bytes, in use ",
           std::size_t{stats_.in_use}, ", cached ", std::size_t{stats_.reserved - stats_.in_use});
    }
    stats_.reserved += bytes;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    return p;
  }
  void deallocate(void* p, std::size_t nbytes) noexcept override {
    const auto [index, bytes] = size_class(nbytes);
    const std::lock_guard lock(mutex_);
    stats_.in_use -= bytes;
    bins_[index].push_back(p);
  }
  void empty_cache() noexcept override {
    const std::lock_guard lock(mutex_);
    for (auto& bin : bins_) {
      for (void* p : bin) std::free(p);
      bin.clear();
    }
    stats_.reserved = stats_.in_use;
  }
  AllocatorStats stats() const noexcept override {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_peak() noexcept override {
    const std::lock_guard lock(mutex_);
    stats_.peak_in_use = stats_.in_use;
    stats_.peak_reserved = stats_.reserved;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<void*> bins_[kClasses];
  AllocatorStats stats_;
};

}  // namespace

Allocator& cpu_allocator() {
  // Never destroyed: tensors held by the interpreter may outlive static destructors.
  static auto* a = new CpuAllocator;
  return *a;
}

Allocator& allocator_for(Device device) {
  if (device.is_cpu()) return cpu_allocator();
  fail("device", "", ErrorKind::Device, "no backend for device ", device, " in this build");
}

}  // namespace pydlx
