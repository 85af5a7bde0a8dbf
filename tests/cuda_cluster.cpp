// Tests of the emulator's model of stores by the copy engine, and of blocks in clusters. test_cuda_hopper.py compiles
// this and runs one part per process: `cuda_cluster PART`. A part returns 0 when all is well; parts named after a
// mistake make it, and the emulator has to end the process.
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "cuda/runtime/bulk_store.cuh"
#include "cuda/runtime/warpgroups.cuh"
#include "tests/emulated_program.h"

using namespace pydlx;
using namespace pydlx::cuda;

namespace {

void run_clusters(unsigned grid, unsigned cluster, unsigned threads, const std::function<void()>& kernel) {
  require_that(emulator::launch_clusters(grid, threads, cluster, 64 << 10, nullptr, kernel) == cudaSuccess, "a launch");
}

// ---- stores ---------------------------------------------------------------------------------------------------------

struct Mistake {
  bool unshown = false, alone = false, reused = false, unwaited = false;
};

// 2 matrices of 70 x 100 in lines of 104 get a panel of 64 x 64 from a warpgroup, twice over the same shared memory.
constexpr int kLine = 104, kLines = 70, kStep = kLine * kLines;

void write_panel(unsigned char* panel, int first) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, line = thread / kWarp * 16 + lane % 16;
  for (int inside = 0; inside < kPanelSide; inside += 16) {
    std::uint32_t w[4];
    for (int j = 0; j < 4; ++j) {
      const int row = sum_row(j % 2 * 2), column = inside + j / 2 * 8 + sum_column(0),
                value = first + row * 64 + column;
      w[j] = static_cast<std::uint32_t>(value) | static_cast<std::uint32_t>(value + 1) << 16;
    }
    stmatrix_x4(reinterpret_cast<uint4*>(panel) + chunk_at<8>(line, inside / 8 + lane / 16), w);
  }
}

std::vector<std::uint16_t> stored(int x, int y, int z, const Mistake& mistake) {
  void* const data = device_memory(std::vector<std::uint16_t>(2 * kStep, 7));
  CUtensorMap map;
  require_that(encode_map<Half>(map, {data, {100, kLines, 2}, {1, kLine, kStep}, {64, 64, 1}}), "a map");
  run_kernel(kWarpgroup, [&] {
    auto* const panel = static_cast<unsigned char*>(emulator::shared_memory());
    for (int i = 0; i < 2; ++i) {
      if (i > 0 && !mistake.reused && threadIdx.x == 0) stores_wait_read<0>();
      meet_warpgroup();
      write_panel(panel, 1000 * i);
      if (!mistake.unshown) show_to_engines();
      if (!mistake.alone) meet_warpgroup();
      if (threadIdx.x == 0) {
        store_box(panel, map, x, y, i == 0 ? 1 - z : z);
        stores_commit();
      }
    }
    if (threadIdx.x == 0 && !mistake.unwaited) stores_wait_read<0>();
  });
  std::vector<std::uint16_t> got(2 * kStep);
  cudaMemcpyAsync(got.data(), data, got.size() * 2, cudaMemcpyDeviceToHost, nullptr);
  return got;
}

void stores() {
  for (const auto& [x, y, z] :
       {std::array{0, 0, 0}, std::array{16, 3, 1}, std::array{64, 64, 0}, std::array{128, 0, 1}}) {
    const auto got = stored(x, y, z, {});
    for (int matrix = 0; matrix < 2; ++matrix)
      for (int row = 0; row < kLines; ++row)
        for (int column = 0; column < kLine; ++column) {
          const bool inside = column < 100 && row >= y && row < y + 64 && column >= x && column < x + 64;
          const int value = (matrix == z ? 1000 : 0) + (row - y) * 64 + column - x;
          require_that(got[static_cast<std::size_t>(matrix * kStep + row * kLine + column)] == (inside ? value : 7),
                       "a stored element, and nothing beside the box or the tensor");
        }
  }
}

void stray_barrier() {
  run_kernel(64, [] {
    if (threadIdx.x < 32) emulator::named_barrier(1, 64);
  });
}

// ---- clusters -------------------------------------------------------------------------------------------------------

// Two blocks fill two stages with panels of 64 x 64, half of each for both, and a warp of each reads all of it.
struct Slip {
  bool begins = false, ends = false, own_stage = false, half_bytes = false;
};

