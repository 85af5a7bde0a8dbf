// The CUDA runtime with errors as exceptions.
#pragma once
#include <cuda_runtime.h>

#include "core/check.h"

namespace pydlx::cuda {

// Raises a DeviceError that names the call and CUDA's own explanation.
[[noreturn]] void fail_call(const char* call, cudaError_t e);

inline void check(cudaError_t e, const char* call) {
  if (e != cudaSuccess) [[unlikely]]
    fail_call(call, e);
}

// The calling thread's device while the object lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (device != before_) check(cudaSetDevice(device), "cudaSetDevice");
    changed_ = device != before_;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace pydlx::cuda
