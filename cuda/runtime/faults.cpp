#include "cuda/runtime/faults.h"

#include <atomic>
#include <mutex>

#include "cuda/runtime/stream.h"

namespace pydlx::cuda {

namespace {

std::mutex g_mutex;
std::atomic<FaultReport*> g_reports[kMaxDevices] = {};

const char* text(Fault f) {
  switch (f) {
    case Fault::probability:
      return "expected probabilities and rates in their range";
    case Fault::target:
      return "expected class indices below the number of classes, or ignore_index";
    case Fault::weight:
      return "expected weights that are finite, not negative, and enough of them positive";
    default:
      return "expected indices inside the indexed axis";
  }
}

}  // namespace

FaultReport* fault_report() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  if (FaultReport* r = g_reports[device].load(std::memory_order_acquire)) return r;
  const std::lock_guard lock(g_mutex);
  if (FaultReport* r = g_reports[device].load(std::memory_order_relaxed)) return r;
  void* p = nullptr;  // with unified addressing the device uses the same address
  check(cudaHostAlloc(&p, sizeof(FaultReport), cudaHostAllocMapped | cudaHostAllocPortable), "cudaHostAlloc");
  auto* r = new (p) FaultReport{};
  g_reports[device].store(r, std::memory_order_release);
  return r;
}

void raise_faults(int device) {
  FaultReport* r = g_reports[device].load(std::memory_order_acquire);
  if (!r) return;
  const int code = *static_cast<volatile int*>(&r->fault);
  if (code == 0 || code == kFaultClaimed) [[likely]]
    return;
  const long long position = r->position;
  r->fault = 0;
  const auto fault = static_cast<Fault>(code);
  const bool is_index = fault == Fault::index || fault == Fault::target;
  fail("cuda", "", is_index ? ErrorKind::Index : ErrorKind::Value, text(fault),
       "; an earlier operation on cuda:", device, " met another one at position ", std::int64_t{position},
       " (its other results are valid; the CPU names the operation)");
}

}  // namespace pydlx::cuda
