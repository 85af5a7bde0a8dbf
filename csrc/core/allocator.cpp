// The caching CPU allocator. Freed blocks stay in free lists by size class, so a training step after the first costs no
// page faults, which are the largest single cost of CPU training otherwise. Large blocks are 2 MiB aligned and ask for
// huge pages.
#include "core/allocator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>

#include "core/check.h"

namespace pydlx {

namespace {

constexpr std::size_t kSmall = 4096;       // up to here: classes of 64 bytes, no header
constexpr std::size_t kHeader = 64;        // larger blocks carry their class in front of the data
constexpr std::size_t kMapped = 1u << 20;  // from here: own mapping with huge pages
constexpr std::size_t kHugePage = 2u << 20;
constexpr std::size_t kSmallClasses = kSmall / 64;
constexpr std::size_t kClasses = kSmallClasses + 52 * 8;  // then eight classes per octave
constexpr std::size_t kBorrow = 3;  // a request may be served by a block up to three classes (about 40 %) larger

struct SizeClass {
  std::size_t index, bytes;
};

SizeClass size_class(std::size_t n) {
  if (n <= kSmall) {
    const std::size_t i = n == 0 ? 0 : (n - 1) / 64;
    return {i, (i + 1) * 64};
  }
  const int octave = 63 - __builtin_clzll(n - 1);  // 2^octave <= n - 1
  const std::size_t step = std::size_t{1} << (octave - 3);
  const std::size_t k = (n - 1 - (std::size_t{1} << octave)) / step;
  return {kSmallClasses + static_cast<std::size_t>(octave - 12) * 8 + k, (std::size_t{1} << octave) + (k + 1) * step};
}

std::size_t class_bytes(std::size_t index) {
  if (index < kSmallClasses) return (index + 1) * 64;
  const std::size_t octave = 12 + (index - kSmallClasses) / 8, k = (index - kSmallClasses) % 8;
  return (std::size_t{1} << octave) + (k + 1) * (std::size_t{1} << (octave - 3));
}

struct FreeBlock {
  FreeBlock* next;
};
struct Header {
  std::size_t index;
};

// Critical sections are a few instructions; a futex-based mutex would cost more than the work it protects.
class SpinLock {
 public:
  void lock() noexcept {
    while (flag_.test_and_set(std::memory_order_acquire))
      while (flag_.test(std::memory_order_relaxed)) {}
  }
  void unlock() noexcept { flag_.clear(std::memory_order_release); }

 private:
  std::atomic_flag flag_;
};

class Guard {
 public:
  explicit Guard(SpinLock& l) noexcept : lock_(l) { lock_.lock(); }
  ~Guard() { lock_.unlock(); }
  Guard(const Guard&) = delete;

 private:
  SpinLock& lock_;
};

class CpuAllocator final : public Allocator {
 public:
  void* allocate(std::size_t nbytes) override {
    if (nbytes > (std::size_t{1} << 46)) out_of_memory(nbytes);
    if (!caching_) return allocate_plain(nbytes);
    const auto [index, bytes] = size_class(nbytes);
    {
      const Guard guard(lock_);
      ++stats_.allocations;
      if (void* p = pop(index)) return p;
      if (index >= kSmallClasses)
        for (std::size_t i = index + 1; i <= index + kBorrow && i < kClasses; ++i)
          if (void* p = pop(i)) return p;
    }
    void* p = from_system(index, bytes);
    if (!p) {
      empty_cache();
      p = from_system(index, bytes);
      if (!p) out_of_memory(nbytes);
    }
    const Guard guard(lock_);
    take(bytes);
    stats_.reserved += bytes;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    return p;
  }

  void deallocate(void* p, std::size_t nbytes) noexcept override {
    if (!caching_) {
      const Guard guard(lock_);
      stats_.in_use -= nbytes;
      stats_.reserved -= nbytes;
      std::free(p);
      return;
    }
    const std::size_t index = nbytes <= kSmall ? size_class(nbytes).index : header(p)->index;
    const std::size_t bytes = class_bytes(index);
    const Guard guard(lock_);
    stats_.in_use -= bytes;
    auto* block = static_cast<FreeBlock*>(p);
    block->next = free_[index];
    free_[index] = block;
  }

