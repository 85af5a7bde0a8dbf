// Tests of the emulator's model of stores by the copy engine. test_cuda_hopper.py compiles this and runs one part per
// process: `cuda_cluster PART`. A part returns 0 when all is well; parts named after a mistake make it, and the
// emulator has to end the process.
#include <array>
#include <string>
#include <vector>

#include "cuda/runtime/bulk_store.cuh"
#include "cuda/runtime/warpgroups.cuh"
#include "tests/emulated_program.h"

using namespace pydlx;
using namespace pydlx::cuda;

namespace {

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

}  // namespace

int main(int, char** argv) {
  const std::string part = argv[1];
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
