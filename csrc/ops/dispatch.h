// From an op to the kernel table of a device.
#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"
#include "kernels.h"

namespace pydlx {

const KernelTable& kernels_for(Device device);  // DeviceError when the backend is not there

// One family of kernels of a device: kernels<NormKernels>(device).layer_norm[...]. Entries the backend lacks are null.
template <class Family>
const Family& kernels(Device device) {
  static const int number = family_number(family_key<Family>(), sizeof(Family));
  static const Family none{};
  const auto* f = static_cast<const Family*>(kernels_for(device).families[number]);
  return f ? *f : none;
}
// CPU instruction-set paths this machine can run, best last: "generic", "avx2", "avx512", "avx512_bf16".
std::vector<const char*> cpu_isas();
void set_cpu_isa(const char* name);  // for tests; ValueError for a path the machine cannot run

// For PYDLX_VERBOSE: the instruction set in use, and why not a wider one.
std::string describe_cpu_path();

[[noreturn]] void missing_kernel(const char* op, Device device, DType dtype);

// The table entry, or the uniform error.
template <class Fn>
Fn kernel_or_fail(Fn fn, const char* op, Device device, DType dtype) {
  if (!fn) [[unlikely]]
    missing_kernel(op, device, dtype);
  return fn;
}

// All defined tensors must share a device; 0-d CPU tensors may join any device (they become immediates). Returns that
// device.
Device common_device(const char* op, std::initializer_list<const Tensor*> tensors);

// For operands and results that a kernel may be without.
inline void* data_or_null(const Tensor& t) { return t.defined() ? t.data() : nullptr; }

}  // namespace pydlx
