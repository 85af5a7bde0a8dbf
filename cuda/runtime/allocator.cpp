#include "cuda/runtime/allocator.h"

#include <algorithm>

namespace pydlx::cuda {

namespace {

constexpr std::size_t kGranule = 512;     // every block is a multiple
constexpr std::size_t kSmall = 1u << 20;  // up to here: cut from pieces of kSmallPiece
constexpr std::size_t kSmallPiece = 2u << 20;
constexpr std::size_t kMedium = 10u << 20;       // up to here: cut from pieces of kMediumPiece
constexpr std::size_t kMediumPiece = 20u << 20;  // larger ones: own pieces, multiples of kLargeStep
constexpr std::size_t kLargeStep = 2u << 20;

std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

std::size_t block_size(std::size_t n) { return round_up(std::max<std::size_t>(n, 1), kGranule); }
std::size_t piece_size(std::size_t n) {
  return n <= kSmall ? kSmallPiece : n <= kMedium ? kMediumPiece : round_up(n, kLargeStep);
}
// What is left of a block after cutting `n` from it is worth keeping.
bool splits(std::size_t block, std::size_t n) { return block - n >= (n <= kSmall ? kGranule : kSmall); }

}  // namespace

void* CachingAllocator::allocate(std::size_t nbytes) {
  Stream& stream = current_stream(device_);
  const std::size_t size = nbytes > (std::size_t{1} << 46) ? nbytes : block_size(nbytes);
  const std::lock_guard lock(mutex_);
  const auto pooled = pools_.find(&stream);
  const int pool = pooled == pools_.end() ? 0 : pooled->second;
  ++stats_.allocations;
  if (!waiting_.empty() && pool == 0) reclaim(false);
  Block* b = find(pool, &stream, size);
  if (b)
    ++stats_.cache_hits;
  else
    b = from_driver(pool, &stream, size);
  if (!b && pool == 0) {  // give everything back that nobody uses, and try once more
    reclaim(true);
    return_unused();
    b = from_driver(pool, &stream, size);
  }
  if (!b) {
    const DeviceGuard guard(device_);
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail("allocate", "", ErrorKind::OutOfMemory, "out of memory on cuda:", device_, ": requested ", nbytes,
         " bytes, in use ", std::size_t{stats_.in_use}, ", cached ", std::size_t{stats_.reserved - stats_.in_use},
         ", free on the device ", free, " of ", total, "; use smaller batches, or free tensors and call empty_cache()");
  }
  if (splits(b->size, size)) {
    auto* rest = new Block{b->data + size, b->size - size, b->stream, b->pool, false, b, b->after, {}};
    if (b->after) b->after->before = rest;
    b->after = rest;
    b->size = size;
    free_[key(*rest)] = rest;
  }
  b->in_use = true;
  used_[b->data] = b;
  stats_.in_use += b->size;
  stats_.peak_in_use = std::max(stats_.peak_in_use, stats_.in_use);
  return b->data;
}

CachingAllocator::Block* CachingAllocator::find(int pool, Stream* stream, std::size_t size) {
  const auto it = free_.lower_bound(Key{pool, stream, size, nullptr});
  if (it == free_.end() || it->first.pool != pool || it->first.stream != stream) return nullptr;
  Block* b = it->second;
  // A small request must not pin a large block, nor a large one waste much more than itself.
  if (size > kMedium && !splits(b->size, size) && b->size > size + size / 4 + kLargeStep) return nullptr;
  if (size <= kSmall && b->size > kSmallPiece) return nullptr;
  free_.erase(it);
  return b;
}

CachingAllocator::Block* CachingAllocator::from_driver(int pool, Stream* stream, std::size_t size) {
  if (size > (std::size_t{1} << 46)) return nullptr;
  const DeviceGuard guard(device_);
  const std::size_t piece = piece_size(size);
  void* p = nullptr;
  if (cudaMalloc(&p, piece) != cudaSuccess) {
    cudaGetLastError();  // an allocation that fails leaves nothing behind
    return nullptr;
  }
  stats_.reserved += piece;
  stats_.peak_reserved = std::max(stats_.peak_reserved, stats_.reserved);
  return new Block{static_cast<char*>(p), piece, stream, pool, false, nullptr, nullptr, {}};
}

void CachingAllocator::deallocate(void* p, std::size_t) noexcept {
  const std::lock_guard lock(mutex_);
  const auto it = used_.find(p);
  if (it == used_.end()) return;
  Block* b = it->second;
  used_.erase(it);
  stats_.in_use -= b->size;
  b->in_use = false;
  // What a graph records runs later, as often as its owner wants: the memory is then the owner's to keep, and an event
  // that was recorded with it would never be over.
  std::erase_if(b->users, [](Stream* s) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return s->handle && cudaStreamIsCapturing(s->handle, &status) == cudaSuccess &&
           status != cudaStreamCaptureStatusNone;
  });
  if (b->users.empty()) return make_free(b);
  // One event per stream that used it; the block is free when all have passed. Blocks wait for the last of them.
  b->in_use = true;
  const int events = static_cast<int>(b->users.size());
  int recorded = 0;
  for (Stream* s : b->users) {
    cudaEvent_t e = nullptr;
    int before = 0;
    cudaGetDevice(&before);
    cudaSetDevice(s->device);
    const bool ok = cudaEventCreateWithFlags(&e, cudaEventDisableTiming) == cudaSuccess &&
                    cudaEventRecord(e, s->handle) == cudaSuccess;
    cudaSetDevice(before);
    if (!ok) break;  // the process is ending, or the device is lost: the block is never reused
    waiting_.push_back({e, ++recorded == events ? b : nullptr});
  }
  b->users.clear();
}

