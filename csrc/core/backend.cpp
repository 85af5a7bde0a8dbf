#include "core/backend.h"

#include <atomic>

#include "core/check.h"

namespace pydlx {

namespace {
Backend* g_backends[kDeviceTypes] = {};
std::atomic<Device> g_default{Device{}};
}  // namespace

Device default_device() noexcept { return g_default.load(std::memory_order_relaxed); }
void set_default_device(Device d) noexcept { g_default.store(d, std::memory_order_relaxed); }

Backend* backend_of(DeviceType type) noexcept { return g_backends[static_cast<int>(type)]; }
void register_backend(DeviceType type, Backend* backend) noexcept { g_backends[static_cast<int>(type)] = backend; }

Backend& require_backend(Device device) {
  Backend* b = backend_of(device.type);
  require(b != nullptr, "device", "", ErrorKind::Device, "expected a device of this build, got ", device,
          "; this pydlx was built without CUDA (PYDLX_CUDA=ON builds it in)");
  const int n = b->device_count();
  require(n > 0, "device", "", ErrorKind::Device, "no usable device for ", device, ": ", b->why_unavailable());
  require(device.index < n, "device", "", ErrorKind::Device, "expected an index below ", n, ", got ", device);
  return *b;
}

Allocator& allocator_for(Device device) {
  if (device.is_cpu()) return cpu_allocator();
  return require_backend(device).allocator(device.index);
}

Generator& default_generator(Device device) {
  return device.is_cpu() ? default_generator() : require_backend(device).generator(device.index);
}

}  // namespace pydlx
