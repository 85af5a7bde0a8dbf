// Convolution of 16-bit floats with the channels last by the instructions of sm_90a: the products of last_problem.cuh,
// cut like those of matrices (HopperPlan) and multiplied by two warpgroups. The copy engine brings the operand that
// lies in memory as a matrix: the weights of the forward pass or, for their gradient, that of the output. The other one
// is gathered by the threads of the third warpgroup in chunks of 16 bytes, each to where the engine would put it; for
// the gradient of the input, whose sums leave taps out, both are. That serves any stride, dilation and number of
// channels, where boxes of an image would need 64 channels of one tap.
//
// Several panels are on their way at a time: a thread hands a panel over kLag panels after it has started its copies.
// Of a 128 x 128 tile's panel, 512 cycles of a multiprocessor's tensor cores, gathering is about 130 instructions for
// each of the four schedulers.
#include "cuda/conv/conv_hopper.h"
#include "cuda/conv/last_problem.cuh"
#include "cuda/gemm/hopper_tile.cuh"
#include "cuda/gemm/tile.cuh"
#include "cuda/runtime/mma.cuh"
#include "cuda/runtime/pairs.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kLineChunks = kPanelSide / kChunk, kLineStep = kWarpgroup / kLineChunks;  // between a thread's lines

template <class P>
struct HopperConv {
  CUtensorMap matrix;  // of the operand that the engine brings, if any
  P p;
  HopperPlan plan;
  float* partial;
};

// Every thread copies chunk thread % 8 of every sixteenth line.
template <class T>
__device__ __forceinline__ void copy_chunk(unsigned char* panel, int line, int chunk, const T* data, int element) {
  cp_async_16(reinterpret_cast<uint4*>(panel) + chunk_at<kLineChunks>(line, chunk),
              element == kNone ? data : data + element, element != kNone);
}

// Whether threads gather both operands.
template <class P>
constexpr bool kGathersAll = P::kAlongK && requires(const P& p) { p.b_data(); };

// Panels of a piece for a sum of `terms` terms: the plan goes by the longest one.
__device__ __forceinline__ std::uint32_t panels_of(const HopperPlan::Piece& piece, std::int64_t terms) {
  const std::int64_t left = (terms - piece.k + HopperPlan::kDepth - 1) / HopperPlan::kDepth;
  return left < piece.panels ? static_cast<std::uint32_t>(left > 0 ? left : 0) : piece.panels;
}

template <class P>
using TermsOf = decltype(std::declval<const P&>().terms(0));

// Rows of A, and columns of B if they are gathered, with k along the lines.
template <class P, int columns>
struct GatheredLines {
  static constexpr int kRows = HopperPlan::kRows / kLineStep, kColumns = kGathersAll<P> ? columns / kLineStep : 0;
  TermsOf<P> terms;
  Place row[kRows];
  int column, left;  // the first column's line of weights, and how many columns there are from it on
  int first_line, chunk;

  __device__ __forceinline__ explicit GatheredLines(int thread)
      : first_line(thread / kLineChunks), chunk(thread % kLineChunks) {}
  __device__ __forceinline__ void begin(const P& p, const HopperPlan::Piece& piece) {
    terms = p.terms(piece.batch);
    const std::int64_t m0 = static_cast<std::int64_t>(piece.row) * HopperPlan::kRows + first_line,
                       n0 = static_cast<std::int64_t>(piece.column) * columns + first_line;
#pragma unroll
    for (int j = 0; j < kRows; ++j) row[j] = p.a_outer(terms, m0 + j * kLineStep);
    if constexpr (kColumns > 0) {
      column = p.b_outer(terms, n0);
      left = static_cast<int>(p.n - n0 < columns ? p.n - n0 : columns);
    }
  }
  __device__ __forceinline__ void start(const P& p, int k0, unsigned char* stage) const {
    const auto depth = p.depth(terms, k0 + chunk * kChunk, terms.count);
#pragma unroll
    for (int j = 0; j < kRows; ++j)
      copy_chunk(stage, first_line + j * kLineStep, chunk, p.a_data(), p.a(row[j], depth));
    if constexpr (kColumns > 0) {
      unsigned char* const b = stage + TileRing<columns>::kA;
      const int first = p.b(column, depth), step = kLineStep * static_cast<int>(p.weights_line);
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        copy_chunk(b, first_line + j * kLineStep, chunk, p.b_data(),
                   first == kNone || j * kLineStep >= left ? kNone : first + j * step);
    }
  }
};

