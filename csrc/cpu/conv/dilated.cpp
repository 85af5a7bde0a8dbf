// Dilated 3x3 kernels with unit stride by Winograd's algorithm: outputs whose rows and columns are equal modulo the
// dilation only see inputs that are so too, hence the pixels are sorted into dy x dx images of their own, which an
// ordinary kernel convolves. Sorting reads and writes every plane once; the multiplications saved are worth much more.
#include "cpu/conv/special.h"
#include "cpu/conv/winograd_tiling.h"

namespace pydlx::PYDLX_ISA {
namespace {

// Planes before and after sorting, along both axes: pixel phase + step i of the wide plane (which begins `front` before
// the stored one) is pixel i of the phase's image.
struct Split {
  std::int64_t batch, channels, wide[2], part[2], step[2], front[2];
  std::int64_t phases() const { return step[0] * step[1]; }
  std::int64_t wide_floats() const { return wide[0] * wide[1]; }
  std::int64_t part_floats() const { return part[0] * part[1]; }
  std::int64_t floats() const { return round_up(batch * phases() * channels * part_floats(), 16); }
};

// First and last + 1 index of a phase's image that are stored in the wide plane.
PYDLX_INLINE void inside(const Split& s, int axis, std::int64_t phase, std::int64_t& lo, std::int64_t& hi) {
  const std::int64_t skip = s.front[axis] - phase, end = s.wide[axis] + skip;
  lo = skip <= 0 ? 0 : smaller(s.part[axis], ceil_div(skip, s.step[axis]));
  hi = end <= 0 ? lo : larger(lo, smaller(s.part[axis], ceil_div(end, s.step[axis])));
}

// Wide planes to phases, zero where no pixel is stored.
void split(const Split& s, const float* wide, float* parts) {
  parallel_for(s.batch * s.channels, larger(1, 16384 / s.wide_floats()), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u)
      for (std::int64_t f = 0; f < s.phases(); ++f) {
        const std::int64_t fy = f / s.step[1], fx = f % s.step[1], step = s.step[1];
        float* to = parts + ((u / s.channels * s.phases() + f) * s.channels + u % s.channels) * s.part_floats();
        std::int64_t y0, y1, x0, x1;
        inside(s, 0, fy, y0, y1);
        inside(s, 1, fx, x0, x1);
        for (std::int64_t i = 0; i < s.part[0]; ++i, to += s.part[1]) {
          if (i < y0 || i >= y1) {
            std::memset(to, 0, static_cast<std::size_t>(s.part[1]) * sizeof(float));
            continue;
          }
          const float* from =
              wide + u * s.wide_floats() + (fy + i * s.step[0] - s.front[0]) * s.wide[1] + fx - s.front[1];
          for (std::int64_t j = 0; j < x0; ++j) to[j] = 0;
          if (step == 2)
            for (std::int64_t j = x0; j < x1; ++j) to[j] = from[2 * j];
          else
            for (std::int64_t j = x0; j < x1; ++j) to[j] = from[j * step];
          for (std::int64_t j = x1; j < s.part[1]; ++j) to[j] = 0;
        }
      }
  });
}

// Phases to wide planes; pixels of no phase become the channel's bias.
void merge(const Split& s, const float* parts, const float* bias, float* wide) {
  parallel_for(s.batch * s.channels, larger(1, 16384 / s.wide_floats()), [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u)
      for (std::int64_t y = 0; y < s.wide[0]; ++y) {
        float* to = wide + u * s.wide_floats() + y * s.wide[1];
        const std::int64_t i = (y + s.front[0]) / s.step[0], fy = (y + s.front[0]) % s.step[0], step = s.step[1];
        const float rest = bias ? bias[u % s.channels] : 0.0f;
        for (std::int64_t fx = 0; fx < step; ++fx) {
          const std::int64_t f = fy * step + fx;
          const float* from = parts +
                              ((u / s.channels * s.phases() + f) * s.channels + u % s.channels) * s.part_floats() +
                              i * s.part[1];
          std::int64_t x0, x1;
          inside(s, 1, fx, x0, x1);
          if (i >= s.part[0]) x1 = x0;
          float* first = to + fx - s.front[1];
          if (step == 2)
            for (std::int64_t j = x0; j < x1; ++j) first[2 * j] = from[j];
          else
            for (std::int64_t j = x0; j < x1; ++j) first[j * step] = from[j];
          for (std::int64_t x = fx - s.front[1] + x1 * step; x < s.wide[1]; x += step)
            if (x >= 0) to[x] = rest;
        }
      }
  });
}

struct Plan {
  ConvShape shape;  // of the ordinary convolution
  Split x, y;
};

Plan make_plan(const ConvShape& c) {
  Plan p;
  p.shape = c;
  p.shape.batch = c.batch * c.dilation[1] * c.dilation[2];
  p.x = {c.batch, c.groups * c.cin, {}, {}, {}, {}};
  p.y = {c.batch, c.groups * c.cout, {}, {}, {}, {}};
  for (int i = 0; i < 2; ++i) {
    const std::int64_t d = c.dilation[i + 1], out = ceil_div(c.out[i + 1], d);
    p.x.step[i] = p.y.step[i] = d;
    p.x.wide[i] = c.in[i + 1];
    p.x.part[i] = p.shape.in[i + 1] = out + 2;
    p.x.front[i] = c.pad[i + 1];
    p.y.wide[i] = c.out[i + 1];
    p.y.part[i] = p.shape.out[i + 1] = out;
    p.y.front[i] = 0;
    p.shape.pad[i + 1] = 0;
    p.shape.dilation[i + 1] = 1;
  }
  return p;
}

}  // namespace

ConvShape dilated_shape(const ConvShape& c) { return make_plan(c).shape; }

std::int64_t dilated_scratch(const ConvShape& c, ConvPass pass) {
  const Plan p = make_plan(c);
  return (p.x.floats() + p.y.floats() + 16) * static_cast<std::int64_t>(sizeof(float)) +
         (pass == ConvPass::weight_grad ? winograd_weight_scratch(p.shape) : winograd_data_scratch(p.shape, pass));
}

void dilated_run(const Conv& conv, ConvPass pass) {
  const Plan p = make_plan(conv.shape);
  float* x = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  float* y = x + p.x.floats();
  if (pass != ConvPass::input_grad) split(p.x, static_cast<const float*>(conv.x), x);
  if (pass != ConvPass::forward) split(p.y, static_cast<const float*>(conv.y), y);
  Conv inner = conv;
  inner.shape = p.shape;
  inner.x = x;
  inner.y = y;
  inner.scratch = y + p.y.floats();
  pass == ConvPass::weight_grad ? winograd_weight(inner) : winograd_data(inner, pass);
  if (pass == ConvPass::forward) merge(p.y, y, nullptr, static_cast<float*>(conv.y));
  if (pass == ConvPass::input_grad) merge(p.x, x, static_cast<const float*>(conv.bias), static_cast<float*>(conv.x));
}

void register_dilated(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
