// Products of 16-bit floats with float accumulation by the instructions of sm_90a: a block keeps its place, and one
// thread of a producing warpgroup lets the copy engine fill a ring of panels in shared memory, which two consuming
// warpgroups multiply, 64 rows of the tile each. Sums over long k with few tiles are split, and the parts are added in
// order.
#include "cuda/gemm/hopper_plan.h"
#include "cuda/gemm/strided.cuh"
#include "cuda/libraries/cublas_lt.h"
#include "cuda/runtime/warpgroups.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

static_assert(HopperPlan::kRows == kConsumers * kPanelSide && HopperPlan::kDepth == kPanelSide);

template <int kColumns>
struct Stages {
  static constexpr int kCount = kColumns == 256 ? 4 : 6;
  static constexpr int kA = HopperPlan::kRows / kPanelSide * kPanelBytes, kB = kColumns / kPanelSide * kPanelBytes;
  static constexpr int kBytes = kA + kB;
  // The ring, room to begin it at a multiple of kSwizzlePeriod, and the barriers behind it.
  static constexpr std::size_t kShared = kCount * kBytes + kSwizzlePeriod + 2 * kCount * sizeof(Barrier);
  static_assert(kShared <= 227 << 10);
};

template <class T>
struct HopperProduct {
  CUtensorMap a, b;
  Strided<T, float> product;
  HopperPlan plan;
  int a_batched, b_batched;  // 0: one matrix for the whole batch
  bool in_pairs;             // C's lines begin at multiples of 4 bytes
  float* partial;
};

// `count` panels of an operand: one box when lines are along k, otherwise one each.
template <bool along_k, int count>
__device__ __forceinline__ void load_panels(unsigned char* to, const CUtensorMap& map, int outer, int k, int batch,
                                            Barrier* full) {
  if constexpr (along_k) {
    load_box(to, map, k, outer, batch, full);
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) load_box(to + i * kPanelBytes, map, outer + i * kPanelSide, k, batch, full);
  }
}

// A thread's sums two by two: row(m) is called for its two rows, and what that returns for every eighth column from
// the thread's first one, with the sum there and the next one. `left` columns are there, all of them with `inside`.
template <int kColumns, bool inside, class Row>
__device__ __forceinline__ void each_two_sums(std::int64_t m0, std::int64_t rows, int left,
                                              const float (&sum)[kColumns / 2], const Row& row) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t m = m0 + sum_row(2 * half);
    if (m >= rows) continue;
    const auto store = row(m);
#pragma unroll
    for (int i = 2 * half; i < kColumns / 2; i += 4)
      if (inside || i / 4 * 8 < left) store(i / 4 * 8, sum[i], sum[i + 1]);
  }
}

// The sums of one warpgroup into the result, or into this piece's part of a split sum.
template <class T, int kColumns>
__device__ __forceinline__ void store_tile(const HopperProduct<T>& p, const HopperPlan::Piece& piece, int consumer,
                                           const float (&sum)[kColumns / 2]) {
  const Strided<T, float>& c = p.product;
  const std::int64_t m0 = static_cast<std::int64_t>(piece.row) * HopperPlan::kRows + consumer * kPanelSide;
  const std::int64_t n0 = static_cast<std::int64_t>(piece.column) * kColumns + sum_column(0);
  const int left = static_cast<int>(c.n - n0 < kColumns ? c.n - n0 : kColumns);
  if (p.partial) {
    float* const part = p.partial + (static_cast<std::int64_t>(piece.part) * c.batch + piece.batch) * c.m * c.n + n0;
    each_two_sums<kColumns, false>(m0, c.m, left, sum, [&](std::int64_t m) {
      return [line = part + m * c.n, left](int column, float v, float next) {
        line[column] = v;
        if (column + 1 < left) line[column + 1] = next;
      };
    });
    return;
  }
  T* const to = static_cast<T*>(c.g.c) + piece.batch * c.g.c_batch + n0;
  Finish<T, float> finish(c.g);
  if (finish.bias) finish.bias += n0;
  if (p.in_pairs && !finish.reads_c && static_cast<std::int64_t>(piece.column + 1) * kColumns <= c.n)
    each_two_sums<kColumns, true>(m0, c.m, left, sum, [&](std::int64_t m) {
      return [&finish, line = to + m * c.g.c_row](int column, float v, float next) {
        store_two_products(finish, line + column, column, v, next);
      };
    });
  else
    each_two_sums<kColumns, false>(m0, c.m, left, sum, [&](std::int64_t m) {
      return [&finish, line = to + m * c.g.c_row, left](int column, float v, float next) {
        line[column] = finish.template at<true, false>(line + column, column, v);
        if (column + 1 < left) line[column + 1] = finish.template at<true, false>(line + column + 1, column + 1, next);
      };
    });
}