// Blocks become free in the order in which they were given back: a simple queue, whose head decides.
void CachingAllocator::reclaim(bool wait) {
  std::size_t done = 0;
  for (; done < waiting_.size(); ++done) {
    if (wait)
      cudaEventSynchronize(waiting_[done].event);
    else if (cudaEventQuery(waiting_[done].event) != cudaSuccess) {
      cudaGetLastError();
      break;
    }
    cudaEventDestroy(waiting_[done].event);
    if (Block* b = waiting_[done].block) {
      b->in_use = false;
      make_free(b);
    }
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(done));
}

void CachingAllocator::make_free(Block* b) {
  if (released_.count(b->pool)) b->pool = 0;
  for (Block* n : {b->after, b->before})
    if (n && !n->in_use && n->pool == b->pool && n->stream == b->stream) {
      free_.erase(key(*n));
      if (n == b->after)
        merge(b, n);
      else
        merge(n, b), b = n;
    }
  free_[key(*b)] = b;
}

// `next` follows `b` and disappears in it.
void CachingAllocator::merge(Block* b, Block* next) {
  b->size += next->size;
  b->after = next->after;
  if (b->after) b->after->before = b;
  delete next;
}

void CachingAllocator::return_unused() noexcept {
  for (auto it = free_.begin(); it != free_.end();) {
    Block* b = it->second;
    if (b->before || b->after || b->pool != 0) {
      ++it;
      continue;
    }
    cudaFree(b->data);
    stats_.reserved -= b->size;
    delete b;
    it = free_.erase(it);
  }
}

void CachingAllocator::empty_cache() noexcept {
  const std::lock_guard lock(mutex_);
  int before = 0;
  cudaGetDevice(&before);
  cudaSetDevice(device_);
  reclaim(true);
  return_unused();
  cudaSetDevice(before);
}

AllocatorStats CachingAllocator::stats() const noexcept {
  const std::lock_guard lock(mutex_);
  return stats_;
}

void CachingAllocator::reset_peak() noexcept {
  const std::lock_guard lock(mutex_);
  stats_.peak_in_use = stats_.in_use;
  stats_.peak_reserved = stats_.reserved;
}

void CachingAllocator::record_stream(void* p, Stream& stream) {
  const std::lock_guard lock(mutex_);
  const auto it = used_.find(p);
  if (it != used_.end() && it->second->stream != &stream) it->second->users.insert(&stream);
}

int CachingAllocator::begin_pool(Stream& stream) {
  const std::lock_guard lock(mutex_);
  return pools_[&stream] = next_pool_++;
}

void CachingAllocator::end_pool(Stream& stream) {
  const std::lock_guard lock(mutex_);
  pools_.erase(&stream);
}

void CachingAllocator::release_pool(int pool) noexcept {
  const std::lock_guard lock(mutex_);
  released_.insert(pool);
  std::vector<Block*> blocks;
  for (auto it = free_.begin(); it != free_.end();)
    if (it->first.pool == pool) {
      blocks.push_back(it->second);
      it = free_.erase(it);
    } else {
      ++it;
    }
  for (Block* b : blocks) {
    b->pool = 0;
    free_[key(*b)] = b;
  }
}

}  // namespace pydlx::cuda
