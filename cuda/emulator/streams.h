// Streams of the emulator, and what launches share with them.
#pragma once
#include <cuda_runtime.h>

#include <functional>
#include <mutex>

#include "cuda/emulator/memory.h"

namespace emulator {

extern std::recursive_mutex mutex;
extern thread_local cudaError_t last_error;
extern thread_local int current_device;

Memory& memory();
// Access to device memory while it lives. A thread that has never been here starts without access.
struct Access {
  const std::lock_guard<std::recursive_mutex> lock{mutex};
  Access() {
    ++depth;
    memory().unlock();
  }
  ~Access() {
    if (--depth == 0) memory().lock();
  }

 private:
  static thread_local int depth;
};

cudaError_t error(cudaError_t);
// Kernels are accepted and not run.
bool idle();
// Work goes to a stream of the current device only, though copies go to any.
bool foreign(cudaStream_t);
// Runs the work, keeps it for later, or adds it to the graph that the stream captures.
cudaError_t run_or_record(cudaStream_t, std::function<void()> work);
// All that streams keep.
void run_all();

}  // namespace emulator