template <class T, int kColumns, bool a_along_k, bool b_along_k>
__global__ void __launch_bounds__(kThreads, 1) gemm_wgmma(const __grid_constant__ HopperProduct<T> p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  using S = Stages<kColumns>;
  unsigned char* const ring = swizzled_shared();
  Barrier* const full = reinterpret_cast<Barrier*>(ring + S::kCount * S::kBytes);
  Barrier* const empty = full + S::kCount;
  const std::uint32_t work = p.plan.work();
  Turn<S::kCount> turn;
  const auto produce = [&] {
    if (threadIdx.x != kConsumers * kWarpgroup) return;
    for (std::uint32_t index = blockIdx.x; index < work; index += gridDim.x) {
      const HopperPlan::Piece piece = p.plan.piece(index);
      const int row = static_cast<int>(piece.row) * HopperPlan::kRows;
      const int column = static_cast<int>(piece.column) * kColumns, batch = static_cast<int>(piece.batch);
      for (std::uint32_t panel = 0; panel < piece.panels; ++panel, turn.next()) {
        const int k = static_cast<int>(piece.k) + static_cast<int>(panel) * HopperPlan::kDepth;
        unsigned char* const to = ring + turn.stage() * S::kBytes;
        Barrier* const there = full + turn.stage();
        wait(empty + turn.stage(), turn.parity() ^ 1);  // in the first round at once
        arrive_expecting(there, S::kBytes);
        load_panels<a_along_k, HopperPlan::kRows / kPanelSide>(to, p.a, row, k, batch * p.a_batched, there);
        load_panels<b_along_k, kColumns / kPanelSide>(to + S::kA, p.b, column, k, batch * p.b_batched, there);
      }
    }
  };
  const auto consume = [&] {
    const int group = static_cast<int>(threadIdx.x) / kWarpgroup;
    // Both layouts have 64 rows of A in kPanelBytes.
    const std::uint64_t a = operand_descriptor(shared_address(ring + group * kPanelBytes), a_along_k);
    const std::uint64_t b = operand_descriptor(shared_address(ring + S::kA), b_along_k);
    for (std::uint32_t index = blockIdx.x; index < work; index += gridDim.x) {
      const HopperPlan::Piece piece = p.plan.piece(index);
      float sum[kColumns / 2] = {};
      for (std::uint32_t panel = 0; panel < piece.panels; ++panel, turn.next()) {
        const int at = turn.stage() * S::kBytes;
        wait(full + turn.stage(), turn.parity());
        multiply_panels<T, a_along_k, b_along_k>(sum, advance(a, at), advance(b, at));
        if (threadIdx.x % kWarp == 0) arrive(empty + turn.stage());
      }
      store_tile<T, kColumns>(p, piece, group, sum);
    }
  };
  share_work([&] { init_ring(full, empty, S::kCount, 1); }, produce, consume);
#endif
}

// ---- choice ---------------------------------------------------------------------------------------------------------

// An operand in memory: `outer` is the row of A or the column of B.
struct Memory {
  const void* data;
  std::int64_t outer, k, batch;                       // sizes
  std::int64_t outer_stride, k_stride, batch_stride;  // elements

  bool along_k() const { return k_stride == 1; }
  std::int64_t line() const { return along_k() ? outer_stride : k_stride; }
  std::int64_t width() const { return along_k() ? k : outer; }
  bool batched() const { return batch > 1 && batch_stride != 0; }

