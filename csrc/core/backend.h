// What a device other than the CPU offers besides kernels. A backend registers itself while the library is loaded; a
// build without one, or a machine without its hardware, has no entry. Handles are opaque: only the backend that made
// one may look inside.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/allocator.h"
#include "core/device.h"
#include "core/generator.h"
#include "kernels.h"

namespace pydlx {

struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0;        // compute capability
  std::uint64_t total_memory = 0;  // bytes
  int multi_processor_count = 0;
  int warp_size = 32;
  int max_threads_per_block = 0;
  std::uint64_t shared_memory_per_block = 0;  // bytes a kernel can ask for
  std::uint64_t l2_cache_size = 0;
};

using StreamHandle = void*;
using EventHandle = void*;
using GraphHandle = void*;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual int device_count() noexcept = 0;             // 0 without a usable driver or device
  virtual std::string why_unavailable() noexcept = 0;  // empty when device_count() > 0
  virtual DeviceProperties properties(int device) = 0;
  virtual void memory_info(int device, std::size_t& free, std::size_t& total) = 0;

  // The device that the calling thread has chosen. Kernels run on that of their operands, without changing this.
  virtual int current_device() = 0;
  virtual void set_device(int device) = 0;
  virtual const KernelTable& kernels(int device) = 0;
  virtual Allocator& allocator(int device) = 0;
  virtual Allocator& pinned_allocator() = 0;
  virtual bool is_pinned(const void* p) noexcept = 0;
  virtual Generator& generator(int device) = 0;

  // Bytes between host and device or within a device, in order with the current stream's work. Blocking copies return
  // when the bytes have arrived; the others when the source may not be touched before the stream has passed.
  virtual void copy(void* to, Device to_device, const void* from, Device from_device, std::size_t nbytes,
                    bool non_blocking) = 0;
  virtual void synchronize(int device) = 0;

  virtual StreamHandle default_stream(int device) = 0;
  virtual StreamHandle new_stream(int device, int priority) = 0;
  virtual StreamHandle current_stream(int device) = 0;
  virtual void set_stream(StreamHandle) = 0;  // for the calling thread and the stream's device
  virtual int stream_device(StreamHandle) = 0;
  virtual std::uintptr_t native_stream(StreamHandle) = 0;
  virtual bool stream_done(StreamHandle) = 0;
  virtual void synchronize_stream(StreamHandle) = 0;
  virtual void record_stream(void* memory, StreamHandle) = 0;  // the memory is reused only after the stream's work

  virtual EventHandle new_event(bool timing, StreamHandle) = 0;  // for streams of that one's device
  virtual void delete_event(EventHandle) noexcept = 0;
  virtual void record_event(EventHandle, StreamHandle) = 0;
  virtual void wait_event(StreamHandle, EventHandle) = 0;
  virtual bool event_done(EventHandle) = 0;
  virtual void synchronize_event(EventHandle) = 0;
  virtual double elapsed_ms(EventHandle from, EventHandle to) = 0;

  // Recording the work of the current stream instead of running it. Memory allocated meanwhile belongs to the graph.
  virtual void begin_capture() = 0;
  virtual GraphHandle end_capture() = 0;
  virtual bool is_capturing() = 0;
  virtual void replay(GraphHandle) = 0;
  virtual void delete_graph(GraphHandle) noexcept = 0;
};

// The backend of a device type, or null.
Backend* backend_of(DeviceType type) noexcept;
void register_backend(DeviceType type, Backend* backend) noexcept;
// The backend of this device; a DeviceError that says what is missing otherwise.
Backend& require_backend(Device device);

}  // namespace pydlx
