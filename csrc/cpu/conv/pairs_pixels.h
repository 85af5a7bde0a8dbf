// What the passes of a bfloat16 convolution share: which shapes they take, the copy with borders, and runs of pixels.
#pragma once
#include "core/verbose.h"
#include "cpu/gemm/pairs.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {
namespace {

using T = BFloat16;

constexpr int kMostTaps = 128;
constexpr std::int64_t kColumns = kPanel;  // pixels in a tile

std::int64_t rounded(std::int64_t bytes) { return (bytes + 63) / 64 * 64; }
std::int64_t plane_of(const std::int64_t* n) { return n[1] * n[2]; }

// A copy with borders: rows of `phases` runs of `run` elements, run f holding the columns that are f modulo the stride.
struct Bordered {
  bool copied = false;
  std::int64_t front[2] = {0, 0}, rows = 0, phases = 1, run = 0;
  std::int64_t row() const { return phases * run; }
  std::int64_t channel() const { return rows * row(); }
};

void fill_bordered(const Bordered& b, const T* x, std::int64_t planes, std::int64_t height, std::int64_t width,
                   T* out) {
  parallel_for(planes, 32768 / (b.channel() + 1) + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t p = begin; p < end; ++p)
      for (std::int64_t i = 0; i < b.rows; ++i) {
        T* to = out + p * b.channel() + i * b.row();
        const std::int64_t y = i - b.front[0];
        std::memset(to, 0, static_cast<std::size_t>(b.row()) * sizeof(T));
        if (y < 0 || y >= height) continue;
        const T* from = x + (p * height + y) * width;
        for (std::int64_t f = 0; f < b.phases; ++f) {  // column q * phases + f - front
          const std::int64_t shift = f - b.front[1], first = shift < 0 ? ceil_div(-shift, b.phases) : 0,
                             last = min_of(b.run, width > shift ? ceil_div(width - shift, b.phases) : 0);
          if (b.phases == 1 && last > first)
            std::memcpy(to + first, from + first + shift, static_cast<std::size_t>(last - first) * sizeof(T));
          else if (b.phases == 2)  // a constant stride is vectorised
            for (std::int64_t q = first; q < last; ++q) to[f * b.run + q].bits = from[q * 2 + shift].bits;
          else
            for (std::int64_t q = first; q < last; ++q) to[f * b.run + q] = from[q * b.phases + shift];
        }
      }
  });
}

// The pixels read by a forward pass (and by the weight gradient).
Bordered forward_borders(const ConvShape& c) {
  Bordered b;
  const std::int64_t width = (c.out[2] - 1) * c.stride[2] + (c.kernel[2] - 1) * c.dilation[2] + 1;
  b.copied = c.pad[1] || c.pad[2] || c.stride[2] != 1 ||
             (c.out[1] - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] >= c.in[1] || width > c.in[2];
  if (!b.copied) {
    b.rows = c.in[1];
    b.run = c.in[2];
    return b;
  }
  b.front[0] = c.pad[1];
  b.front[1] = c.pad[2];
  b.rows = (c.out[1] - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1;
  b.phases = c.stride[2];
  b.run = ceil_div(width, c.stride[2]);
  return b;
}

// A pixel and tap are at x + image + channel + h * row + w + shift[tap].
struct Pixels {
  const T *x = nullptr, *end = nullptr;  // of the whole operand
  std::int64_t image = 0, group = 0, channel = 0, row = 0, channels = 0, taps = 0;
  std::int64_t height = 0, width = 0;  // of the pixels that are columns
  std::int64_t shift[kMostTaps];
  std::int64_t plane() const { return height * width; }
};

void forward_pixels(const ConvShape& c, const Bordered& b, const T* x, Pixels& p) {
  p.x = x;
  p.channel = b.channel();
  p.group = c.cin * p.channel;
  p.image = c.groups * p.group;
  p.end = x + c.batch * p.image;
  p.row = c.stride[1] * b.row();
  p.channels = c.cin;
  p.taps = 0;
  for (std::int64_t h = 0; h < c.kernel[1]; ++h)
    for (std::int64_t w = 0; w < c.kernel[2]; ++w) {
      const std::int64_t column = w * c.dilation[2];
      p.shift[p.taps++] = h * c.dilation[1] * b.row() + column % b.phases * b.run + column / b.phases;
    }
  p.height = c.out[1];
  p.width = c.out[2];
  if (p.row == p.width) {  // rows follow one another: one long row
    p.width *= p.height;
    p.height = 1;
  }
}

// Consecutive pixels, counted over all images, as runs of rows of at most `most` pixels.
struct Run {
  std::int64_t at;  // from the group's first channel
  int first;        // column
  __mmask32 lanes;
};
int runs_of(const Pixels& p, std::int64_t first, std::int64_t count, std::int64_t most, Run* out) {
  int n = 0;
  std::int64_t image = first / p.plane(), h = first % p.plane() / p.width, w = first % p.width;
  for (std::int64_t j = 0; j < count;) {
    const std::int64_t run = min_of(min_of(most, count - j), p.width - w);
    out[n++] = {image * p.image + h * p.row + w, static_cast<int>(j),
                static_cast<__mmask32>((std::uint64_t{1} << run) - 1)};
    j += run;
    w += run;
    if (w < p.width) continue;
    w = 0;
    if (++h < p.height) continue;
    h = 0;
    ++image;
  }
  return n;
}

std::int64_t bordered_bytes(const ConvShape& c, const Bordered& b, std::int64_t channels) {
  return b.copied ? rounded(c.batch * c.groups * channels * b.channel() * 2) : 0;
}
// The planes as the products read them: where they stand, or with borders at `memory`, which is moved past them.
const T* with_borders(const ConvShape& c, const Bordered& b, const void* planes, std::int64_t channels,
                      const std::int64_t (&size)[3], char*& memory) {
  const T* x = static_cast<const T*>(planes);
  if (!b.copied) return x;
  T* copy = reinterpret_cast<T*>(memory);
  fill_bordered(b, x, c.batch * c.groups * channels, size[1], size[2], copy);
  memory += bordered_bytes(c, b, channels);
  return copy;
}

// Rows that a piece of work takes: all, unless threads would wait. No sum depends on it.
std::int64_t share_of(std::int64_t m, std::int64_t units) {
  const std::int64_t wanted = in_parallel_region() || num_threads() == 1 ? 1 : 4 * num_threads(),
                     shares = units >= wanted ? 1 : min_of(ceil_div(m, 24), ceil_div(wanted, units));
  return ceil_div(ceil_div(m, shares), kTileRows) * kTileRows;
}

char* aligned(void* p) {
  return reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(p) + 63) & ~std::uintptr_t{63});
}

// Which shapes the kernels take.
bool fits(const ConvShape& c) {
  return c.in[0] == 1 && c.out[0] == 1 && c.kernel[0] == 1 && c.stride[0] == 1 && c.pad[0] == 0 && c.batch > 0 &&
         plane_of(c.kernel) <= kMostTaps && c.out[1] > 0 && c.out[2] > 0;
}

// Winograd's algorithm does a quarter of the multiplications, in float32 at half the speed; its transforms are made
// good by large planes only.
bool leave_to_winograd(const ConvShape& c) {
  return !c.exact && c.kernel[1] == 3 && c.kernel[2] == 3 && c.stride[1] == 1 && c.stride[2] == 1 &&
         c.dilation[1] == 1 && c.dilation[2] == 1 && c.cin >= 16 && c.cout >= 16 && plane_of(c.out) >= 196;
}

}  // namespace
}  // namespace pydlx::PYDLX_ISA
