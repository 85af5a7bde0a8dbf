// Page-locked host memory, which copies to and from devices need not stage. Blocks are kept by size, and given to
// another owner only after the copies that were begun on them have run.
#pragma once
#include <map>
#include <mutex>
#include <vector>

#include "core/allocator.h"
#include "cuda/runtime/stream.h"

namespace pydlx::cuda {

class PinnedAllocator final : public Allocator {
 public:
  void* allocate(std::size_t nbytes) override;
  void deallocate(void* p, std::size_t nbytes) noexcept override;
  void empty_cache() noexcept override;
  AllocatorStats stats() const noexcept override;
  void reset_peak() noexcept override;

  bool owns(const void* p) noexcept;
  // A copy that reads or writes the block around p has been queued on `stream`. Memory from elsewhere is nobody's
  // business here.
  void record(const void* p, Stream& stream);

 private:
  struct Block {
    std::size_t size = 0;
    std::map<Stream*, cudaEvent_t> last;  // by stream, the end of the latest copy
  };
  using Blocks = std::map<const char*, Block>;

  Blocks::iterator find(const void* p);
  void reclaim() noexcept;

  mutable std::mutex mutex_;
  Blocks used_;
  std::vector<Blocks::node_type> waiting_;  // given back while copies still run
  std::multimap<std::size_t, void*> free_;
  AllocatorStats stats_;
};

}  // namespace pydlx::cuda