// Columns of B, with positions of k one line below the other, panels of 64 columns.
template <class P, int columns>
struct GatheredColumns {
  static constexpr int kLines = HopperPlan::kDepth / kLineStep, kPanels = columns / kPanelSide;
  TermsOf<P> terms;
  Tap column[kPanels];
  int first_line, chunk;

  __device__ __forceinline__ explicit GatheredColumns(int thread)
      : first_line(thread / kLineChunks), chunk(thread % kLineChunks) {}
  __device__ __forceinline__ void begin(const P& p, const HopperPlan::Piece& piece) {
    terms = p.terms(piece.batch);
    const std::int64_t n0 = static_cast<std::int64_t>(piece.column) * columns + chunk * kChunk;
#pragma unroll
    for (int i = 0; i < kPanels; ++i) column[i] = p.b_outer(terms, n0 + i * kPanelSide);
  }
  __device__ __forceinline__ void start(const P& p, int k0, unsigned char* stage) const {
    unsigned char* const b = stage + TileRing<columns>::kA;
#pragma unroll
    for (int j = 0; j < kLines; ++j) {
      const int line = first_line + j * kLineStep;
      const auto depth = p.depth(terms, k0 + line, terms.count);
#pragma unroll
      for (int i = 0; i < kPanels; ++i) copy_chunk(b + i * kPanelBytes, line, chunk, p.b_data(), p.b(column[i], depth));
    }
  }
};

template <class P, int columns>
__device__ __forceinline__ void produce(const HopperConv<P>& c, const TileRing<columns>& ring) {
  using R = TileRing<columns>;
  using Gathered = std::conditional_t<P::kAlongK, GatheredLines<P, columns>, GatheredColumns<P, columns>>;
  // Copies have as long as the products of kLag panels take, at least 1000 cycles. A stage comes back once the next
  // panel was handed over, so that two stages must be left.
  constexpr int kLag = R::kCount / 2;
  static_assert(kLag <= R::kCount - 2);
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  const std::uint32_t work = c.plan.work();
  Gathered gathered(thread);
  Turn<R::kCount> turn, done;
  int under_way = 0;
  const auto hand_over = [&] {
    show_to_engines();
    __syncwarp();
    if (thread % kWarp == 0) arrive(ring.full + done.stage());
    done.next();
  };
  for (std::uint32_t index = blockIdx.x; index < work; index += gridDim.x) {
    const HopperPlan::Piece piece = c.plan.piece(index);
    gathered.begin(c.p, piece);
    const std::uint32_t panels = panels_of(piece, gathered.terms.count);
    for (std::uint32_t panel = 0; panel < panels; ++panel, turn.next()) {
      const int k0 = static_cast<int>(piece.k) + static_cast<int>(panel) * HopperPlan::kDepth;
      unsigned char* const stage = ring.at + turn.stage() * R::kBytes;
      wait(ring.empty + turn.stage(), turn.parity() ^ 1);  // in the first round at once
      if constexpr (!kGathersAll<P>) {
        if (thread == 0) {
          Barrier* const full = ring.full + turn.stage();
          const int row = static_cast<int>(piece.row) * HopperPlan::kRows,
                    column = static_cast<int>(piece.column) * columns, batch = static_cast<int>(piece.batch);
          arrive_expecting(full, P::kAlongK ? R::kB : R::kA);
          if constexpr (P::kAlongK)
            load_panels<true, columns / kPanelSide>(stage + R::kA, c.matrix, column, k0, batch, full);
          else
            load_panels<false, HopperPlan::kRows / kPanelSide>(stage, c.matrix, row, k0, batch, full);
        }
      }
      gathered.start(c.p, k0, stage);
      cp_async_commit();
      if (under_way == kLag) {
        cp_async_wait<kLag>();
        hand_over();
      } else {
        ++under_way;
      }
    }
  }
  cp_async_wait<0>();
  for (; under_way > 0; --under_way) hand_over();
}

template <class P, int columns>
__device__ __forceinline__ void store_tile(const HopperConv<P>& c, const HopperPlan::Piece& piece,
                                           const float (&sum)[columns / 2]) {
  const P& p = c.p;
  if (c.partial) return store_part<columns>(c.partial, piece, p.batch, p.m, p.n, sum);
  const TilePlace at = TilePlace::of<columns>(piece, p.n);
  const auto terms = p.terms(piece.batch);
  store_chunks<columns>(
      at, p.m, sum,
      [&](std::int64_t m) {
        auto* const line = p.line(terms, m);
        return line ? line + at.n0 : nullptr;
      },
      [&](int column, float v, float next) {
        return pair_of(p.finished(v, terms, at.n0 + column), p.finished(next, terms, at.n0 + column + 1));
      });
}

