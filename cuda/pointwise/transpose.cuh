// Transposes of matrices whose lines are dense on either side.
#pragma once
#include <algorithm>

#include "cuda/runtime/divisor.cuh"
#include "cuda/runtime/pack.cuh"

namespace pydlx::cuda {
namespace {

// out[batch, j, i] = in[batch, i, j] through shared memory, so that both sides move whole lines. Axis 0 is dense in the
// output, axis 1 in the input; the others are walked by the grid.
struct Transpose {
  void* out;
  const void* in;
  std::int64_t rows, cols;       // sizes of axis 1 and axis 0
  std::int64_t out_row, in_col;  // strides: output along axis 1, input along axis 0
  int ndim = 0;                  // further axes
  std::int64_t size[kMaxDims], out_step[kMaxDims], in_step[kMaxDims];
};

// A tile is a square of pieces, each of which a thread reads as Vo packs of Vi elements, turns in its registers, and
// leaves in shared memory as Vi packs of Vo elements: 16 bytes on either side where lines allow it, single elements
// where they begin anywhere. Tiles are fewer than 2^31, as every one is many bytes of memory.
template <class W, int Vi, int Vo>
struct TransposeTiles {
  static constexpr int kSize = static_cast<int>(sizeof(W)), kSide = kSize == 8 ? 32 : 128 / kSize;
  static constexpr int kDown = kSide / Vi, kAcross = kSide / Vo;  // packs of a line of the input, of the output
  static constexpr int kThreads = kDown * kAcross < 256 ? kDown * kAcross : 256;
  static constexpr int kPieces = kDown * kAcross / kThreads, kWrites = kSide * kAcross / kThreads;
  static constexpr int kBatch = std::min(kPieces, 16 / Vo);  // pieces that are on their way before the first is stored

  // Lanes whose accesses to shared memory are one transaction, and how many of them read the same lines of the input.
  static constexpr int kPackBytes = kSize * Vo, kPhase = 32 / std::max(kPackBytes / 4, 1);
  static constexpr int kBeside = kPhase / std::min(kPhase, kDown);
  // Where shared memory has pack x of line y of the output: pieces below each other write to different banks.
  static constexpr int kTwist = std::max(kBeside, 4 / kPackBytes);
  __host__ __device__ static constexpr int place(int y, int x) {
    return y * kAcross + (x ^ (y / Vi * kTwist & (kAcross - 1)));
  }
  // Whether lanes that write, or read, at a time meet different banks or the same words.
  static constexpr bool apart(bool writing) {
    for (int first = 0; first < 32; first += kPhase) {
      int words[32] = {};
      for (int lane = first; lane < first + kPhase; ++lane) {
        const int at = writing ? place(lane % kDown * Vi, lane / kDown) : place(lane / kAcross, lane % kAcross);
        for (int word = at * kPackBytes / 4; word * 4 < (at + 1) * kPackBytes; ++word) {
          if (words[word % 32] != 0 && words[word % 32] != word + 1) return false;
          words[word % 32] = word + 1;
        }
      }
    }
    return true;
  }

