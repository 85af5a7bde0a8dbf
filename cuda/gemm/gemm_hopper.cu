// Products of 16-bit floats with float accumulation by the instructions of sm_90a: a block keeps its place, and one
// thread of a producing warpgroup lets the copy engine fill a ring of panels in shared memory, which two consuming
// warpgroups multiply, 64 rows of the tile each. Sums over long k with few tiles are split, and the parts are added in
// order. Where tiles come in pairs, blocks do, too (clusters): each loads half of the columns of B for both.
#include "cuda/gemm/gemm_hopper.h"
#include "cuda/gemm/hopper_tile.cuh"
#include "cuda/gemm/strided.cuh"
#include "cuda/libraries/cublas_lt.h"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

template <class T>
struct HopperProduct {
  CUtensorMap a, b, c;  // c: if in_boxes
  Strided<T, float> product;
  HopperPlan plan;
  int a_batched, b_batched;  // 0: one matrix for the whole batch
  bool in_boxes;             // the engine stores C, whose lines begin and end at multiples of 16 bytes
  float* partial;
};

// The sums of one warpgroup into the result, or into this piece's part of a split sum.
template <class T, int kColumns>
__device__ __forceinline__ void store_tile(const HopperProduct<T>& p, unsigned char* out,
                                           const HopperPlan::Piece& piece, const float (&sum)[kColumns / 2]) {
  const Strided<T, float>& c = p.product;
  if (p.partial) return store_part<kColumns>(p.partial, piece, c.batch, c.m, c.n, sum);
  const TilePlace at = TilePlace::of<kColumns>(piece, c.n);
  T* const to = static_cast<T*>(c.g.c) + piece.batch * c.g.c_batch + at.n0;
  Finish<T, float> finish(c.g);
  if (finish.bias) finish.bias += at.n0;
  if (p.in_boxes && finish.bias)
    store_boxes<kColumns>(out, p.c, piece, sum, [&](int column, float v, float next) {
      return finish.pair(v, next, column < at.left ? *reinterpret_cast<const std::uint32_t*>(finish.bias + column) : 0);
    });
  else if (p.in_boxes)
    store_boxes<kColumns>(out, p.c, piece, sum, [&](int, float v, float next) { return finish.pair(v, next); });
  else
    each_two_sums<kColumns>(at, c.m, sum, [&](std::int64_t m) {
      return [&finish, line = to + m * c.g.c_row, left = at.left](int column, float v, float next) {
        line[column] = finish.template at<true, false>(line + column, column, v);
        if (column + 1 < left) line[column + 1] = finish.template at<true, false>(line + column + 1, column + 1, next);
      };
    });
}

template <class T, int kColumns, bool a_along_k, bool b_along_k>
__global__ void __launch_bounds__(kThreads, 1) gemm_wgmma(const __grid_constant__ HopperProduct<T> p) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  using R = TileRing<kColumns, true>;
  const R ring;
  const auto produce = [&] {
    if (threadIdx.x != kConsumers * kWarpgroup) return;
    const std::uint32_t work = p.plan.work();
    const int rank = static_cast<int>(blockIdx.x) % 2;  // in a cluster
    Turn<R::kCount> turn;
    for (std::uint32_t index = blockIdx.x; index < work; index += gridDim.x) {
      const HopperPlan::Piece piece = p.plan.piece(index);
      const int row = static_cast<int>(piece.row) * HopperPlan::kRows;
      const int column = static_cast<int>(piece.column) * kColumns, batch = static_cast<int>(piece.batch);
      for (std::uint32_t panel = 0; panel < piece.panels; ++panel, turn.next()) {
        const int k = static_cast<int>(piece.k) + static_cast<int>(panel) * HopperPlan::kDepth;
        unsigned char* const to = ring.at + turn.stage() * R::kBytes;
        Barrier* const full = ring.full + turn.stage();
        wait(ring.empty + turn.stage(), turn.parity() ^ 1);  // in the first round at once
        arrive_expecting(full, R::kBytes);
        if (p.plan.cluster > 1)
          load_shared_panels<b_along_k, kColumns / 2 / kPanelSide>(
              to + R::kA + rank * (R::kB / 2), p.b, column + rank * (kColumns / 2), k, batch * p.b_batched, full);
        else
          load_panels<b_along_k, kColumns / kPanelSide>(to + R::kA, p.b, column, k, batch * p.b_batched, full);
        load_panels<a_along_k, HopperPlan::kRows / kPanelSide>(to, p.a, row, k, batch * p.a_batched, full);
      }
    }
  };
  const auto consume = [&] {
    consume_panels<T, kColumns, a_along_k, b_along_k>(
        p.plan, ring, [](const auto& piece) { return piece.panels; },
        [&](const auto& piece, const auto& sum) { store_tile<T, kColumns>(p, ring.out, piece, sum); });
    finish_boxes();
  };
  const int cluster = static_cast<int>(p.plan.cluster);
  share_work([&] { init_ring(ring.full, ring.empty, R::kCount, 1, cluster); }, produce, consume, cluster > 1);
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

