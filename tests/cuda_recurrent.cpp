// Tests of what recurrent layers with weights on chip rest on: how a layer is laid over the multiprocessors, and the
// emulator's cooperative launches. test_cuda_rnn.py compiles this and runs one part per process: `cuda_recurrent PART`.
// A part returns 0 when all is well; parts named after a mistake make it, and the emulator has to end the process.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "cuda/rnn/recurrent_plan.h"
#include "cuda/runtime/grid.cuh"
#include "tests/host_program.h"
#include "tests/host_runtime.h"

namespace pydlx::cuda {
int multiprocessors() { return 4; }
}  // namespace pydlx::cuda

using namespace pydlx::cuda;

namespace {

// ---- plans ----------------------------------------------------------------------------------------------------------

constexpr std::size_t kHopperShared = 227 << 10, kAmpereShared = 163 << 10;
constexpr RecurrentPlan on_hopper(std::int64_t hidden, std::int64_t batch, int gates, bool backward, int element) {
  return recurrent_plan({hidden, batch, gates, backward, element}, 132, kHopperShared);
}
static_assert(weight_line(5, 4) == 8 && weight_line(512, 4) == 512);
static_assert(weight_line(5, 2) == 24 && weight_line(512, 2) == 520 && weight_line(520, 2) == 536);

// Sizes that fit over an H200, and the first ones that do not.
static_assert(on_hopper(1024, 16, 4, false, 4).blocks > 0 && on_hopper(1024, 16, 4, true, 4).blocks > 0);
static_assert(on_hopper(1600, 16, 4, false, 4).blocks == 0);
static_assert(on_hopper(1536, 16, 4, false, 2).blocks > 0 && on_hopper(1536, 16, 4, true, 2).blocks > 0);
static_assert(on_hopper(2560, 1, 4, false, 2).blocks == 0 && on_hopper(2560, 1, 1, false, 2).blocks > 0);
// One row: many blocks share it. Many rows of a small layer: many groups share them.
static_assert(on_hopper(512, 1, 4, false, 4).groups == 1 && on_hopper(512, 1, 4, false, 4).blocks > 60);
static_assert(on_hopper(128, 1024, 4, false, 4).groups > 30);
static_assert(on_hopper(512, 1, 4, false, 4).tile == 0 && on_hopper(128, 1024, 4, false, 4).tile == 2);

void plans() {
  for (const std::int64_t hidden : {1, 5, 16, 33, 100, 128, 300, 512, 777, 1024, 1536, 3000})
    for (const std::int64_t batch : {1, 2, 7, 8, 16, 17, 64, 100, 1000})
      for (const int gates : {1, 3, 4})
        for (const bool backward : {false, true})
          for (const int element : {2, 4})
            for (const int processors : {1, 4, 78, 108, 132})
              for (const std::size_t limit : {kAmpereShared, kHopperShared}) {
                const RecurrentShape shape{hidden, batch, gates, backward, element};
                const RecurrentPlan p = recurrent_plan(shape, processors, limit);
                if (p.blocks == 0) {
                  // Nothing smaller than an equal share of the units can be held.
                  const std::int64_t units = (hidden + processors - 1) / processors;
                  const RecurrentTile t = element == 4 ? RecurrentPlan::kFloat[0] : RecurrentPlan::kHalf;
                  require_that(recurrent_shared(shape, t, units) > limit, "a plan where one exists");
                  continue;
                }
                const RecurrentTile t = element == 4 ? RecurrentPlan::kFloat[p.tile] : RecurrentPlan::kHalf;
                require_that(p.units * p.blocks >= hidden && p.units * (p.blocks - 1) < hidden, "units, none twice");
                require_that(p.rows * p.groups >= batch && p.rows * (p.groups - 1) < batch, "rows, none twice");
                require_that(p.rows % t.rows == 0, "groups of whole tiles");
                require_that(p.grid() <= processors, "one block on a multiprocessor");
                require_that(p.shared == recurrent_shared(shape, t, p.units) && p.shared <= limit, "shared memory");
              }
  require_that(recurrent_plan({0, 1, 4, false, 4}, 132, kHopperShared).blocks == 0, "no units");
  require_that(recurrent_plan({std::int64_t{1} << 40, 1, 4, false, 4}, 132, kHopperShared).blocks == 0, "too many");
  // A longer batch never takes fewer groups than a shorter one has rows of tiles to share.
  require_that(on_hopper(256, 8, 4, false, 2).groups == 1, "16 rows are one tile of the tensor cores");
}

// ---- cooperative launches -------------------------------------------------------------------------------------------

struct Exchange {
  unsigned* counter;
  unsigned* values;  // [2, blocks]
  int steps;
  bool forgets_to_wait = false, forgets_to_arrive = false;
};

// Every block replaces its value by the sum of all; ones become powers of the number of blocks.
void exchange(const Exchange p) {
  auto* const sum = dynamic_shared<unsigned>();
  for (int s = 0; s < p.steps; ++s) {
    const unsigned* from = p.values + s % 2 * gridDim.x;
    if (threadIdx.x == 0) {
      *sum = 0;
      for (unsigned b = 0; b < gridDim.x; ++b) *sum += from[b];
    }
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) p.values[(s + 1) % 2 * gridDim.x + blockIdx.x] = *sum;
    if (!p.forgets_to_arrive || blockIdx.x != 1 || s != 1) arrive_at(p.counter);
    if (!p.forgets_to_wait) wait_for_arrivals(p.counter, static_cast<unsigned>(s + 1) * gridDim.x);
  }
}

