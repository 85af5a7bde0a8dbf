// Streams: queues of work on a device. Every thread has a current stream per device; kernels are launched on it.
#pragma once
#include "cuda/runtime/api.h"

namespace pydlx::cuda {

inline constexpr int kMaxDevices = 64;

struct Stream {
  cudaStream_t handle = nullptr;  // null: the device's default stream
  int device = 0;
};

Stream& default_stream(int device);
Stream& new_stream(int device, int priority);  // lives as long as the process
Stream& current_stream(int device);
Stream& current_stream();  // of the current device
void set_current_stream(Stream& s);

bool is_capturing(const Stream& s);

}  // namespace pydlx::cuda