// How many elements were wrong.
int wrong_elements(const Slip& slip) {
  constexpr int kRounds = 7, kPanel = kPanelSide * kPanelSide, kHalf = kPanelBytes / 2;
  const auto values = counting(kRounds * kPanel);
  CUtensorMap map;
  require_that(encode_map<Half>(map, {device_memory(values), {64, 64, kRounds}, {1, 64, kPanel}, {64, 32, 1}}),
               "a map");
  int wrong = 0;
  run_clusters(4, 2, 2 * kWarp, [&] {
    auto* const shared = static_cast<unsigned char*>(emulator::shared_memory());
    auto *const full = reinterpret_cast<Barrier*>(shared + 2 * kPanelBytes), *const empty = full + 2;
    const unsigned rank = blockIdx.x % 2;
    const int half = static_cast<int>(rank) * kHalf;
    if (threadIdx.x == 0) {
      for (int s = 0; s < 2; ++s) init_barrier(full + s, 1), init_barrier(empty + s, slip.own_stage ? 1 : 2);
      publish_barriers();
    }
    slip.begins ? __syncthreads() : meet_cluster<false>();
    Turn<2> turn;
    for (int round = 0; round < kRounds && threadIdx.x == 0; ++round, turn.next()) {
      wait(empty + turn.stage(), turn.parity() ^ 1);
      arrive_expecting(full + turn.stage(), slip.half_bytes ? kHalf : kPanelBytes);
      load_box_for(0b11, shared + turn.stage() * kPanelBytes + half, map, 0, 32 * static_cast<int>(rank), round,
                   full + turn.stage());
    }
    for (int round = 0; round < kRounds && threadIdx.x >= kWarp; ++round, turn.next()) {
      wait(full + turn.stage(), turn.parity());
      if (rank == 0)
        for (int i = 0; i < 8; ++i) __syncwarp();  // takes longer than the other block
      const auto* const panel = reinterpret_cast<const std::uint16_t*>(shared + turn.stage() * kPanelBytes);
      for (int i = static_cast<int>(threadIdx.x) % kWarp; i < kPanel; i += kWarp)
        wrong += panel[i / 64 * 64 + (i % 64 / 8 ^ i / 64 % 8) * 8 + i % 8] !=
                 values[static_cast<std::size_t>(round * kPanel + i)];
      __syncwarp();
      if (threadIdx.x == kWarp) arrive(empty + turn.stage());
      if (threadIdx.x == kWarp + 1 && !slip.own_stage) arrive_there(address_in_block(empty + turn.stage(), rank ^ 1));
    }
    if (!slip.ends) meet_cluster<true>();
  });
  return wrong;
}

void clusters() {
  require_that(wrong_elements({}) == 0, "panels for both blocks");
  require_that(emulator::launch_clusters(3, 32, 2, 0, nullptr, [] {}) == cudaErrorInvalidClusterSize, "half a cluster");
  require_that(emulator::launch_clusters(16, 32, 16, 0, nullptr, [] {}) == cudaErrorInvalidClusterSize, "too large");
  std::array<unsigned, 6> seen = {};
  run_clusters(6, 3, 32, [&] { seen[blockIdx.x] += threadIdx.x + 1 + emulator::block_rank(); });
  for (unsigned b = 0; b < 6; ++b) require_that(seen[b] == 32 * 33 / 2 + 32 * (b % 3), "every block once, in order");
}

void foreign_wait() {
  run_clusters(2, 2, 32, [] {
    auto* const barrier = static_cast<Barrier*>(emulator::shared_memory());
    if (threadIdx.x == 0) init_barrier(barrier, 1);
    meet_cluster<false>();
    emulator::mbarrier_wait(address_in_block(barrier, blockIdx.x ^ 1), 1);
  });
}
void no_such_block() {
  run_clusters(2, 2, 32, [] { address_in_block(emulator::shared_memory(), 2); });
}
void missed_by_a_thread() {
  run_clusters(2, 2, 32, [] {
    if (blockIdx.x + threadIdx.x > 0) meet_cluster<false>();
  });
}

}  // namespace

int main(int, char** argv) {
  const std::string part = argv[1];
  if (part == "clusters") return clusters(), 0;
  if (part == "foreign_wait") return foreign_wait(), 0;
  if (part == "no_such_block") return no_such_block(), 0;
  if (part == "missed_by_a_thread") return missed_by_a_thread(), 0;
  const auto slip = [](const Slip& s) { return wrong_elements(s) == 0 ? 0 : 1; };
  if (part == "begins_alone") return slip({.begins = true});
  if (part == "ends_alone") return slip({.ends = true});
  if (part == "half_bytes") return slip({.half_bytes = true});
  if (part == "own_stage") return slip({.own_stage = true});
  Mistake m;
  if (part == "stores") return stores(), 0;
  if (part == "stray_barrier") return stray_barrier(), 0;
  if (part == "unshown_store") m.unshown = true;
  if (part == "early_store") m.alone = true;
  if (part == "reused_panel") m.reused = true;
  if (part == "unwaited_store") m.unwaited = true;
  stored(0, 0, 0, m);
  return 0;
}