  // Why the copy engine cannot read it, or null.
  const char* obstacle() const {
    constexpr std::int64_t kMostStride = std::int64_t{1} << 39;  // the engine counts bytes in 40 bits
    if (reinterpret_cast<std::uintptr_t>(data) % 16 != 0) return "an operand does not begin at a multiple of 16 bytes";
    if (k_stride != 1 && outer_stride != 1) return "an operand is contiguous along neither axis";
    if (line() % kChunkElements != 0 || line() < width() || line() >= kMostStride)
      return "an operand's lines are not a multiple of 8 elements apart";
    if (batched() && (batch_stride % kChunkElements != 0 || batch_stride < width() || batch_stride >= kMostStride))
      return "an operand's matrices are not a multiple of 8 elements apart";
    return nullptr;
  }
  template <class T>
  bool encode(CUtensorMap& map, int box_outer) const {
    const std::int64_t lines = along_k() ? outer : k;
    return encode_map<T>(map, {data,
                               {width(), lines, batched() ? batch : 1},
                               {1, line(), batched() ? batch_stride : line() * lines},
                               {kPanelSide, along_k() ? box_outer : kPanelSide, 1}});
  }

 private:
  static constexpr std::int64_t kChunkElements = 8;
};

const char* obstacle(const Gemm& g, const Memory& a, const Memory& b) {
  constexpr std::int64_t kMostSize = std::int64_t{1} << 30;
  if (const char* why = no_wgmma()) return why;
  // Small tiles are for smaller products.
  if (g.m < 64 || g.n < 64 || g.k < 64) return "fewer than 64 rows, columns or terms";
  if (g.m > kMostSize || g.n > kMostSize || g.k > kMostSize || g.batch > kMostSize) return "too large";
  if (const char* why = a.obstacle()) return why;
  return b.obstacle();
}

template <class T, int kColumns, bool a_along_k, bool b_along_k>
void run(const HopperProduct<T>& p) {
  launch_staying<gemm_wgmma<T, kColumns, a_along_k, b_along_k>>(p, p.plan.work(), Stages<kColumns>::kShared);
}
template <class T, int kColumns>
void run(const HopperProduct<T>& p, bool a_along_k, bool b_along_k) {
  if (a_along_k)
    b_along_k ? run<T, kColumns, true, true>(p) : run<T, kColumns, true, false>(p);
  else
    b_along_k ? run<T, kColumns, false, true>(p) : run<T, kColumns, false, false>(p);
}

template <class T>
bool gemm(const Gemm& g) {
  constexpr DType dtype = DTypeOf<T>::value;
  if (products_by_library() == UseLibrary::always && library_product(g, dtype)) return true;
  const Memory a{g.a, g.m, g.k, g.batch, g.a_row, g.a_col, g.a_batch};
  const Memory b{g.b, g.n, g.k, g.batch, g.b_col, g.b_row, g.b_batch};
  const char* why = g.batch == 0 ? "no matrices" : obstacle(g, a, b);
  HopperProduct<T> p = {{}, {}, Strided<T, float>(g), {}, a.batched(), b.batched(), false, nullptr};
  p.in_pairs = reinterpret_cast<std::uintptr_t>(g.c) % 4 == 0 && g.c_row % 2 == 0 && g.c_batch % 2 == 0;
  if (!why) {
    p.plan = hopper_plan(g.m, g.n, g.k, g.batch, multiprocessors());
    if (p.plan.columns == 0)
      why = "too many tiles";
    else if (!a.encode<T>(p.a, HopperPlan::kRows) || !b.encode<T>(p.b, p.plan.columns))
      why = kNoMaps;
  }
  if (refused(why)) return products_by_library() == UseLibrary::automatic && library_product(g, dtype);
  if (verbose_on)
    verbose_note(": wgmma, 128 x %d tiles, lines of A along %s, of B along %s; %u piece%s of k", p.plan.columns,
                 a.along_k() ? "k" : "m", b.along_k() ? "k" : "n", p.plan.parts, p.plan.parts == 1 ? "" : "s");
  const auto start = [&] {
    p.plan.columns == 256 ? run<T, 256>(p, a.along_k(), b.along_k()) : run<T, 128>(p, a.along_k(), b.along_k());
  };
  const bool finished_here = stores_in_tile(p.product);
  if (verbose_on && !finished_here) verbose_note("; the activation apart");
  if (p.plan.parts == 1 && finished_here) {
    start();
    return true;
  }
  const Scratch<float> partial(p.plan.parts * g.batch * g.m * g.n);
  p.partial = partial.get();
  start();
  run_add_parts(p.product, p.partial, p.plan.parts);
  return true;
}

}  // namespace

void register_gemm_hopper(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  k.external[static_cast<int>(DType::Float16)] = gemm<Half>;
  k.external[static_cast<int>(DType::BFloat16)] = gemm<BFloat16>;
}

}  // namespace pydlx::cuda
