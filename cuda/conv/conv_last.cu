// Convolution with the channels last on the tensor cores: the products of last_problem.cuh by the instructions of
// sm_80, for 16-bit floats those of sm_90a where they serve (conv_hopper.cu). Panels come to shared memory by copies of
// 16 bytes that no register holds, two panels ahead of the one that the tensor cores multiply. Long sums with few tiles
// are split, and the parts are added in order.
#include "core/verbose.h"
#include "cuda/conv/aligned.cuh"
#include "cuda/conv/conv_hopper.h"
#include "cuda/conv/conv_last.h"
#include "cuda/conv/last_problem.cuh"
#include "cuda/gemm/gemm_hopper.h"
#include "cuda/gemm/warp_tile.cuh"
#include "cuda/libraries/cudnn.h"
#include "cuda/pointwise/transpose.cuh"
#include "kernels.h"

namespace pydlx::cuda {
namespace {

constexpr int kStages = 3;

template <class Tile, class P>
__global__ void __launch_bounds__(kThreads)
    conv_last_product(const __grid_constant__ P p, std::int64_t split, float* partial) {
  constexpr bool along_k = P::kAlongK;
  // Lines of a panel are rows of A or columns of B with k along them, or positions of k.
  constexpr int kSide = Tile::kSide, kDepth = Tile::kDepth, kChunk = Tile::kChunk,
                kWidth = Tile::template kWidth<along_k>, kEach = Tile::kChunks / kThreads;
  uint4* const shared = dynamic_shared<uint4>();
  const auto panel_a = [&](int stage) { return shared + stage * 2 * Tile::kStored; };
  const auto panel_b = [&](int stage) { return shared + (stage * 2 + 1) * Tile::kStored; };
  const std::int64_t tiles_n = (p.n + kSide - 1) / kSide;
  const std::int64_t m0 = static_cast<std::int64_t>(blockIdx.x) / tiles_n * kSide;
  const std::int64_t n0 = static_cast<std::int64_t>(blockIdx.x) % tiles_n * kSide;
  const int k_begin = static_cast<int>(blockIdx.y * split);
  const int chunk = static_cast<int>(threadIdx.x) % kWidth, first_line = static_cast<int>(threadIdx.x) / kWidth;
  constexpr int kStep = kThreads / kWidth;  // between a thread's lines
  const auto copy = [](uint4* to, const typename P::Element* data, int element) {
    cp_async_16(to, element == kNone ? data : data + element, element != kNone);
  };

  for (int batch = static_cast<int>(blockIdx.z); batch < p.batch; batch += static_cast<int>(gridDim.z)) {
    typename Tile::Sums sum = {};
    const auto terms = p.terms(batch);
    const int k_end = static_cast<int>(k_begin + split < terms.count ? k_begin + split : terms.count);
    const auto run = [&](const auto& start) {
      sum_panels<Tile, along_k, along_k>(sum, [&](const auto& add) {
#pragma unroll
        for (int stage = 0; stage < kStages - 1; ++stage) {
          if (const int k0 = k_begin + stage * kDepth; k0 < k_end) start(k0, stage);
          cp_async_commit();  // also when empty, so that the count of groups stays that of panels
        }
        int stage = 0, ahead = kStages - 1;
        for (int k0 = k_begin; k0 < k_end; k0 += kDepth) {
          cp_async_wait<kStages - 2>();
          __syncthreads();  // this panel is there for all, and nobody reads the one before any more
          if (const int next = k0 + (kStages - 1) * kDepth; next < k_end) start(next, ahead);
          cp_async_commit();
          add(panel_a(stage), panel_b(stage));
          stage = stage + 1 == kStages ? 0 : stage + 1;
          ahead = ahead + 1 == kStages ? 0 : ahead + 1;
        }
        cp_async_wait<0>();
      });
    };
    if constexpr (along_k) {
      decltype(p.a_outer(terms, 0)) a[kEach];
      decltype(p.b_outer(terms, 0)) b[kEach];
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        a[j] = p.a_outer(terms, m0 + first_line + j * kStep);
        b[j] = p.b_outer(terms, n0 + first_line + j * kStep);
      }
      run([&](int k0, int stage) {
        const auto depth = p.depth(terms, k0 + chunk * kChunk, k_end);
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          const int place = Tile::template place<along_k>(first_line + j * kStep, chunk);
          copy(panel_a(stage) + place, p.a_data(), p.a(a[j], depth));
          copy(panel_b(stage) + place, p.b_data(), p.b(b[j], depth));
        }
      });
    } else {
      const auto a = p.a_outer(terms, m0 + chunk * kChunk);
      const auto b = p.b_outer(terms, n0 + chunk * kChunk);
      run([&](int k0, int stage) {
#pragma unroll
        for (int j = 0; j < kEach; ++j) {
          const int line = first_line + j * kStep, place = Tile::template place<along_k>(line, chunk);
          const auto depth = p.depth(terms, k0 + line, k_end);
          copy(panel_a(stage) + place, p.a_data(), p.a(a, depth));
          copy(panel_b(stage) + place, p.b_data(), p.b(b, depth));
        }
      });
    }
    __syncthreads();  // the next group overwrites the panels
    Tile::store(p, batch, m0, n0, sum, partial);
  }
}