// The map of C for stores by the engine. False where it cannot write C, where lines are not whole chunks, and where
// what is added to the sums is not read by pairs.
template <class T>
bool encode_result(CUtensorMap& map, const Gemm& g) {
  const Memory c{g.c, g.m, g.n, g.batch, g.c_row, 1, g.c_batch};
  return g.beta == 0 && reinterpret_cast<std::uintptr_t>(g.bias) % 4 == 0 && g.n % 8 == 0 && !c.obstacle() &&
         c.encode<T>(map, kPanelSide);
}

const char* obstacle(const Gemm& g, const Memory& a, const Memory& b) {
  constexpr std::int64_t kMostSize = std::int64_t{1} << 30;
  if (const char* why = no_wgmma()) return why;
  // Small tiles are for smaller products.
  if (g.m < 64 || g.n < 64 || g.k < 64) return "fewer than 64 rows, columns or terms";
  if (g.m > kMostSize || g.n > kMostSize || g.k > kMostSize || g.batch > kMostSize) return "too large";
  if (const char* why = a.obstacle()) return why;
  return b.obstacle();
}

// use<kernel>(shared memory) with the kernel for this product.
template <class T, int kColumns, class Use>
void with_kernel(bool a_along_k, bool b_along_k, const Use& use) {
  constexpr std::size_t kShared = TileRing<kColumns, true>::kShared;
  if (a_along_k)
    b_along_k ? use.template operator()<gemm_wgmma<T, kColumns, true, true>>(kShared)
              : use.template operator()<gemm_wgmma<T, kColumns, true, false>>(kShared);
  else
    b_along_k ? use.template operator()<gemm_wgmma<T, kColumns, false, true>>(kShared)
              : use.template operator()<gemm_wgmma<T, kColumns, false, false>>(kShared);
}

// How many blocks run at a time in clusters of two; PYDLX_CUDA_CLUSTER=0 says none.
template <auto kernel>
int blocks_in_pairs(std::size_t shared) {
  static const bool wanted = [] {
    const char* v = std::getenv("PYDLX_CUDA_CLUSTER");
    return !v || std::strcmp(v, "0") != 0;
  }();
  return wanted ? blocks_in_clusters<kernel, 2>(shared) : 0;
}

}  // namespace

template <class T>
bool gemm_hopper(const Gemm& g) {
  constexpr DType dtype = DTypeOf<T>::value;
  if (products_by_library() == UseLibrary::always && library_product(g, dtype)) return true;
  const Memory a{g.a, g.m, g.k, g.batch, g.a_row, g.a_col, g.a_batch};
  const Memory b{g.b, g.n, g.k, g.batch, g.b_col, g.b_row, g.b_batch};
  const char* why = g.batch == 0 ? "no matrices" : obstacle(g, a, b);
  HopperProduct<T> p = {{}, {}, {}, Strided<T, float>(g), {}, a.batched(), b.batched(), false, nullptr};
  const auto with_chosen = [&](const auto& use) {
    p.plan.columns == 256 ? with_kernel<T, 256>(a.along_k(), b.along_k(), use)
                          : with_kernel<T, 128>(a.along_k(), b.along_k(), use);
  };
  if (!why) {
    p.plan = hopper_plan(g.m, g.n, g.k, g.batch, multiprocessors());
    if (p.plan.columns == 0) why = "too many tiles";
  }
  if (!why) {
    with_chosen([&]<auto kernel>(std::size_t shared) {
      p.plan = p.plan.in_pairs(multiprocessors(), blocks_in_pairs<kernel>(shared));
    });
    const int of_b = p.plan.columns / static_cast<int>(p.plan.cluster);
    if (!a.encode<T>(p.a, HopperPlan::kRows) || !b.encode<T>(p.b, of_b)) why = kNoMaps;
    p.in_boxes = encode_result<T>(p.c, g);
  }
  if (refused(why)) return products_by_library() == UseLibrary::automatic && library_product(g, dtype);
  if (verbose_on)
    verbose_note(": wgmma, 128 x %d tiles, lines of A along %s, of B along %s; %u piece%s of k%s", p.plan.columns,
                 a.along_k() ? "k" : "m", b.along_k() ? "k" : "n", p.plan.parts, p.plan.parts == 1 ? "" : "s",
                 p.plan.cluster > 1 ? "; blocks in pairs" : "");
  const auto start = [&] {
    with_chosen([&]<auto kernel>(std::size_t shared) {
      if (p.plan.cluster > 1)
        launch_staying_in_clusters<kernel, 2>(p, p.plan.work(), shared);
      else
        launch_staying<kernel>(p, p.plan.work(), shared);
    });
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
template bool gemm_hopper<Half>(const Gemm&);
template bool gemm_hopper<BFloat16>(const Gemm&);

void register_gemm_hopper(KernelTable& t) {
  GemmKernels& k = family<GemmKernels>(t);
  k.external[static_cast<int>(DType::Float16)] = gemm_hopper<Half>;
  k.external[static_cast<int>(DType::BFloat16)] = gemm_hopper<BFloat16>;
}

}  // namespace pydlx::cuda
