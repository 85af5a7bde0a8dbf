// What the backend has in its own files and programs that start kernels need, defined for the whole program (so for one
// of its files to include): one stream, and errors that end the process.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "cuda/runtime/launch.h"

namespace pydlx::cuda {
void fail_call(const char* call, cudaError_t e) {
  std::fprintf(stderr, "%s: error %d\n", call, e);
  std::exit(1);
}
Stream& current_stream() {
  static Stream s;
  return s;
}
}  // namespace pydlx::cuda