template <Digits digits, class P>
void run_last(const P& p) {
  using Tile = WarpTile<typename P::Element, 128, digits>;
  constexpr auto kernel = conv_last_product<Tile, P>;
  constexpr std::size_t bytes = std::size_t{kStages} * 2 * Tile::kStored * 16;
  allow_shared<kernel>(bytes);
  if (verbose_on) verbose_note("; %s", units_of<typename P::Element>(digits));
  run_split("conv", p, Tile::kSide, Tile::kSide, Tile::kDepth,
            [&](const Split& s, float* partial) { launch(kernel, s.grid, kThreads, bytes, p, s.length, partial); });
}
template <class P>
void run_last(const P& p) {
  if constexpr (sizeof(typename P::Element) == 4)
    if (p.c.shape.rounded) return run_last<Digits::eleven>(p);
  run_last<Digits::all>(p);
}

// The order in which a pass does not find the weights but wants them, lines of k: [group and row, tap and channel of
// the other side].
Transpose weight_lines(const ConvShape& s, ConvPass pass, std::int64_t taps, const void* given, void* lines) {
  Transpose t;
  t.out = lines;
  t.in = given;
  const auto walk = [&](std::int64_t size, std::int64_t out, std::int64_t in) {
    t.size[t.ndim] = size;
    t.out_step[t.ndim] = out;
    t.in_step[t.ndim++] = in;
  };
  if (pass == ConvPass::forward) {  // [cin, tap] of every row
    t.rows = t.in_col = taps;
    t.cols = t.out_row = s.cin;
    walk(s.groups * s.cout, s.cin * taps, s.cin * taps);
  } else if (!s.weights_last) {  // [cout, (cin, tap)]
    t.rows = t.in_col = s.cin * taps;
    t.cols = t.out_row = s.cout;
    walk(s.groups, s.cout * s.cin * taps, s.cout * s.cin * taps);
  } else {  // [cout, cin] of every tap
    t.rows = s.cin;
    t.cols = s.cout;
    t.out_row = taps * s.cout;
    t.in_col = taps * s.cin;
    walk(taps, s.cout, s.cin);
    walk(s.groups, s.cout * s.cin * taps, s.cout * s.cin * taps);
  }
  return t;
}

template <class T, class P>
void run_with_weights(const Conv& given, ConvPass pass) {
  Conv c = given;
  const ConvShape& s = c.shape;
  const std::int64_t taps = s.kernel[0] * s.kernel[1] * s.kernel[2], count = s.groups * s.cout * s.cin * taps;
  const bool in_order = pass == ConvPass::forward && (s.weights_last || taps == 1);
  const Aligned<T> w(c.w, count, in_order);
  const Scratch<T> reordered(in_order ? 0 : count);
  if (!in_order)
    run_transpose<std::conditional_t<sizeof(T) == 2, std::uint16_t, std::uint32_t>>(
        weight_lines(s, pass, taps, c.w, reordered.get()));
  const T* const lines = in_order ? static_cast<const T*>(c.w) : reordered.get();
  if constexpr (sizeof(T) == 2)
    if (run_conv_hopper(c, pass, lines)) return;
  run_last(WithWeights<T, P>(c, lines));
}

// A kernel of one tap that meets every pixel makes a product of matrices; where warpgroups compute it, the copy engine
// brings both. False otherwise.
template <class T>
bool run_pointwise(const Conv& c, ConvPass pass) {
  const ConvShape& s = c.shape;
  if (s.groups != 1 || c.scale) return false;
  for (int d = 0; d < 3; ++d)
    if (s.kernel[d] != 1 || s.stride[d] != 1 || s.pad[d] != 0 || s.in[d] != s.out[d]) return false;
  const std::int64_t pixels = s.batch * s.in[0] * s.in[1] * s.in[2];
  Gemm g;
  if (pass == ConvPass::weight_grad) {
    g.m = s.cout, g.n = s.cin, g.k = pixels;
    g.a = c.y, g.a_row = 1, g.a_col = s.cout;
    g.b = c.x, g.b_row = s.cin, g.b_col = 1;
    g.c = c.w;
  } else {
    const bool forward = pass == ConvPass::forward;
    g.m = pixels, g.n = forward ? s.cout : s.cin, g.k = forward ? s.cin : s.cout;
    g.a = forward ? c.x : c.y, g.a_row = g.k, g.a_col = 1;
    g.b = c.w, g.b_row = forward ? 1 : s.cin, g.b_col = forward ? s.cin : 1;
    g.c = forward ? c.y : c.x;
    g.bias = c.bias;
    g.activation = c.activation;
  }
  g.c_row = g.n;
  if (verbose_on) verbose_note("; a product of matrices");
  return gemm_hopper<T>(g);
}

}  // namespace

