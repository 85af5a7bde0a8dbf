// What the backend has in its own files and programs that start kernels need, defined for the whole program (so for one
// of its files to include): one stream, no log of launches, and errors that end the process.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "cuda/runtime/launch.h"

namespace pydlx::cuda {
void fail_call(const char* call, cudaError_t e) {
  std::fprintf(stderr, "%s: error %d\n", call, e);
  std::exit(1);
}
const bool trace_on = false;
void trace_kernel(const void*, dim3, dim3, std::size_t) noexcept {}
void trace_other(const char*, std::size_t) noexcept {}
Stream& current_stream() {
  static Stream s;
  return s;
}
}  // namespace pydlx::cuda
