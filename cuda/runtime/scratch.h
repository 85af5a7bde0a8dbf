// Temporary device memory of a kernel entry, and values that only the device knows.
#pragma once
#include "core/backend.h"
#include "cuda/runtime/stream.h"

namespace pydlx::cuda {

// At least `count` elements on the current device. Freeing it while kernels still use it is safe: whoever gets the
// memory next queues on the same stream.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t count)
      : allocator_(allocator_for({DeviceType::CUDA, static_cast<std::int8_t>(current_stream().device)})),
        bytes_(static_cast<std::size_t>(checked_mul(count, static_cast<std::int64_t>(sizeof(T)), "cuda"))),
        data_(static_cast<T*>(allocator_.allocate(bytes_))) {}
  ~Scratch() { allocator_.deallocate(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  T* get() const { return data_; }

 private:
  Allocator& allocator_;
  const std::size_t bytes_;
  T* const data_;
};

// The value at a device address, after everything queued before.
template <class T>
T read_back(const T* p) {
  const Stream& stream = current_stream();
  T value;
  check(cudaMemcpyAsync(&value, p, sizeof value, cudaMemcpyDeviceToHost, stream.handle), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
  return value;
}

// Bytes from host memory, which may be freed as soon as this returns.
inline void upload(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current_stream().handle), "cudaMemcpyAsync");
}

}  // namespace pydlx::cuda