constexpr unsigned kBlocks = 7;  // on four multiprocessors
constexpr int kSteps = 4;

std::vector<unsigned> run(Exchange p) {
  constexpr std::size_t kWords = 1 + 2 * kBlocks;
  std::vector<unsigned> words(kWords, 1);
  words[0] = 0;
  void* memory = nullptr;
  check(cudaMalloc(&memory, kWords * sizeof(unsigned)), "cudaMalloc");
  check(cudaMemcpyAsync(memory, words.data(), kWords * sizeof(unsigned), cudaMemcpyHostToDevice, nullptr), "copy");
  p.counter = static_cast<unsigned*>(memory);
  p.values = p.counter + 1;
  p.steps = kSteps;
  require_that(fits_together<exchange>(kBlocks, 64, 100 << 10), "two blocks on a multiprocessor");
  check(cudaFuncSetAttribute(exchange, cudaFuncAttributeMaxDynamicSharedMemorySize, 100 << 10), "shared memory");
  launch_together(exchange, kBlocks, 64, 100 << 10, p);
  check(cudaMemcpyAsync(words.data(), memory, kWords * sizeof(unsigned), cudaMemcpyDeviceToHost, nullptr), "copy");
  check(cudaFree(memory), "cudaFree");
  return words;
}

bool right(const std::vector<unsigned>& words) {
  bool all = true;
  for (unsigned b = 0; b < kBlocks; ++b)
    all &= words[1 + kSteps % 2 * kBlocks + b] == kBlocks * kBlocks * kBlocks * kBlocks;
  return all;
}

void together() {
  require_that(right(run({})), "blocks read what others wrote");
  require_that(right(run({})), "again");
  Exchange early;
  early.forgets_to_wait = true;
  require_that(!right(run(early)), "a missing wait shows");
  require_that(!fits_together<exchange>(9, 64, 100 << 10), "two blocks on each of four multiprocessors");
  require_that(emulator::launch_together(9, 64, 100 << 10, nullptr, [] {}) == cudaErrorCooperativeLaunchTooLarge,
               "too many blocks are refused");
  const auto allowed = [](std::size_t bytes) {
    return emulator::permitted(reinterpret_cast<const void*>(exchange), bytes) == cudaSuccess;
  };
  require_that(allowed(48 << 10) && allowed(100 << 10) && !allowed((100 << 10) + 1),
               "as much shared memory as was allowed");
}

void missing_arrival() {
  Exchange p;
  p.forgets_to_arrive = true;
  run(p);
}

void alone() {  // an ordinary launch: blocks wait for others that have not begun
  void* memory = nullptr;
  check(cudaMalloc(&memory, 64), "cudaMalloc");
  auto* const counter = static_cast<unsigned*>(memory);
  check(cudaMemsetAsync(memory, 0, 64, nullptr), "cudaMemsetAsync");
  emulator::launch(2, 32, 0, nullptr, [counter] {
    arrive_at(counter);
    wait_for_arrivals(counter, 2);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const std::string part = argc > 1 ? argv[1] : "";
  if (part == "plans") return plans(), 0;
  if (part == "together") return together(), 0;
  if (part == "missing_arrival") return missing_arrival(), 0;
  if (part == "alone") return alone(), 0;
  return 2;
}