  FastDivisor across, down, size[kMaxDims];
  std::uint32_t count;
};

// lines[j].v[i] = rows[i].v[j], of narrow elements by whole words.
template <class W, int Vi, int Vo>
__device__ __forceinline__ void turn(const Pack<W, Vi> (&rows)[Vo], Pack<W, Vo> (&lines)[Vi]) {
  constexpr int kSize = static_cast<int>(sizeof(W)), kWord = 4 / kSize;  // elements of a word
  if constexpr (kSize < 4 && Vi % kWord == 0 && Vo % kWord == 0) {
    std::uint32_t in[Vo][Vi / kWord], out[Vi][Vo / kWord];
    __builtin_memcpy(in, rows, sizeof in);
    const auto halves = [](std::uint32_t a, std::uint32_t b, int odd) {
      return odd ? a >> 16 | (b & 0xffff0000u) : (a & 0xffffu) | b << 16;
    };
    const auto bytes = [](std::uint32_t a, std::uint32_t b, int odd) {
      return odd ? (a >> 8 & 0x00ff00ffu) | (b & 0xff00ff00u) : (a & 0x00ff00ffu) | (b & 0x00ff00ffu) << 8;
    };
#pragma unroll
    for (int j = 0; j < Vi; ++j)
#pragma unroll
      for (int k = 0; k < Vo / kWord; ++k)
        if constexpr (kSize == 2) {
          out[j][k] = halves(in[2 * k][j / 2], in[2 * k + 1][j / 2], j % 2);
        } else {
          const int w = j / 4, odd = j % 2;  // the compiler finds that columns two apart share these
          out[j][k] = halves(bytes(in[4 * k][w], in[4 * k + 1][w], odd), bytes(in[4 * k + 2][w], in[4 * k + 3][w], odd),
                             j % 4 / 2);
        }
    __builtin_memcpy(lines, out, sizeof out);
  } else {
#pragma unroll
    for (int j = 0; j < Vi; ++j)
#pragma unroll
      for (int i = 0; i < Vo; ++i) lines[j].v[i] = rows[i].v[j];
  }
}

template <class W, int Vi, int Vo>
__global__ void __launch_bounds__((TransposeTiles<W, Vi, Vo>::kThreads))
    transpose(const __grid_constant__ Transpose t, const __grid_constant__ TransposeTiles<W, Vi, Vo> tiles) {
  using Tiles = TransposeTiles<W, Vi, Vo>;
  static_assert(Tiles::apart(true) && Tiles::apart(false));
  constexpr int kSide = Tiles::kSide, kThreads = Tiles::kThreads, kBatch = Tiles::kBatch;
  W* const tile = dynamic_shared<W>();
  const int thread = static_cast<int>(threadIdx.x);
  for (std::uint32_t work = blockIdx.x; work < tiles.count; work += gridDim.x) {
    std::uint32_t rest = work;
    const auto next = [&rest](const FastDivisor& size) {
      const std::uint32_t q = size.quotient(rest), i = rest - q * size.divisor;
      rest = q;
      return static_cast<std::int64_t>(i);
    };
    const std::int64_t x0 = next(tiles.across) * kSide, y0 = next(tiles.down) * kSide;
    W* out = static_cast<W*>(t.out) + y0 * t.out_row + x0;
    const W* in = static_cast<const W*>(t.in) + x0 * t.in_col + y0;
    for (int d = 0; d < t.ndim; ++d) {
      const std::int64_t i = next(tiles.size[d]);
      out += i * t.out_step[d];
      in += i * t.in_step[d];
    }
    const int rows = static_cast<int>(t.rows - y0 < kSide ? t.rows - y0 : kSide),
              cols = static_cast<int>(t.cols - x0 < kSide ? t.cols - x0 : kSide);
#pragma unroll 1
    for (int piece = thread; piece < Tiles::kPieces * kThreads; piece += kBatch * kThreads) {
      Pack<W, Vi> got[kBatch][Vo];
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int y = (piece + b * kThreads) % Tiles::kDown * Vi, x = (piece + b * kThreads) / Tiles::kDown * Vo;
        const W* from = in + x * t.in_col + y;
#pragma unroll
        for (int i = 0; i < Vo; ++i, from += t.in_col) {
          got[b][i] = {};
          if (y < rows && x < cols) got[b][i] = get<W, Vi>(from);
        }
      }
#pragma unroll
      for (int b = 0; b < kBatch; ++b) {
        const int y = (piece + b * kThreads) % Tiles::kDown * Vi, x = (piece + b * kThreads) / Tiles::kDown;
        Pack<W, Vo> lines[Vi];
        turn<W, Vi, Vo>(got[b], lines);
#pragma unroll
        for (int j = 0; j < Vi; ++j) put<Space::shared>(tile + Tiles::place(y + j, x) * Vo, lines[j]);
      }
    }
    __syncthreads();
#pragma unroll 8
    for (int i = 0; i < Tiles::kWrites; ++i) {
      const int y = (thread + i * kThreads) / Tiles::kAcross, x = (thread + i * kThreads) % Tiles::kAcross;
      if (y < rows && x * Vo < cols) put(out + y * t.out_row + x * Vo, get<W, Vo>(tile + Tiles::place(y, x) * Vo));
    }
    __syncthreads();
  }
}

template <class W, int Vi, int Vo>
void run_transpose_by(const Transpose& t) {
  using Tiles = TransposeTiles<W, Vi, Vo>;
  Tiles tiles;
  const auto divisor = [](std::int64_t n) { return FastDivisor(static_cast<std::uint32_t>(n)); };
  const std::int64_t x = (t.cols + Tiles::kSide - 1) / Tiles::kSide, y = (t.rows + Tiles::kSide - 1) / Tiles::kSide;
  std::int64_t count = x * y;
  for (int d = 0; d < t.ndim; ++d) count *= t.size[d];
  if (count == 0) return;
  tiles.across = divisor(x);
  tiles.down = divisor(y);
  for (int d = 0; d < t.ndim; ++d) tiles.size[d] = divisor(t.size[d]);
  tiles.count = static_cast<std::uint32_t>(count);
  launch(transpose<W, Vi, Vo>, grid_for(count, 32), Tiles::kThreads, sizeof(W) * Tiles::kSide * Tiles::kSide, t, tiles);
}

// f.operator()<V>() with the widest pack that all of these are multiples of, `place` in bytes and the others in
// elements: 16 bytes (of single bytes 8), a word, or an element.
template <class W, class F>
void with_pack(std::uintptr_t place, std::uint64_t elements, const F& f) {
  constexpr int kSize = static_cast<int>(sizeof(W)), kMost = kSize == 1 ? 8 : 16 / kSize, kWord = 4 / kSize;
  const auto fits = [&](unsigned v) { return place % (v * kSize) == 0 && elements % v == 0; };
  if (fits(kMost)) return f.template operator()<kMost>();
  if constexpr (kWord > 1)
    if (fits(kWord)) return f.template operator()<kWord>();
  f.template operator()<1>();
}

// W is any type of the elements' size.
template <class W>
void run_transpose(const Transpose& t) {
  const auto bits = [](std::int64_t n) { return static_cast<std::uint64_t>(n); };  // low zeros are those of all
  std::uint64_t in = bits(t.rows) | bits(t.in_col), out = bits(t.cols) | bits(t.out_row);
  for (int d = 0; d < t.ndim; ++d) {
    in |= bits(t.in_step[d]);
    out |= bits(t.out_step[d]);
  }
  with_pack<W>(reinterpret_cast<std::uintptr_t>(t.in), in, [&]<int Vi>() {
    with_pack<W>(reinterpret_cast<std::uintptr_t>(t.out), out, [&]<int Vo>() { run_transpose_by<W, Vi, Vo>(t); });
  });
}

}  // namespace
}  // namespace pydlx::cuda
