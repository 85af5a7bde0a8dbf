// Device memory: one reserved range, a map of used pieces. Locked while no kernel and no copy runs.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>

#include "cuda/emulator/hopper.h"

namespace emulator {

constexpr std::size_t kMemory = std::size_t{2} << 30;  // small, so that tests can exhaust it
constexpr std::size_t kHuge = std::size_t{2} << 20;    // bytes of a huge page

class Memory {
 public:
  Memory() {
    void* const range =
        mmap(nullptr, kMemory + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) die("cannot reserve device memory");
    base_ = static_cast<char*>(range) + (kHuge - reinterpret_cast<std::uintptr_t>(range) % kHuge) % kHuge;
    madvise(base_, kMemory, MADV_HUGEPAGE);  // each launch changes the protection of every page
    key_ = pkey_alloc(0, 0);                 // costs nothing to switch; few processors have it
    if (key_ >= 0 && pkey_mprotect(base_, kMemory, PROT_READ | PROT_WRITE, key_) != 0) key_ = -1;
    free_[0] = kMemory;
    lock();
  }
  void* allocate(std::size_t n) {
    n = std::max<std::size_t>((n + 511) / 512 * 512, 512);
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if (it->second >= n) {
        const std::size_t at = it->first, rest = it->second - n;
        free_.erase(it);
        if (rest) free_[at + n] = rest;
        used_[at] = n;
        in_use_ += n;
        reach_ = std::max(reach_, (at + n + kHuge - 1) / kHuge * kHuge);
        return base_ + at;
      }
    return nullptr;
  }
  bool release(void* p) {
    const auto it = used_.find(static_cast<std::size_t>(static_cast<char*>(p) - base_));
    if (it == used_.end()) return false;
    auto [at, n] = *it;
    in_use_ -= n;
    used_.erase(it);
    if (n >= kHuge) madvise(base_ + at, n, MADV_DONTNEED);
    auto next = free_.lower_bound(at);
    if (next != free_.end() && at + n == next->first) {
      n += next->second;
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto before = std::prev(next);
      if (before->first + before->second == at) {
        before->second += n;
        return true;
      }
    }
    free_[at] = n;
    return true;
  }
  bool owns(const void* p) const { return p >= base_ && p < base_ + kMemory; }
  std::size_t unused() const { return kMemory - in_use_; }
  void unlock() { protect(0, PROT_READ | PROT_WRITE); }
  void lock() { protect(PKEY_DISABLE_ACCESS, PROT_NONE); }

 private:
  void protect(unsigned rights, int protection) {
    if (key_ >= 0)
      pkey_set(key_, rights);
    else
      mprotect(base_, reach_, protection);
  }

  char* base_;
  int key_ = -1;
  std::size_t reach_ = kHuge;  // end of the pages that were ever handed out
  std::map<std::size_t, std::size_t> free_, used_;
  std::size_t in_use_ = 0;
};

}  // namespace emulator
