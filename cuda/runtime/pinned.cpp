#include "cuda/runtime/pinned.h"

#include <algorithm>

namespace pydlx::cuda {

namespace {

// Powers of two: few sizes, much reuse.
std::size_t rounded(std::size_t n) {
  require(n <= std::size_t{1} << 46, "allocate", "", ErrorKind::OutOfMemory, "out of pinned memory: requested ", n,
          " bytes");
  std::size_t r = 4096;
  while (r < n) r *= 2;
  return r;
}

}  // namespace

void* PinnedAllocator::allocate(std::size_t nbytes) {
  const std::size_t n = rounded(nbytes);
  const std::lock_guard lock(mutex_);
  reclaim();
  ++stats_.allocations;
  void* p = nullptr;
  if (const auto it = free_.find(n); it != free_.end()) {
    p = it->second;
    free_.erase(it);
    ++stats_.cache_hits;
  } else {
    check(cudaHostAlloc(&p, n, cudaHostAllocPortable), "cudaHostAlloc");
    stats_.reserved += n;
    stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
  }
  used_[static_cast<char*>(p)].size = n;
  stats_.in_use += n;
  stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
  return p;
}

void PinnedAllocator::deallocate(void* p, std::size_t) noexcept {
  const std::lock_guard lock(mutex_);
  auto node = used_.extract(static_cast<const char*>(p));
  if (node.empty()) return;
  stats_.in_use -= node.mapped().size;
  waiting_.push_back(std::move(node));
  reclaim();
}

// Moves the waiting blocks whose copies have all run to the free ones.
void PinnedAllocator::reclaim() noexcept {
  std::erase_if(waiting_, [&](Blocks::node_type& node) {
    auto& last = node.mapped().last;
    for (auto it = last.begin(); it != last.end(); it = last.erase(it)) {
      if (cudaEventQuery(it->second) != cudaSuccess) {
        cudaGetLastError();
        return false;
      }
      cudaEventDestroy(it->second);
    }
    free_.emplace(node.mapped().size, const_cast<char*>(node.key()));
    return true;
  });
}

void PinnedAllocator::empty_cache() noexcept {
  const std::lock_guard lock(mutex_);
  reclaim();
  for (const auto& [n, p] : free_) {
    cudaFreeHost(p);
    stats_.reserved -= n;
  }
  free_.clear();
}

AllocatorStats PinnedAllocator::stats() const noexcept {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void PinnedAllocator::reset_peak() noexcept {
  const std::lock_guard lock(mutex_);
  stats_.peak_in_use = stats_.in_use;
  stats_.peak_reserved = stats_.reserved;
}

PinnedAllocator::Blocks::iterator PinnedAllocator::find(const void* p) {
  const char* at = static_cast<const char*>(p);
  auto it = used_.upper_bound(at);
  if (it == used_.begin()) return used_.end();
  --it;
  return at < it->first + it->second.size ? it : used_.end();
}

bool PinnedAllocator::owns(const void* p) noexcept {
  const std::lock_guard lock(mutex_);
  return find(p) != used_.end();
}

void PinnedAllocator::record(const void* p, Stream& stream) {
  const std::lock_guard lock(mutex_);
  const auto it = find(p);
  // What a graph records runs later, as often as its owner wants: the memory is then the owner's to keep.
  if (it == used_.end() || is_capturing(stream)) return;
  cudaEvent_t& e = it->second.last[&stream];
  if (!e) check(cudaEventCreateWithFlags(&e, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  check(cudaEventRecord(e, stream.handle), "cudaEventRecord");
}

}  // namespace pydlx::cuda