  void empty_cache() noexcept override {
    const Guard guard(lock_);
    for (std::size_t i = 0; i < kClasses; ++i)
      while (FreeBlock* b = free_[i]) {
        free_[i] = b->next;
        to_system(b, i);
        stats_.reserved -= class_bytes(i);
      }
  }

  AllocatorStats stats() const noexcept override {
    const Guard guard(lock_);
    return stats_;
  }
  void reset_peak() noexcept override {
    const Guard guard(lock_);
    stats_.peak_in_use = stats_.in_use;
    stats_.peak_reserved = stats_.reserved;
  }

 private:
  static Header* header(void* p) { return reinterpret_cast<Header*>(static_cast<char*>(p) - kHeader); }

  void take(std::size_t bytes) {
    stats_.in_use += bytes;
    stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
  }
  void* pop(std::size_t index) {
    FreeBlock* b = free_[index];
    if (!b) return nullptr;
    free_[index] = b->next;
    take(class_bytes(index));
    ++stats_.cache_hits;
    return b;
  }

  // Whole huge pages where that adds little; otherwise the mapping ends with the block, and the part behind the last
  // whole huge page gets ordinary pages: 3 MB must not hold 4 MB of memory.
  static std::size_t mapped_bytes(std::size_t bytes) {
    const std::size_t used = bytes + kHeader, whole = (used + kHugePage - 1) / kHugePage * kHugePage;
    static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return whole - used <= used / 16 ? whole : (used + page - 1) / page * page;
  }

  static void* from_system(std::size_t index, std::size_t bytes) {
    if (index < kSmallClasses) return std::aligned_alloc(64, bytes);
    char* block;
    if (bytes < kMapped) {
      block = static_cast<char*>(std::aligned_alloc(64, bytes + kHeader));
    } else {
      // Map one huge page too much and give the unaligned ends back.
      const std::size_t size = mapped_bytes(bytes);
      auto* raw = static_cast<char*>(
          mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
      if (raw == MAP_FAILED) return nullptr;
      block = reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(raw) + kHugePage - 1) / kHugePage * kHugePage);
      if (block > raw) munmap(raw, static_cast<std::size_t>(block - raw));
      if (const std::size_t tail = static_cast<std::size_t>(raw + kHugePage - block)) munmap(block + size, tail);
      madvise(block, size, MADV_HUGEPAGE);
    }
    if (!block) return nullptr;
    new (block) Header{index};
    return block + kHeader;
  }

  static void to_system(void* p, std::size_t index) noexcept {
    if (index < kSmallClasses) {
      std::free(p);
    } else if (const std::size_t bytes = class_bytes(index); bytes < kMapped) {
      std::free(header(p));
    } else {
      munmap(header(p), mapped_bytes(bytes));
    }
  }

  // For sanitizers: every tensor gets an exact block of its own, so that overruns and late uses are seen.
  void* allocate_plain(std::size_t nbytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 64, std::max<std::size_t>(nbytes, 1)) != 0) out_of_memory(nbytes);
    const Guard guard(lock_);
    ++stats_.allocations;
    take(nbytes);
    stats_.reserved += nbytes;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
    return p;
  }

  [[noreturn]] void out_of_memory(std::size_t nbytes) {
    const AllocatorStats s = stats();
    fail("allocate", "", ErrorKind::OutOfMemory, "out of CPU memory: requested ", nbytes, " bytes, in use ",
         std::size_t{s.in_use}, ", cached ", std::size_t{s.reserved - s.in_use},
         "; use smaller batches, or free tensors and call empty_cache()");
  }

  mutable SpinLock lock_;
  FreeBlock* free_[kClasses] = {};
  AllocatorStats stats_;
  const bool caching_ = std::getenv("PYDLX_NO_CACHING") == nullptr;
};

}  // namespace

Allocator& cpu_allocator() {
  // Never destroyed: tensors held by the interpreter may outlive static destructors.
  static auto* a = new CpuAllocator;
  return *a;
}

}  // namespace pydlx