template <class P, int columns>
__global__ void __launch_bounds__(kThreads, 1) conv_wgmma(const __grid_constant__ HopperConv<P> c) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)  // empty for architectures without these instructions
  using R = TileRing<columns>;
  const R ring;
  const auto consume = [&] {
    consume_panels<typename P::Element, columns, P::kAlongK, P::kAlongK>(
        c.plan, ring, [&](const auto& piece) { return panels_of(piece, c.p.terms(piece.batch).count); },
        [&](const auto& piece, const auto& sum) { store_tile<P, columns>(c, piece, sum); });
  };
  // The places of eight rows take registers. A stage is full with the word of four warps, and with the engine's bytes.
  share_work<104, 200>(
      [&] { init_ring(ring.full, ring.empty, R::kCount, kWarpgroup / kWarp + (kGathersAll<P> ? 0 : 1)); },
      [&] { produce<P, columns>(c, ring); }, consume);
#endif
}

// ---- choice ---------------------------------------------------------------------------------------------------------

template <class P>
const char* obstacle(const P& p, const void* result) {
  if (const char* why = no_wgmma()) return why;
  if (reinterpret_cast<std::uintptr_t>(result) % 16 != 0) return "the result does not begin at a multiple of 16 bytes";
  // Small tiles are for smaller products.
  return p.m < kPanelSide || p.n < kPanelSide || p.k < kPanelSide ? "fewer than 64 rows, columns or terms" : nullptr;
}

// `matrix`, if any, without the lines of its boxes where these are the columns of a tile.
template <class P>
bool run(const P& p, const void* result, BoxSource<3> matrix = {}) {
  using T = typename P::Element;
  const char* why = obstacle(p, result);
  HopperConv<P> c = {{}, p, {}, nullptr};
  if (!why) {
    c.plan = hopper_plan(p.m, p.n, p.k, p.batch, multiprocessors());
    if (p.n <= 64) c.plan.columns = 64;  // one column of tiles, as before
    if (P::kAlongK) matrix.box[1] = c.plan.columns;
    if (c.plan.work() == 0)
      why = "too many tiles";
    else if (!kGathersAll<P> && !encode_map<T>(c.matrix, matrix))
      why = kNoMaps;
  }
  if (refused(why)) return false;
  if (verbose_on)
    verbose_note("; wgmma, 128 x %d tiles; %u piece%s of k", c.plan.columns, c.plan.parts,
                 c.plan.parts == 1 ? "" : "s");
  const Scratch<float> partial(c.plan.parts == 1 ? 0 : c.plan.parts * p.batch * p.m * p.n);
  if (c.plan.parts > 1) c.partial = partial.get();
  const auto start = [&]<int columns>() {
    launch_staying<conv_wgmma<P, columns>>(c, c.plan.work(), TileRing<columns>::kShared);
  };
  if (c.plan.columns == 64)
    start.template operator()<64>();
  else if (c.plan.columns == 128)
    start.template operator()<128>();
  else
    start.template operator()<256>();
  if (c.partial) run_add_parts(p, c.partial, c.plan.parts);
  return true;
}

}  // namespace

template <class T>
bool run_conv_hopper(const Conv& c, ConvPass pass, const T* weights) {
  if (pass == ConvPass::input_grad) return run(WithWeights<T, LastInputGrad<T>>(c, weights), c.x);
  if (pass == ConvPass::forward) {
    const LastForward<T> p(c);
    return run(p, c.y, {weights, {p.k, p.n, p.batch}, {1, p.k, p.n * p.k}, {kPanelSide, 0, 1}});
  }
  const LastWeightGrad<T> p(c);
  return run(p, c.w, {c.y, {p.m, p.k, p.batch}, {1, p.y_line, p.m}, {kPanelSide, kPanelSide, 1}});
}
template bool run_conv_hopper<Half>(const Conv&, ConvPass, const Half*);
template bool run_conv_hopper<BFloat16>(const Conv&, ConvPass, const BFloat16*);

void register_conv_hopper(KernelTable&) {}  // conv_last.cu asks for it

}  // namespace pydlx::cuda
