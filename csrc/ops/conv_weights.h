// Weights of convolutions in the order that a kernel wants, kept between calls outside of training.
#pragma once
#include <list>
#include <mutex>

#include "core/tensor.h"

namespace pydlx::ops {

// A call takes an entry out and puts it back when it is done: two threads never share one, and a thread that finds none
// makes its own. Kernels compare the weights with the entry's, so that writes of any kind (through `.data`, a NumPy
// view) are seen; the key only says where to look. The least recently used entries go when all take more than kMost
// bytes.
class ConvWeights {
 public:
  static constexpr std::int64_t kMost = std::int64_t{256} << 20;

  struct Key {
    const void* weights = nullptr;
    const void* kernels = nullptr;  // of the instruction set
    Dims sizes;
    std::int64_t groups = 1, bytes = 0;
    std::int64_t stride = 1;  // with another one a kernel may want another order of as many bytes
    bool last = false;        // the weights' channels are last
    bool operator==(const Key& o) const {
      return weights == o.weights && kernels == o.kernels && sizes == o.sizes && groups == o.groups &&
             stride == o.stride && bytes == o.bytes && last == o.last;
    }
  };

  // The entry's memory, or an undefined tensor.
  Tensor take(const Key& key);
  void put(const Key& key, Tensor memory);

  static ConvWeights& instance();

 private:
  struct Entry {
    Key key;
    Tensor memory;
  };
  std::mutex mutex_;
  std::list<Entry> entries_;  // most recently used first
  std::int64_t bytes_ = 0;
};

}  // namespace pydlx::ops
