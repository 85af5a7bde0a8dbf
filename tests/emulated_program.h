// For programs that run kernels of their own under the emulator.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "tests/host_program.h"

namespace {

inline void* device_memory(const std::vector<std::uint16_t>& values) {
  void* p = nullptr;
  require_that(cudaMalloc(&p, values.size() * 2) == cudaSuccess, "memory");
  cudaMemcpyAsync(p, values.data(), values.size() * 2, cudaMemcpyHostToDevice, nullptr);
  return p;
}
inline std::vector<std::uint16_t> counting(std::size_t n) {
  std::vector<std::uint16_t> v(n);
  for (std::size_t i = 0; i < n; ++i) v[i] = static_cast<std::uint16_t>(i + 1);
  return v;
}

inline void run_kernel(unsigned threads, const std::function<void()>& kernel) {
  require_that(emulator::launch(1, threads, 64 << 10, nullptr, kernel) == cudaSuccess, "a launch");
}

}  // namespace
