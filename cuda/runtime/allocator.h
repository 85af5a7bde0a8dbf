// The caching allocator of one device. Memory is cut from large blocks of the driver and returned to per-stream free
// lists, so that a training step after the first never calls the driver and never waits.
#pragma once
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <vector>

#include "core/allocator.h"
#include "cuda/runtime/stream.h"

namespace pydlx::cuda {

class CachingAllocator final : public Allocator {
 public:
  explicit CachingAllocator(int device) : device_(device) {}

  void* allocate(std::size_t nbytes) override;
  void deallocate(void* p, std::size_t nbytes) noexcept override;
  void empty_cache() noexcept override;
  AllocatorStats stats() const noexcept override;
  void reset_peak() noexcept override;

  // The block is given to another owner only after `stream` has passed its present end.
  void record_stream(void* p, Stream& stream);

  // Allocations of `stream` come from a pool of their own until end_pool; their addresses stay reserved for the pool's
  // owner (a graph that replays with them) until release_pool.
  int begin_pool(Stream& stream);
  void end_pool(Stream& stream);
  void release_pool(int pool) noexcept;

 private:
  struct Block {
    char* data = nullptr;
    std::size_t size = 0;
    Stream* stream = nullptr;
    int pool = 0;  // 0: shared
    bool in_use = false;
    Block *before = nullptr, *after = nullptr;  // neighbours in the same piece of driver memory
    std::set<Stream*> users;                    // other streams that read or write it
  };
  struct Waiting {
    cudaEvent_t event;
    Block* block;
  };
  // Free blocks by pool, stream and size.
  struct Key {
    int pool;
    Stream* stream;
    std::size_t size;
    char* data;
    auto operator<=>(const Key&) const = default;
  };
  static Key key(const Block& b) { return {b.pool, b.stream, b.size, b.data}; }

  Block* find(int pool, Stream* stream, std::size_t size);
  Block* from_driver(int pool, Stream* stream, std::size_t size);
  void make_free(Block* b);
  void merge(Block* b, Block* next);
  void reclaim(bool wait);
  void return_unused() noexcept;

  const int device_;
  mutable std::mutex mutex_;
  std::map<Key, Block*> free_;
  std::unordered_map<void*, Block*> used_;
  std::vector<Waiting> waiting_;
  std::map<Stream*, int> pools_;  // streams that allocate from a pool at present
  std::set<int> released_;        // pools whose blocks join the shared one when they are freed
  int next_pool_ = 1;
  AllocatorStats stats_;
};

}  // namespace pydlx::cuda
