// Tests of what products on sm_90a rest on: the arithmetic of plans, swizzles and descriptors, and the emulator's model
// of barriers, copies and products. test_cuda_hopper.py compiles this and runs one part per process: `cuda_hopper
// PART`. A part returns 0 when all is well; parts named after a mistake make it, and the emulator has to end the
// process.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/attention/hopper.h"
#include "cuda/gemm/hopper_plan.h"
#include "cuda/runtime/mma.cuh"
#include "cuda/runtime/tma.cuh"
#include "cuda/runtime/wgmma.cuh"
#include "tests/emulated_program.h"

using namespace pydlx;
using namespace pydlx::cuda;

namespace {

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// Written out by hand from the table of the PTX manual: address, two distances in 16 bytes, swizzle of 128 bytes.
static_assert(operand_descriptor(0x400, true) == 0x4000'0040'0001'0040);
static_assert(operand_descriptor(0x400, false) == 0x4000'0040'0200'0040);
static_assert(operand_descriptor(0x38c00, false) == 0x4000'0040'0200'38c0);
static_assert(advance(operand_descriptor(0x400, true), 0x2c800) == operand_descriptor(0x2cc00, true));
static_assert(advance_k(operand_descriptor(0x400, true), 48, true) == operand_descriptor(0x400 + 96, true));
static_assert(advance_k(operand_descriptor(0x400, false), 48, false) == operand_descriptor(0x400 + 48 * 128, false));

void descriptors() {
  for (const bool along_k : {true, false})
    for (std::uint32_t outer = 0; outer < 256; ++outer)
      for (std::uint32_t k = 0; k < 64; ++k) {
        const auto d = advance_k(operand_descriptor(0x2400, along_k), static_cast<int>(k / 16 * 16), along_k);
        const auto at = emulator::element_address(emulator::operand(d), !along_k, outer, k % 16) - 0x2400;
        // The same place from the description of panels: lines of 128 bytes, chunk c of line l where c ^ l is.
        const std::uint32_t line = along_k ? outer : outer / 64 * 64 + k, inside = along_k ? k : outer % 64;
        require_that(at == line * 128 + (inside / 8 ^ line % 8) * 16 + inside % 8 * 2, "an element's place");
      }
  for (int bits = 0; bits < 4; ++bits)
    for (std::uint32_t a = 0; a < 4096; a += 16)
      require_that(emulator::swizzled(emulator::swizzled(a, bits), bits) == a, "a swizzle is its own inverse");
}

void plan_covers(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t batch, int processors) {
  const HopperPlan p = hopper_plan(m, n, k, batch, processors);
  require_that(p.columns == 128 || p.columns == 256, "a width");
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>> seen;
  std::map<std::uint32_t, std::pair<std::int64_t, std::int64_t>> parts;  // begin, end
  for (std::uint32_t i = 0; i < p.work(); ++i) {
    const HopperPlan::Piece at = p.piece(i);
    require_that(at.row < p.tiles_m && at.column < p.tiles_n && at.part < p.parts && at.batch < p.batch, "a piece");
    require_that(seen.insert({at.row, at.column, at.part, at.batch}).second, "no piece twice");
    require_that(at.panels > 0 && at.k % HopperPlan::kDepth == 0, "a part has panels");
    parts[at.part] = {at.k, at.k + at.panels * HopperPlan::kDepth};
  }
  require_that(std::int64_t{p.tiles_m} * 128 >= m && (std::int64_t{p.tiles_m} - 1) * 128 < m, "rows");
  require_that(std::int64_t{p.tiles_n} * p.columns >= n && (std::int64_t{p.tiles_n} - 1) * p.columns < n, "columns");
  std::int64_t end = 0;
  for (const auto& [part, range] : parts) {
    require_that(range.first == end, "parts follow each other");
    end = range.second;
  }
  require_that(end >= k && end < k + HopperPlan::kDepth, "parts end with k");
}

// In clusters of two, neighbouring pieces are two tiles one below the other; nothing else changes but tiles of zeros.
void pairs_cover(const HopperPlan& alone, int processors, int in_clusters) {
  const HopperPlan p = alone.in_pairs(processors, in_clusters);
  if (p.cluster == 1) return require_that(p.work() == alone.work(), "the same");
  require_that(p.tiles_m == (alone.tiles_m + 1) / 2 * 2 && p.work() % 2 == 0, "pairs");
  std::set<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>> seen;
  for (std::uint32_t i = 0; i < p.work(); i += 2) {
    const HopperPlan::Piece at = p.piece(i), below = p.piece(i + 1);
    require_that(below.row == at.row + 1 && at.row % 2 == 0 && below.row < p.tiles_m, "one below the other");
    require_that(below.column == at.column && below.part == at.part && below.batch == at.batch, "of the same columns");
    require_that(below.k == at.k && below.panels == at.panels, "the same panels");
    require_that(seen.insert({at.row, at.column, at.part, at.batch}).second, "no pair twice");
  }
}

// Every tile of every head once, the heads of one group of keys together, the last tiles first where that is asked for.
void attention_order(std::int64_t tiles, std::int64_t heads, std::int64_t kv_heads, std::int64_t batch,
                     bool descending) {
  const AttentionOrder order = {tiles, heads, kv_heads, batch, descending};
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> seen;
  std::int64_t group = -1, last_tile = 0;
  for (std::int64_t i = 0; i < order.work(); ++i) {
    const AttentionOrder::Place at = order.place(i);
    require_that(at.tile >= 0 && at.tile < tiles && at.head < heads && at.batch < batch, "a tile's place");
    require_that(at.kv_head == at.head / (heads / kv_heads), "the keys of a head");
    require_that(seen.insert({at.tile, at.head, at.batch}).second, "no tile twice");
    if (at.batch * kv_heads + at.kv_head != group)
      require_that(++group == at.batch * kv_heads + at.kv_head, "groups one after the other");
    else
      require_that(descending ? at.tile <= last_tile : at.tile >= last_tile, "the order of tiles");
    last_tile = at.tile;
  }
  require_that(static_cast<std::int64_t>(seen.size()) == tiles * heads * batch, "every tile");
}

// Every question about a band against the definition, score by score.
void attention_band(int rows, std::int64_t columns, std::int64_t before, std::int64_t after) {
  const AttentionBand band = AttentionBand::of(columns, before, after);
  const auto sees = [&](std::int64_t r, std::int64_t c) { return c < columns && c >= r - before && c <= r + after; };
  for (int r0 = 0; r0 < rows; r0 += 128) {
    const AttentionBand::Span seen = band.seen(r0, 128, 64);
    require_that(seen.begin % 64 == 0 && seen.begin >= 0 && seen.end <= columns, "a span's ends");
    for (int r = r0; r < r0 + 128; ++r)
      for (int c = 0; c < columns; ++c)
        require_that(!sees(r, c) || (seen.begin <= c && c < seen.end), "what is seen is in the span");
    for (const int first : {r0, r0 + 64})
      for (int c0 = 0; c0 < columns; c0 += 64) {
        bool all = true;
        for (int r = first; r < first + 64; ++r) {
          const AttentionBand::Limits limits = band.limits(r, c0, 64);
          for (int c = 0; c < 64; ++c) {
            all = all && sees(r, c0 + c);
            require_that((limits.first <= c && c <= limits.last) == sees(r, c0 + c), "a row's limits");
          }
        }
        require_that(band.whole(first, 64, c0, 64) == all, "a tile without a mask");
      }
  }
}

void plans() {
  for (const std::int64_t columns : {64, 65, 127, 200, 513})
    for (const std::int64_t before : {std::int64_t{0}, std::int64_t{1}, std::int64_t{70}, kUnlimitedKeys})
      for (const std::int64_t after : {std::int64_t{-3}, std::int64_t{0}, std::int64_t{64}, kUnlimitedKeys})
        attention_band(300, columns, before, after);
  constexpr int kLast = static_cast<int>(AttentionBand::kMostRows) - 1;  // nothing overflows at the end of long rows
  constexpr AttentionBand kLong = AttentionBand::of(AttentionBand::kMostRows, kUnlimitedKeys, kUnlimitedKeys);
  static_assert(kLong.seen(kLast, 128, 64).begin == 0 && kLong.seen(kLast, 128, 64).end == kLast + 1);
  static_assert(kLong.limits(kLast + 128, kLast - 63, 64).first == 0 &&
                kLong.limits(kLast + 128, kLast - 63, 64).last == 63);
  for (const bool descending : {false, true})
    for (const std::int64_t kv_heads : {1, 2, 6})
      for (const std::int64_t tiles : {1, 2, 17}) attention_order(tiles, 6, kv_heads, 3, descending);
  for (const std::int64_t m : {64, 127, 128, 129, 2000, 2177, 4096})
    for (const std::int64_t n : {64, 128, 129, 256, 257, 1100, 4096})
      for (const std::int64_t k : {64, 65, 511, 1024, 5000})
        for (const std::int64_t batch : {1, 3}) {
          plan_covers(m, n, k, batch, m % 2 ? 4 : 132);
          pairs_cover(hopper_plan(m, n, k, batch, m % 2 ? 4 : 132), m % 2 ? 4 : 132, n % 2 ? 4 : 132);
        }
  // Widths and parts of some shapes on 132 processors.
  const auto plan = [](std::int64_t m, std::int64_t n, std::int64_t k) { return hopper_plan(m, n, k, 1, 132); };
  require_that(plan(8192, 8192, 8192).columns == 256 && plan(8192, 8192, 8192).parts == 1, "large");
  require_that(plan(1024, 1024, 1024).columns == 128, "two tiles for three processors");
  require_that(plan(128, 128, 8192).parts == 16 && plan(128, 128, 512).parts == 1, "long sums are split");
  for (const int processors : {1, 4, 78, 132, 144})
    require_that(hopper_plan(256, 384, 4096, 2, processors).part_length == plan(256, 384, 4096).part_length ||
                     hopper_plan(256, 384, 4096, 2, processors).parts == hopper_plan(256, 384, 4096, 2, 132).parts,
                 "sums are split by the geometry alone");
  require_that(hopper_plan(std::int64_t{1} << 29, std::int64_t{1} << 29, 64, 1, 132).columns == 0, "too many tiles");
  const auto pairs = [&](std::int64_t m, std::int64_t n, std::int64_t k, int in_clusters) {
    return plan(m, n, k).in_pairs(132, in_clusters).cluster == 2;
  };
  require_that(pairs(8192, 8192, 8192, 132) && pairs(4096, 4096, 64, 132), "large products in pairs");
  require_that(pairs(300, 4096, 512, 132), "three tiles, where a fourth one costs nothing");
  require_that(!pairs(128, 8192, 8192, 132), "a single row of tiles has no pairs");
  require_that(!pairs(384, 256 * 132, 4096, 132), "no fourth row of tiles where it costs a wave");
  require_that(!pairs(8192, 8192, 8192, 64) && !pairs(8192, 8192, 8192, 0), "nor clusters that leave processors idle");
  // The first wave of a large product is a patch, not a stripe: few different rows and columns of tiles.
  const HopperPlan large = plan(16384, 16384, 1024);
  std::set<std::uint32_t> rows, columns;
  for (std::uint32_t i = 0; i < 132; ++i) rows.insert(large.piece(i).row), columns.insert(large.piece(i).column);
  require_that(rows.size() == 16 && columns.size() == 9, "a patch");
}

// ---- the emulator's engines -----------------------------------------------------------------------------------------

// 3 matrices of 70 x 100 in lines of 104: a box in the middle, one over the far edges, one outside.
void copies() {
  constexpr int kLine = 104, kLines = 70, kMatrices = 3, kStep = kLine * kLines;
  const auto values = counting(kStep * kMatrices);
  void* const data = device_memory(values);
  CUtensorMap map;
  require_that(encode_map<Half>(map, {data, {100, kLines, kMatrices}, {1, kLine, kStep}, {64, 32, 1}}), "a map");
  require_that(!encode_map<Half>(map, {static_cast<char*>(data) + 2, {100, kLines, 1}, {1, kLine, kStep}, {64, 32, 1}}),
               "a map of unaligned memory is refused");
  require_that(!encode_map<Half>(map, {data, {100, kLines, 1}, {1, 100, kStep}, {64, 32, 1}}), "and of odd lines");
  require_that(!encode_map<Half>(map, {data, {100, kLines, 1}, {1, kLine, kStep}, {72, 32, 1}}), "and of wide boxes");
  require_that(encode_map<Half>(map, {data, {100, kLines, kMatrices}, {1, kLine, kStep}, {64, 32, 1}}), "a map");
  for (const auto& [x, y, z] : {std::array{0, 0, 0}, std::array{16, 8, 1}, std::array{64, 64, 2}, std::array{0, 96, 0}})
    run_kernel(32, [&, x = x, y = y, z = z] {
      auto* const shared = static_cast<std::uint16_t*>(emulator::shared_memory());
      auto* const barrier = reinterpret_cast<Barrier*>(shared + 4096);
      if (threadIdx.x == 0) {
        init_barrier(barrier, 1);
        arrive_expecting(barrier, 64 * 32 * 2);
        load_box(shared, map, x, y, z, barrier);
        require_that(shared[0] == 0xa5a5, "a copy takes a while");
      }
      __syncthreads();
      wait(barrier, 0);
      if (threadIdx.x != 0) return;
      for (int l = 0; l < 32; ++l)
        for (int i = 0; i < 64; ++i) {
          const bool inside = x + i < 100 && y + l < kLines;
          const int at = z * kStep + (y + l) * kLine + x + i;
          require_that(
              shared[l * 64 + (i / 8 ^ l % 8) * 8 + i % 8] == (inside ? values[static_cast<std::size_t>(at)] : 0),
              "a copied element");
        }
    });
}

// What a mistake changes in a product of 64 x 16 by 16 x 128.
struct Mistake {
  std::uint64_t flip_a = 0, flip_b = 0;  // bits of descriptors
  bool unfenced = false, unwaited = false, missing_warp = false, early = false, short_bytes = false;
};

// The largest error of the product.
template <bool along_k>
double product_error(const Mistake& mistake) {
  constexpr int kM = 64, kN = 128, kK = 64;
  std::vector<std::uint16_t> a(kM * kK), b(kN * kK);
  std::uint32_t seed = 1;
  const auto next = [&] {
    return static_cast<BFloat16>(static_cast<float>((seed = seed * 1664525 + 1013904223) >> 28) - 8).bits;
  };
  for (auto& v : a) v = next();
  for (auto& v : b) v = next();
  CUtensorMap map_a, map_b;
  const auto map = [](CUtensorMap& m, void* data, int outer) {
    const std::int64_t width = along_k ? kK : outer, lines = along_k ? outer : kK;
    return encode_map<BFloat16>(m, {data, {width, lines, 1}, {1, width, width * lines}, {64, along_k ? outer : 64, 1}});
  };
  require_that(map(map_a, device_memory(a), kM) && map(map_b, device_memory(b), kN), "maps");
  const auto value = [](const std::vector<std::uint16_t>& from, int size, int outer, int k) {
    BFloat16 v;
    v.bits = from[static_cast<std::size_t>(along_k ? outer * kK + k : k * size + outer)];
    return static_cast<double>(static_cast<float>(v));
  };
  double worst = 0;
  run_kernel(kWarpgroup, [&] {
    auto* const shared = static_cast<unsigned char*>(emulator::shared_memory());
    auto* const barrier = reinterpret_cast<Barrier*>(shared + 3 * kPanelBytes);
    if (threadIdx.x == 0) init_barrier(barrier, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive_expecting(barrier, 3 * kPanelBytes + (mistake.short_bytes ? 16 : 0));
      load_box(shared, map_a, 0, 0, 0, barrier);
      load_box(shared + kPanelBytes, map_b, 0, 0, 0, barrier);
      if (!along_k) load_box(shared + 2 * kPanelBytes, map_b, 64, 0, 0, barrier);
    }
    if (!mistake.early) wait(barrier, 0);
    float sum[64] = {};
    if (!mistake.unfenced) wgmma_fence();
    if (mistake.missing_warp && threadIdx.x / 32 == 2) {
      __syncthreads();
      return;
    }
    for (int k = 0; k < kK; k += 16)
      wgmma<BFloat16, !along_k, !along_k>(
          sum, advance_k(operand_descriptor(shared_address(shared), along_k), k, along_k) ^ mistake.flip_a,
          advance_k(operand_descriptor(shared_address(shared + kPanelBytes), along_k), k, along_k) ^ mistake.flip_b,
          true);
    wgmma_commit();
    if (mistake.unwaited) return;
    wgmma_wait<0>();
    if (mistake.early) wait(barrier, 0);
    for (int i = 0; i < 64; ++i) {
      double want = 0;
      for (int k = 0; k < kK; ++k) want += value(a, kM, sum_row(i), k) * value(b, kN, sum_column(i), k);
      const double error = want > sum[i] ? want - sum[i] : sum[i] - want;
      if (!(error <= worst)) worst = error;
    }
  });
  return worst;
}

// The same with A in registers and lines of B along k's positions: 64 x 16 by 16 x 64.
double register_product_error(bool change_registers) {
  std::vector<std::uint16_t> b(16 * 64);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<Half>(static_cast<float>(i * 7 % 13) - 6).bits;
  CUtensorMap map;
  require_that(encode_map<Half, 4>(map, {device_memory(b), {64, 16, 1, 1}, {1, 64, 8, 8}, {64, 16, 1, 1}}), "a map");
  const auto value = [](int row, int k) { return static_cast<float>((row * 3 + k * 5) % 11 - 5); };
  double worst = 0;
  run_kernel(kWarpgroup, [&] {
    auto* const shared = static_cast<unsigned char*>(emulator::shared_memory());
    auto* const barrier = reinterpret_cast<Barrier*>(shared + kPanelBytes);
    if (threadIdx.x == 0) init_barrier(barrier, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
      arrive_expecting(barrier, 16 * 64 * 2);
      load_box(shared, map, 0, 0, 0, 0, barrier);
    }
    wait(barrier, 0);
    std::uint32_t a[4];
    for (int r = 0; r < 4; ++r) {
      const int row = sum_row(r % 2 * 2), k = sum_column(0) + r / 2 * 8;
      a[r] = static_cast<Half>(value(row, k)).bits |
             static_cast<std::uint32_t>(static_cast<Half>(value(row, k + 1)).bits) << 16;
    }
    float sum[32];
    for (int i = 0; i < 32; ++i) sum[i] = static_cast<float>(i);
    wgmma_fence();
    add_wgmma<Half, true>(sum, a, operand_descriptor(shared_address(shared), false));
    wgmma_commit();
    if (change_registers) a[0] ^= 1;
    wgmma_wait<0>();
    for (int i = 0; i < 32; ++i) {
      double want = i;
      for (int k = 0; k < 16; ++k) {
        Half v;
        v.bits = b[static_cast<std::size_t>(k * 64 + sum_column(i))];
        want += value(sum_row(i), k) * static_cast<float>(v);
      }
      const double error = want > sum[i] ? want - sum[i] : sum[i] - want;
      if (!(error <= worst)) worst = error;
    }
  });
  return worst;
}

// Small integers: a right product has no error at all.
void products() {
  require_that(product_error<true>({}) == 0 && product_error<false>({}) == 0, "products");
  constexpr std::uint64_t kSwizzle = std::uint64_t{1} << 62, kFirst = std::uint64_t{1} << 25,
                          kSecond = std::uint64_t{1} << 38;
  require_that(product_error<true>({kSwizzle, 0}) != 0, "a wrong swizzle shows");
  require_that(product_error<false>({0, kSwizzle}) != 0, "a wrong swizzle shows in transposed operands");
  require_that(product_error<true>({kSecond, 0}) != 0, "a wrong distance of eight rows shows");
  require_that(product_error<true>({kFirst, kFirst}) == 0, "the first distance is not used along k");
  require_that(product_error<false>({0, kFirst}) != 0, "a wrong distance of panels shows");
  require_that(product_error<false>({kSecond, 0}) != 0, "a wrong distance of eight positions of k shows");
  Mistake early;
  early.early = true;
  require_that(product_error<true>(early) != 0, "operands read before they came show");
  require_that(register_product_error(false) == 0, "a product with A in registers");
}

// Two groups of copies by a thread: the last element of each, 7 at first, once all but `pending` groups have arrived.
template <int pending>
std::pair<int, int> copied() {
  const auto* const from = static_cast<const std::uint16_t*>(device_memory(counting(16)));
  std::pair<int, int> got;
  run_kernel(1, [&] {
    auto* const shared = static_cast<std::uint16_t*>(emulator::shared_memory());
    shared[7] = shared[15] = 7;
    cp_async_16(shared, from, true);
    cp_async_commit();
    cp_async_16(shared + 8, from + 8, false);
    cp_async_commit();
    cp_async_wait<pending>();
    got = {shared[7], shared[15]};
    cp_async_wait<0>();
  });
  return got;
}
void thread_copies() {
  require_that(copied<2>() == std::pair(7, 7), "a copy that nobody has waited for shows");
  require_that(copied<1>() == std::pair(8, 7), "groups arrive in order");
  require_that(copied<0>() == std::pair(8, 0), "a copy that is not valid brings zeros");
}

// ---- turns ----------------------------------------------------------------------------------------------------------

// What warps read of each other without a barrier in between is not there, nor what blocks find of those before them.
void turns() {
  bool missing = false;
  run_kernel(128, [&] {
    auto* const shared = static_cast<int*>(emulator::shared_memory());
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = 1;
    __syncwarp();
    missing = missing || shared[0] + shared[1] + shared[2] + shared[3] != 4;
  });
  require_that(missing, "a collective of the warp is no barrier of the block");
  unsigned last[2] = {};
  for (unsigned& block : last)
    require_that(emulator::launch(3, 1, 0, nullptr, [&] { block = blockIdx.x; }) == cudaSuccess, "a launch");
  require_that(last[0] != last[1], "blocks in another order");
}

// ---- mistakes -------------------------------------------------------------------------------------------------------

void missing_arrival() {
  run_kernel(32, [] {
    auto* const barrier = static_cast<Barrier*>(emulator::shared_memory());
    if (threadIdx.x == 0) init_barrier(barrier, 3);
    __syncthreads();
    if (threadIdx.x < 2) arrive(barrier);
    wait(barrier, 0);
  });
}
void too_many_arrivals_later() {  // arrivals beyond a phase belong to the next one, which nobody completes
  run_kernel(32, [] {
    auto* const barrier = static_cast<Barrier*>(emulator::shared_memory());
    if (threadIdx.x == 0) init_barrier(barrier, 24);
    __syncthreads();
    arrive(barrier);
    wait(barrier, 0);
    wait(barrier, 1);
  });
}
void thread_copy(int skipped) {
  const auto* const from = static_cast<const std::uint16_t*>(device_memory(counting(16))) + skipped;
  run_kernel(1, [&] { cp_async_16(emulator::shared_memory(), from, true); });
}
// A product of what the group's threads have copied, with or without a fence behind their copies.
void copied_product(bool fenced) {
  run_kernel(kWarpgroup, [&] {
    auto* const shared = static_cast<unsigned char*>(emulator::shared_memory());
    for (int i = static_cast<int>(threadIdx.x); i < 2 * kPanelBytes / 16; i += kWarpgroup)
      cp_async_16(shared + i * 16, shared, false);
    cp_async_commit();
    cp_async_wait<0>();
    if (fenced) show_to_engines();
    __syncthreads();
    float sum[32];
    wgmma_fence();
    wgmma<Half, false, false>(sum, operand_descriptor(shared_address(shared), true),
                              operand_descriptor(shared_address(shared + kPanelBytes), true), false);
    wgmma_commit();
    wgmma_wait<0>();
    require_that(sum[0] == 0 && sum[31] == 0, "a product of zeros");
  });
}
void no_barrier() {
  run_kernel(32, [] { arrive(static_cast<Barrier*>(emulator::shared_memory())); });
}

}  // namespace

int main(int argc, char** argv) {
  Mistake m;
  const std::string part = argc > 1 ? argv[1] : "";
  if (part == "descriptors") return descriptors(), 0;
  if (part == "plans") return plans(), 0;
  if (part == "copies") return copies(), 0;
  if (part == "turns") return turns(), 0;
  if (part == "thread_copies") return thread_copies(), 0;
  if (part == "unwaited_copy") return thread_copy(0), 0;
  if (part == "odd_copy") return thread_copy(2), 0;
  if (part == "copied_product") return copied_product(true), 0;
  if (part == "unshown_copy") return copied_product(false), 0;
  if (part == "products") return products(), 0;
  if (part == "missing_arrival") return missing_arrival(), 0;
  if (part == "next_phase") return too_many_arrivals_later(), 0;
  if (part == "no_barrier") return no_barrier(), 0;
  if (part == "changed_registers") return register_product_error(true) == 0 ? 0 : 1;
  if (part == "missing_bytes") m.short_bytes = true;
  if (part == "unfenced") m.unfenced = true;
  if (part == "unwaited") m.unwaited = true;
  if (part == "missing_warp") m.missing_warp = true;
  return product_error<true>(m) == 0 ? 0 : 1;
}
