// Runs the blocks of a grid.
#pragma once
#include "cuda/emulator/hopper.h"

namespace emulator {

constexpr unsigned kMaxThreads = 1024;           // of a block
constexpr std::size_t kSharedLimit = 227 << 10;  // bytes of a block

// One block after another, or one cluster of so many neighbours along x.
void run_grid(dim3 grid, dim3 block, unsigned cluster, std::size_t shared_bytes, const std::function<void()>& kernel);
// All blocks alive.
void run_grid_together(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& kernel);

}  // namespace emulator