template <class T>
bool conv_last_serves(const ConvShape& s, ConvPass pass) {
  constexpr std::int64_t kMost = std::int64_t{1} << 28;  // coordinates and distances fit an int
  if (convolutions_by_library() || s.cin % kChunkOf<T> != 0 || s.cout % kChunkOf<T> != 0) return false;
  if (sizeof(T) == 4 && s.exact) return false;
  for (int d = 0; d < 3; ++d)
    if (s.in[d] > kMost || s.out[d] > kMost || s.pad[d] > kMost || s.stride[d] > kMost ||
        s.kernel[d] * s.dilation[d] > kMost || s.out[d] * s.stride[d] > kMost)
      return false;
  const std::int64_t pixels = s.out[0] * s.out[1] * s.out[2] * s.batch, inputs = s.in[0] * s.in[1] * s.in[2] * s.batch,
                     taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
  constexpr std::int64_t kMostElements = (std::int64_t{1} << 31) - 1;
  if (s.cin * taps > kMost || s.cout * taps > kMost || inputs * s.groups * s.cin > kMostElements ||
      pixels * s.groups * s.cout > kMostElements || s.groups * s.cout * s.cin * taps > kMostElements)
    return false;
  switch (pass) {
    case ConvPass::forward:
      return s.cout >= 32 && pixels >= 32 && s.cin * taps >= 16;
    case ConvPass::input_grad:
      return s.cin >= 32 && inputs >= 32 && s.cout * taps >= 16;
    default:
      return s.cout >= 32 && s.cin * taps >= 32 && pixels >= 16;
  }
}

template <class T>
bool conv_last_pays(const ConvShape& s, ConvPass pass, std::int64_t products) {
  // An estimate that no measurement has confirmed: per pixel the other kernels, which find and fetch single elements,
  // do 262 multiply-adds in a cycle of a multiprocessor, and copies move 5 elements there and back.
  constexpr std::int64_t kProductsPerElement = 64;
  const std::int64_t taps = s.kernel[0] * s.kernel[1] * s.kernel[2];
  return conv_last_serves<T>(s, pass) && products * taps >= kProductsPerElement * (s.cin + s.cout);
}

template <class T>
void run_conv_last(const Conv& given, ConvPass pass) {
  Conv c = given;
  const ConvShape& s = c.shape;
  const std::int64_t x_count = s.batch * s.in[0] * s.in[1] * s.in[2] * s.groups * s.cin,
                     y_count = s.batch * s.out[0] * s.out[1] * s.out[2] * s.groups * s.cout;
  if (verbose_on) verbose_note("; channels last, chunks of 16 bytes");
  const Aligned<T> x(c.x, x_count, pass != ConvPass::input_grad), y(c.y, y_count, pass != ConvPass::forward);
  if constexpr (sizeof(T) == 2)
    if (run_pointwise<T>(c, pass)) return;
  if (pass == ConvPass::forward) return run_with_weights<T, LastForward<T>>(c, pass);
  if (pass == ConvPass::input_grad) return run_with_weights<T, LastInputGrad<T>>(c, pass);
  if constexpr (sizeof(T) == 2)
    if (run_conv_hopper<T>(c, pass, nullptr)) return;
  run_last(LastWeightGrad<T>(c));
}
template bool conv_last_serves<float>(const ConvShape&, ConvPass);
template bool conv_last_serves<Half>(const ConvShape&, ConvPass);
template bool conv_last_serves<BFloat16>(const ConvShape&, ConvPass);
template bool conv_last_pays<float>(const ConvShape&, ConvPass, std::int64_t);
template bool conv_last_pays<Half>(const ConvShape&, ConvPass, std::int64_t);
template bool conv_last_pays<BFloat16>(const ConvShape&, ConvPass, std::int64_t);
template void run_conv_last<float>(const Conv&, ConvPass);
template void run_conv_last<Half>(const Conv&, ConvPass);
template void run_conv_last<BFloat16>(const Conv&, ConvPass);

void register_conv_last(KernelTable&) {}  // conv.cu asks for it

}  // namespace pydlx::cuda
