// Convolution with 3x3 kernels, stride 1 and one pixel of padding, from seven loops to fewer multiplications.
//
//   y[image][k][i][j] = sum over c, r, s of w[k][c][r][s] x[image][c][i + r - 1][j + s - 1]
//
// x: images x c x h x w, y: images x k x h x w, planes contiguous (PyTorch's layout), float32. Every input number meets
// 9 k weights: like the matrix product this is arithmetic-bound, and steps 1 to 4 repeat its ladder. Steps 5 and 6 then
// leave the peak behind by computing the same sums with 2.25 and 4 times fewer multiplications.
#include "ladder.h"

namespace {

struct Shape {
  Int images, c, k, h, w;
  Int pixels() const { return h * w; }
};

// 1. The definition, seven loops deep, with the test for the border in the innermost. The sum is a chain of dependent
// additions, as in the first step of gemm.cpp, and a branch sits in every link of it.
void definition(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  for (Int n = 0; n < images; ++n)
    for (Int o = 0; o < k; ++o)
      for (Int i = 0; i < h; ++i)
        for (Int j = 0; j < w; ++j) {
          float sum = 0;
          for (Int ch = 0; ch < c; ++ch)
            for (Int r = 0; r < 3; ++r)
              for (Int s = 0; s < 3; ++s) {
                const Int row = i + r - 1, col = j + s - 1;
                if (row >= 0 && row < h && col >= 0 && col < w)
                  sum += weight[((o * c + ch) * 3 + r) * 3 + s] * x[((n * c + ch) * h + row) * w + col];
              }
          y[((n * k + o) * h + i) * w + j] = sum;
        }
}

// A copy of one image with a border of zeros: (h + 2) x (w + 2) per channel. Costs one pass over x, removes every test.
float* padded(const Shape& s, const float* x) {
  const Int pitch = s.w + 2, plane = (s.h + 2) * pitch;
  float* p = scratch<0>(s.c * plane + 1024);  // room for the last vectors of step 4
  std::memset(p, 0, static_cast<std::size_t>(s.c * plane + 1024) * sizeof(float));
  for (Int c = 0; c < s.c; ++c)
    for (Int i = 0; i < s.h; ++i)
      std::memcpy(p + c * plane + (i + 1) * pitch + 1, x + c * s.pixels() + i * s.w,
                  static_cast<std::size_t>(s.w) * sizeof(float));
  return p;
}

// 2. Pixels innermost, without a test. One weight times a row of pixels is added to a row of results: neighbouring
// results are independent, and the compiler uses vectors. Each multiply-add still loads and stores its sum.
void row_order(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  const Shape s{images, c, k, h, w};
  const Int pitch = w + 2, plane = (h + 2) * pitch;
  for (Int n = 0; n < images; ++n) {
    const float* p = padded(s, x + n * c * s.pixels());
    for (Int o = 0; o < k; ++o)
      for (Int i = 0; i < h; ++i) {
        float* __restrict out = y + ((n * k + o) * h + i) * w;
        std::memset(out, 0, static_cast<std::size_t>(w) * sizeof(float));
        for (Int ch = 0; ch < c; ++ch)
          for (Int t = 0; t < 9; ++t) {
            const float v = weight[(o * c + ch) * 9 + t];
            const float* in = p + ch * plane + (i + t / 3) * pitch + t % 3;
            for (Int j = 0; j < w; ++j) out[j] += v * in[j];
          }
      }
  }
}

// 3. Make it a matrix product. Row (c, r, s) of a matrix with a column per pixel is the plane of c, shifted; the
// weights as they lie are a k x 9 c matrix; their product is y. The register tile of gemm.cpp does the rest. The price
// is memory: every pixel is written nine times and read back (64 channels of 56 x 56: 7 MB where the image has 0.8).
void im2col(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  const Shape s{images, c, k, h, w};
  const Int pitch = w + 2, plane = (h + 2) * pitch, pixels = s.pixels();
  float* columns = scratch<1>(9 * c * pixels);
  for (Int n = 0; n < images; ++n) {
    const float* p = padded(s, x + n * c * pixels);
    for (Int row = 0; row < 9 * c; ++row)
      for (Int i = 0; i < h; ++i)
        std::memcpy(columns + row * pixels + i * w, p + row / 9 * plane + (i + row % 9 / 3) * pitch + row % 3,
                    static_cast<std::size_t>(w) * sizeof(float));
    for (Int j = 0; j < pixels; j += kTileColumns)
      strip<false>(k, 9 * c, weight, 9 * c, 1, columns + j, pixels, y + n * k * pixels + j, pixels);
  }
}

// The tile of step 4: more rows than in the product, because its vectors begin anywhere, and a load across two cache
// lines costs as much as two.
constexpr int kRows = kLanes == 16 ? 8 : 4, kVectors = kLanes == 16 ? 3 : 2, kColumns = kVectors * kLanes;

// 4. The same product without the matrix. In a padded plane, row (c, r, s) of the matrix is the plane itself from the
// address r * pitch + s on: shifting the picture is adding to a pointer. So tiles run over the padded plane as one long
// row of pixels, 58 to a line where 56 are results, and load each vector straight from there. 2 of 58 sums are thrown
// away; in return a tile's input, 64 channels x 3 lines, stays in the first-level cache for all k.
void direct(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  const Shape s{images, c, k, h, w};
  const Int pitch = w + 2, plane = (h + 2) * pitch;
  for (Int n = 0; n < images; ++n) {
    const float* p = padded(s, x + n * c * s.pixels());
    for (Int f = 0; f < h * pitch; f += kColumns)
      for (Int o = 0; o < k; o += kRows) {
        V sum[kRows][kVectors]{};
        for (Int ch = 0; ch < c; ++ch)
          for (Int t = 0; t < 9; ++t) {
            const float* in = p + ch * plane + t / 3 * pitch + t % 3 + f;
            V row[kVectors];
#pragma GCC unroll 8
            for (int j = 0; j < kVectors; ++j) row[j] = load(in + j * kLanes);
#pragma GCC unroll 8
            for (int i = 0; i < kRows; ++i) {
              const V v = splat(weight[(o + i) * c * 9 + ch * 9 + t]);
#pragma GCC unroll 8
              for (int j = 0; j < kVectors; ++j) sum[i][j] += v * row[j];
            }
          }
        for (int i = 0; i < kRows; ++i) {  // lines of results out of the long row
          float* out = y + (n * k + o + i) * s.pixels();
          const float* sums = reinterpret_cast<const float*>(sum[i]);
          for (Int a = 0; a < kColumns;) {
            const Int line = (f + a) / pitch, col = (f + a) % pitch, rest = kColumns - a;
            if (line == h) break;
            const Int take = pitch - col < rest ? pitch - col : rest, keep = w - col < take ? w - col : take;
            for (Int j = 0; j < keep; ++j) out[line * w + col + j] = sums[a + j];
            a += take;
          }
        }
      }
  }
}

// 5 and 6. Winograd's minimal filtering (Lavin and Gray 2015). A 1-D filter of 3 taps over 4 inputs gives 2 outputs
// with 4 multiplications instead of 6: a product of polynomials is determined by its values at 4 points. With points
// {0, 1, -1, infinity} taking values and going back is additions and halvings only. Applied to rows and columns, F(2x2,
// 3x3) needs 16 multiplications where 36 were, F(4x4, 3x3) with points {0, 1, -1, 1/2, -2, infinity} 36 where 144 were.
// For each of the 16 or 36 positions the sum over channels is a matrix product, so gemm.cpp's tile does the work again.
//
// What it costs: the transforms, which no longer shrink when the products do; memory, since a tile of 4 x 4 pixels is
// held as 36 numbers; and accuracy, since sums of large terms cancel at the end. The points decide that: powers of two
// near 1 keep the coefficients small and exact.
template <int M>
struct Winograd;

template <>
struct Winograd<2> {
  static void input(const V* d, V* t) {
    t[0] = d[0] - d[2];
    t[1] = d[1] + d[2];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
  }
  static void kernel(const V* g, V* u) {
    u[0] = g[0];
    u[1] = 0.5f * (g[0] + g[1] + g[2]);
    u[2] = 0.5f * (g[0] - g[1] + g[2]);
    u[3] = g[2];
  }
  static void output(const V* m, V* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
  }
};

template <>
struct Winograd<4> {
  static void input(const V* d, V* t) {
    const V e = d[4] - d[2], f = d[3] - d[1];
    t[0] = d[0] + d[4] + 1.5f * f - 2.0f * d[2];
    t[1] = d[4] - d[1] + 0.5f * d[2] + 2.5f * d[3];
    t[2] = d[4] + d[1] + 0.5f * d[3] - 2.5f * d[2];
    t[3] = e + 2.0f * f;
    t[4] = e - 0.5f * f;
    t[5] = d[1] + d[5] + 1.5f * e - 2.0f * d[3];
  }
  static void kernel(const V* g, V* u) {
    const V s = (g[0] + g[2]) * (1.0f / 3), h = g[1] * (1.0f / 3);
    u[0] = g[0];
    u[1] = s + h;
    u[2] = h - s;
    u[3] = (g[0] + 0.5f * g[1] + 0.25f * g[2]) * (-16.0f / 15);
    u[4] = (g[0] - 2.0f * g[1] + 4.0f * g[2]) * (1.0f / 15);
    u[5] = g[2];
  }
  static void output(const V* m, V* y) {
    const V s = m[1] + m[2], d = m[1] - m[2];
    y[0] = m[0] + s + m[3] + m[4];
    y[1] = d + 0.5f * m[3] - 2.0f * m[4];
    y[2] = s + 0.25f * m[3] + 4.0f * m[4];
    y[3] = d + m[5] + 0.125f * m[3] - 8.0f * m[4];
  }
};

// A 1-D transform over the columns of an IN x IN tile, then over its rows. Vectors hold channels, so that every lane
// does the same, whatever the size of the picture.
template <int IN, int OUT, class F, class Load, class Store>
inline void both_ways(const F& f, const Load& from, const Store& to) {
  V half[OUT][IN];
#pragma GCC unroll 6
  for (int j = 0; j < IN; ++j) {
    V a[IN], b[OUT];
#pragma GCC unroll 6
    for (int i = 0; i < IN; ++i) a[i] = from(i, j);
    f(a, b);
#pragma GCC unroll 6
    for (int i = 0; i < OUT; ++i) half[i][j] = b[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < OUT; ++i) {
    V b[OUT];
    f(half[i], b);
#pragma GCC unroll 6
    for (int j = 0; j < OUT; ++j) to(i, j, b[j]);
  }
}

// Planes to pixels, channels side by side, so that a vector of channels is one load: lines [top, bottom) of the image
// with the border of zeros. Squares of 16 x 16 change sides in registers.
void planes_to_pixels(const Shape& s, const float* x, Int top, Int bottom, float* out) {
  const Int pitch = s.w + 2, first = top < 0 ? 0 : top, last = bottom > s.h ? s.h : bottom;
  const Int count = (last - first) * s.w;
  const std::size_t pixel = static_cast<std::size_t>(s.c) * sizeof(float);
  for (Int i = top; i < bottom; ++i) {  // the border
    float* line = out + (i - top) * pitch * s.c;
    if (i < first || i >= last) std::memset(line, 0, static_cast<std::size_t>(pitch) * pixel);
    std::memset(line, 0, pixel);
    std::memset(line + (pitch - 1) * s.c, 0, pixel);
  }
  for (Int c = 0; c < s.c; c += kLanes) {
    const float* in = x + c * s.pixels() + first * s.w;
    Int line = first - top, col = 1;
    for (Int f = 0; f < count; f += kLanes) {
      const Int n = count - f < kLanes ? count - f : kLanes;
      V square[kLanes];
      if (n == kLanes) {
#pragma GCC unroll 16
        for (int l = 0; l < kLanes; ++l) square[l] = load(in + l * s.pixels() + f);
        transpose(square);
      } else {  // a full vector would read past the end of x
        for (Int i = 0; i < n; ++i)
          for (int l = 0; l < kLanes; ++l) square[i][l] = in[l * s.pixels() + f + i];
      }
      for (Int i = 0; i < n; ++i) {
        store(out + (line * pitch + col) * s.c + c, square[i]);
        if (++col > s.w) col = 1, ++line;
      }
    }
  }
}

// The way back; `count` pixels, a multiple of the vector, follow each other in the planes.
void pixels_to_planes(const Shape& s, const float* in, Int count, float* y) {
  for (Int o = 0; o < s.k; o += kLanes)
    for (Int f = 0; f < count; f += kLanes) {
      V square[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) square[i] = load(in + (f + i) * s.k + o);
      transpose(square);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes; ++l) store(y + (o + l) * s.pixels() + f, square[l]);
    }
}

// Four lines of tiles at a time. Their 36 x 56 x 64 transformed numbers and as many products, 1 MB together, pass by
// the second-level cache, but fewer lines would read the 590 KB of transformed weights more often: 2 are 8 % slower.
// Inside a parallel region the threads share out the weights, and then the lines of tiles.
constexpr Int kTileLines = 4;

// Distance between the blocks of two positions, at least `floats`: an odd number of cache lines. A tile is written to
// 36 blocks at once; a power of two apart they would all fall into the same set of the cache, which holds 12.
Int apart(Int floats) { return (floats + 15) / 16 * 16 | 16; }

template <int M>
void winograd(const Shape& s, const float* x, const float* weight, float* y, float* u) {
  constexpr int N = M + 2, Q = N * N;
  using W = Winograd<M>;
  const Int lines = s.h / M, across = s.w / M, most = kTileLines * across, pitch = s.w + 2;
  const Int u_apart = apart(s.c * s.k), v_apart = apart(most * s.c), m_apart = apart(most * s.k);
#pragma omp for schedule(static)
  for (Int c = 0; c < s.c; ++c)
    for (Int o = 0; o < s.k; o += kLanes)
      both_ways<3, N>(
          W::kernel,
          [&](int i, int j) {
            V v{};
#pragma GCC unroll 16
            for (int l = 0; l < kLanes; ++l) v[l] = weight[((o + l) * s.c + c) * 9 + i * 3 + j];
            return v;
          },
          [&](int i, int j, V v) { store(u + (i * N + j) * u_apart + c * s.k + o, v); });

  const Int begin = lines * omp_get_thread_num() / omp_get_num_threads();
  const Int end = lines * (omp_get_thread_num() + 1) / omp_get_num_threads();
  float* pixels = scratch<1>((kTileLines * M + 2) * pitch * s.c);
  float* v = scratch<2>(Q * v_apart);
  float* m = scratch<3>(Q * m_apart);
  float* results = scratch<4>(kTileLines * M * s.w * s.k);
  for (Int n = 0; n < s.images; ++n)
    for (Int line = begin; line < end; line += kTileLines) {
      const Int high = end - line < kTileLines ? end - line : kTileLines, tiles = high * across;
      planes_to_pixels(s, x + n * s.c * s.pixels(), line * M - 1, (line + high) * M + 1, pixels);
      for (Int t = 0; t < tiles; ++t)
        for (Int c = 0; c < s.c; c += kLanes) {
          const float* in = pixels + (t / across * M * pitch + t % across * M) * s.c + c;
          both_ways<N, N>(
              W::input, [&](int i, int j) { return load(in + (i * pitch + j) * s.c); },
              [&](int i, int j, V a) { store(v + (i * N + j) * v_apart + t * s.c + c, a); });
        }
      for (Int q = 0; q < Q; ++q)
        for (Int o = 0; o < s.k; o += kTileColumns)
          strip<false>(tiles, s.c, v + q * v_apart, s.c, 1, u + q * u_apart + o, s.k, m + q * m_apart + o, s.k);
      for (Int t = 0; t < tiles; ++t)
        for (Int o = 0; o < s.k; o += kLanes) {
          float* out = results + (t / across * M * s.w + t % across * M) * s.k + o;
          both_ways<N, M>(
              W::output, [&](int i, int j) { return load(m + (i * N + j) * m_apart + t * s.k + o); },
              [&](int i, int j, V a) { store(out + (i * s.w + j) * s.k, a); });
        }
      pixels_to_planes(s, results, high * M * s.w, y + n * s.k * s.pixels() + line * M * s.w);
    }
}

void winograd2(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  winograd<2>({images, c, k, h, w}, x, weight, y, scratch<5>(16 * apart(c * k)));
}
void winograd4(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  winograd<4>({images, c, k, h, w}, x, weight, y, scratch<5>(36 * apart(c * k)));
}

// 7. Lines of tiles are shared out. Each thread has its own bands and blocks; only the transformed weights are common.
void threads(Int images, Int c, Int k, Int h, Int w, const float* x, const float* weight, float* y) {
  float* u = scratch<5>(36 * apart(c * k));
#pragma omp parallel
  winograd<4>({images, c, k, h, w}, x, weight, y, u);
}

}  // namespace

extern "C" {
extern const Step steps[] = {
    STEP("definition", "seven loops, border tested inside", definition, 1),
    STEP("row order", "padded copy, pixels innermost", row_order, 1),
    STEP("im2col", "a matrix product in register tiles", im2col, 1),
    STEP("direct", "the product without the matrix", direct, 1),
    STEP("F(2x2, 3x3)", "Winograd: 2.25 times fewer products", winograd2, 1),
    STEP("F(4x4, 3x3)", "Winograd: 4 times fewer products", winograd4, 1),
    STEP("threads", "lines of tiles shared out", threads, 0),
};
extern const int step_count = sizeof steps / sizeof *steps;
}
