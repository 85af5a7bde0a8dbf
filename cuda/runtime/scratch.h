// Temporary device memory of a kernel entry, and values that only the device knows.
#pragma once
#include "core/backend.h"
#include "cuda/runtime/stream.h"
#include "cuda/runtime/trace.h"

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
  if (trace_on) [[unlikely]]
    trace_other("wait", sizeof value);
  check(cudaMemcpyAsync(&value, p, sizeof value, cudaMemcpyDeviceToHost, stream.handle), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream.handle), "cudaStreamSynchronize");
  return value;
}

// Bytes from host memory, which may be freed as soon as this returns.
inline void upload(void* to, const void* from, std::size_t bytes) {
  if (trace_on) [[unlikely]]
    trace_other("copy", bytes);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, current_stream().handle), "cudaMemcpyAsync");
}
// Bytes within the device.
inline void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (trace_on) [[unlikely]]
    trace_other("copy", bytes);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, current_stream().handle), "cudaMemcpyAsync");
}
// `bytes` bytes of that value.
inline void fill_bytes(void* to, int value, std::size_t bytes) {
  if (bytes == 0) return;
  if (trace_on) [[unlikely]]
    trace_other("fill", bytes);
  check(cudaMemsetAsync(to, value, bytes, current_stream().handle), "cudaMemsetAsync");
}

}  // namespace pydlx::cuda
