#include "ops/conv_weights.h"

#include <utility>

namespace pydlx::ops {

ConvWeights& ConvWeights::instance() {
  static ConvWeights* cache = new ConvWeights;  // never destroyed: its tensors would outlive the allocator
  return *cache;
}

Tensor ConvWeights::take(const Key& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto e = entries_.begin(); e != entries_.end(); ++e)
    if (e->key == key) {
      Tensor memory = std::move(e->memory);
      bytes_ -= key.bytes;
      entries_.erase(e);
      return memory;
    }
  return {};
}

void ConvWeights::put(const Key& key, Tensor memory) {
  if (key.bytes > kMost) return;
  std::list<Entry> dropped;  // freed after the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto e = entries_.begin(); e != entries_.end(); ++e)
    if (e->key.weights == key.weights) {  // another thread's, or that of a weight that is gone
      bytes_ -= e->key.bytes;
      dropped.splice(dropped.begin(), entries_, e);
      break;
    }
  entries_.push_front({key, std::move(memory)});
  bytes_ += key.bytes;
  while (bytes_ > kMost) {
    bytes_ -= entries_.back().key.bytes;
    dropped.splice(dropped.begin(), entries_, std::prev(entries_.end()));
  }
}

}  // namespace pydlx::ops
