#include "cuda/runtime/stream.h"

namespace pydlx::cuda {

namespace {
thread_local Stream* t_current[kMaxDevices] = {};
}

Stream& default_stream(int device) {
  static Stream* streams = [] {
    auto* s = new Stream[kMaxDevices];
    for (int i = 0; i < kMaxDevices; ++i) s[i].device = i;
    return s;
  }();
  return streams[device];
}

Stream& new_stream(int device, int priority) {
  const DeviceGuard guard(device);
  auto* s = new Stream;
  s->device = device;
  check(cudaStreamCreateWithPriority(&s->handle, cudaStreamNonBlocking, priority), "cudaStreamCreateWithPriority");
  return *s;
}

Stream& current_stream(int device) { return t_current[device] ? *t_current[device] : default_stream(device); }

Stream& current_stream() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return current_stream(device);
}

void set_current_stream(Stream& s) { t_current[s.device] = &s; }

bool is_capturing(const Stream& s) {
  if (!s.handle) return false;  // the default stream cannot be captured
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(s.handle, &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace pydlx::cuda
