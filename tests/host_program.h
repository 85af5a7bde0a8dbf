// For programs that run parts of the CUDA backend on the host (cuda_program.py): one exit for what does not hold.
#pragma once
#include <cstdio>
#include <cstdlib>

namespace {

void require_that(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s\n", what);
  std::exit(1);
}

}  // namespace
