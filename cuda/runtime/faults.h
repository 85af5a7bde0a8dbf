// What a kernel found wrong with its data (an index outside its range, say), reported without stopping the device: the
// kernel leaves the bad element out and writes a report to host memory. The next operation or synchronisation of the
// device raises it as the Python exception that the CPU raises at once.
#pragma once
#include <cstdint>

#include "cuda/runtime/api.h"

namespace pydlx::cuda {

enum class Fault : int { none, index, probability, target, weight };

inline constexpr int kFaultClaimed = -1;  // by somebody who has not written the position yet

struct FaultReport {
  int fault;  // Fault, or kFaultClaimed; the first report stays until it is raised
  int padding;
  long long position;  // flat position of the element
};

// Where kernels of the current device report to.
FaultReport* fault_report();

// Raises and clears a report of this device. Reads host memory only: what is still running shows up later.
void raise_faults(int device);

#if defined(__CUDACC__) || defined(PYDLX_CUDA_EMULATED)
__device__ inline void report(FaultReport* r, Fault fault, long long position) {
  if (atomicCAS(&r->fault, 0, kFaultClaimed) == 0) {
    r->position = position;
    __threadfence_system();
    *static_cast<volatile int*>(&r->fault) = static_cast<int>(fault);
  }
}
#endif

}  // namespace pydlx::cuda
