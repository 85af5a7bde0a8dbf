// Which algorithm a float32 convolution takes. All thresholds are here, with the reason beside each.
#include "cpu/conv/special.h"

#include "core/verbose.h"
#include "cpu/pointwise/transpose.h"

namespace pydlx::PYDLX_ISA {
namespace {

std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t larger(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

enum class Algorithm { general, winograd, dilated, pointwise, narrow, stem, direct, depthwise_last };

// 3x3 with stride two: as many transforms as with unit stride for half of what they save. Measured, with the direct
// kernels' time divided by this one's: the forward pass of 16 to 16 channels 0.8 to 0.9, 16 to 32 1.2, 32 to 32 1.1;
// the input gradient of 16 to 16 1.1, 32 to 32 1.2; the weight gradient, which transforms both images for every
// product, of 32 to 32 0.8, 64 to 64 1.2. Few tiles pay for the transform of the kernels with 128 channels only (1.1
// to 1.4), and then even with as many rows (512 to 512 on 14, one image: 1.4), as the direct kernels meet each weight
// as rarely. With the precision "highest" 1.65 times fewer products, not 1.78, are 1.1 to 1.4 times as fast from 64 to
// 128 on.
bool takes_strided(const ConvShape& c, ConvPass pass) {
  const std::int64_t products = c.cin * c.cout, outputs = c.batch * c.out[0] * c.out[1] * c.out[2];
  const bool many = products >= 128 * 128;
  if (smaller(c.cin, c.cout) < 16 || outputs < (many && !c.exact ? 48 : 128)) return false;
  if (winograd_strided_tiles(c, pass).rows > (many ? 12 : 9) * outputs) return false;
  if (c.exact) return products >= 64 * 128;
  // Sums of 38 MB that every round reads and writes: 512 to 512 on 14, batch 16: 10.0 ms direct, 10.4.
  if (pass == ConvPass::weight_grad && products >= 512 * 512 && outputs > 512) return false;
  return pass == ConvPass::forward ? products >= 16 * 32 : pass == ConvPass::input_grad || products >= 64 * 64;
}

bool takes_winograd(const ConvShape& c, ConvPass pass) {
  const std::int64_t ky = c.kernel[1], kx = c.kernel[2];
  // "highest": only what rounds no worse than the plain sum, which is F(2x2, 3x3); it multiplies 2.25 times less. Its
  // weight gradient transforms twice as many values per pixel as the one with six points and takes as long as direct.
  if (c.exact && (ky != 3 || kx != 3 || pass == ConvPass::weight_grad || smaller(c.cin, c.cout) < 32)) return false;
  if (!(ky == 3 && kx == 3) && !(ky == 5 && kx == 5) && !(ky == 1 && kx == 3)) return false;
  for (int i = 0; i < 3; ++i)
    if (c.dilation[i] != 1 || c.pad[i] >= larger(2, c.kernel[i])) return false;
  if (c.stride[0] != 1) return false;
  if (ky == 3 && kx == 3 && c.stride[1] == 2 && c.stride[2] == 2) return takes_strided(c, pass);
  if (c.stride[1] != 1 || c.stride[2] != 1) return false;
  // The weight gradient transforms groups of channels in any order: those of a depth tap must not share a vector with
  // those of the next.
  if (pass == ConvPass::weight_grad && c.kernel[0] > 1 && c.cin % 16 != 0) return false;
  const std::int64_t* space = pass == ConvPass::input_grad ? c.in : c.out;
  const std::int64_t tiles = c.batch * space[0] * ceil_div(space[1], ky == 1 ? 1 : 7 - ky) * ceil_div(space[2], 7 - kx);
  // Transforms cost about 12 (cin + cout) operations per tile and lane where the multiplications saved are 108 cin cout
  // / lanes: below 16 channels they eat the gain. Every kernel is transformed once per call: from four tiles on that
  // pays (2x512x7x7: 1.8 ms direct, 0.8 now). Along one axis half as much is saved.
  const std::int64_t channels = smaller(c.cin, c.cout);
  return ky == 1 ? channels >= 32 && tiles >= 64 : channels >= 16 && tiles >= 4;
}

bool takes_dilated(const ConvShape& c, ConvPass pass) {
  if (c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1) return false;
  if (c.dilation[1] * c.dilation[2] == 1 || c.kernel[1] != 3 || c.kernel[2] != 3) return false;
  for (int i = 1; i < 3; ++i)
    // Planes smaller than the dilation leave most of the sorted images to their borders.
    if (c.dilation[i] > 16 || c.dilation[i] * 2 > c.out[i] || c.pad[i] > 2 * c.dilation[i]) return false;
  return takes_winograd(dilated_shape(c), pass);
}

bool takes_pointwise(const ConvShape& c) {
  for (int i = 0; i < 3; ++i)
    if (c.kernel[i] != 1 || c.pad[i] != 0) return false;
  return c.cin >= 8 && c.cout >= 8;  // else the tiles of the product are mostly empty
}

bool takes_narrow(const ConvShape& c, ConvPass pass) {
  if (c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1 || c.stride[0] != 1 || c.pad[0] != 0) return false;
  // Channels are the depth of the sums and the rows of the tile of outputs. With more of them on both sides a matrix
  // product needs no border copies; with more on the input side the planes of a group leave the second-level cache.
  const std::int64_t from = pass == ConvPass::input_grad ? c.cout : c.cin,
                     to = pass == ConvPass::input_grad ? c.cin : c.cout;
  // The gradient of a first layer reads many channels for the few that it writes: their vectors would be emptier than
  // those of the rows.
  if (pass == ConvPass::input_grad && to < 8 && from <= 32 && c.in[2] >= 12) return narrow_fits(c, pass);
  if (from > 8 || (to > 8 && from > 4)) return false;
  return narrow_fits(c, pass);
}

bool takes_direct(const ConvShape& c, ConvPass pass) {
  // Channels are vectors on both sides: below half a vector the general kernels, whose vectors are pixels, waste less.
  return c.cin >= 8 && c.cout >= 8 && direct_fits(c, pass);
}

bool takes_stem(const ConvShape& c) {
  if (c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1 || c.stride[0] != 1 || c.pad[0] != 0) return false;
  // With more input channels the direct kernels fill their vectors; a sum of few products pays for no transposition of
  // the results.
  return c.cin < 8 && c.cout >= 16 && c.cin * c.kernel[1] * c.kernel[2] >= 16 && stem_fits(c);
}

Algorithm choose(const ConvShape& c, ConvPass pass) {
  if (takes_winograd(c, pass)) return Algorithm::winograd;
  if (takes_dilated(c, pass)) return Algorithm::dilated;
  if (takes_pointwise(c)) return Algorithm::pointwise;
  if (c.channels_last && depthwise_last_fits(c)) return Algorithm::depthwise_last;
  if (pass != ConvPass::input_grad && takes_stem(c)) return Algorithm::stem;
  if (takes_narrow(c, pass))  // with output channels for whole vectors, loads of single taps beat loads of rows
    return pass == ConvPass::weight_grad && c.cout >= 16 ? Algorithm::stem : Algorithm::narrow;
  if (takes_direct(c, pass)) return Algorithm::direct;
  return Algorithm::general;
}

// For PYDLX_VERBOSE.
__attribute__((cold, noinline)) void describe(const ConvShape& c, ConvPass pass, Algorithm a) {
  switch (a) {
    case Algorithm::winograd:
      if (c.stride[2] == 2) {
        const int outputs = static_cast<int>(winograd_strided_tiles(c, pass).outputs);
        return verbose_note(", Winograd F(%dx%d, 3x3) over the phases of stride 2", outputs, outputs);
      }
      verbose_note(c.kernel[1] == 5   ? ", Winograd F(2x2, 5x5)"
                   : c.kernel[1] == 1 ? ", Winograd F(4, 3)"
                   : c.exact          ? ", Winograd F(2x2, 3x3)"
                                      : ", Winograd F(4x4, 3x3)");
      return;
    case Algorithm::dilated:
      verbose_note(", Winograd F(%dx%d, 3x3) on the pixels of each residue modulo the dilation", c.exact ? 2 : 4,
                   c.exact ? 2 : 4);
      return;
    case Algorithm::pointwise:
      verbose_note(", product over the planes in place");
      break;
    case Algorithm::narrow:
      verbose_note(", tap by tap over bordered planes");
      break;
    case Algorithm::stem:
      verbose_note(", taps by output channels over bordered planes");
      break;
    case Algorithm::direct:
      verbose_note(", direct over pixel-major bands");
      break;
    case Algorithm::depthwise_last:
      verbose_note(", taps by channels over bordered bands");
      break;
    default:
      break;
  }
  const bool size =
      (c.kernel[1] == c.kernel[2] && (c.kernel[1] == 3 || c.kernel[1] == 5)) || (c.kernel[1] == 1 && c.kernel[2] == 3);
  const bool strided = c.stride[1] != 1 || c.stride[2] != 1, twice = c.stride[1] == 2 && c.stride[2] == 2;
  verbose_note("; not Winograd: %s", !size                                      ? "kernel is not 3x3, 5x5 or 1x3"
                                     : strided && c.kernel[1] != 3              ? "stride is not 1"
                                     : strided && !twice                        ? "stride is neither 1 nor 2"
                                     : c.dilation[1] != 1 || c.dilation[2] != 1 ? "dilated"
                                     : c.exact && !twice ? "float32_matmul_precision is 'highest'"
                                                         : "too few channels or tiles, or too much padding");
}

// Weights with the channels last and as the algorithms want them, one output channel at a time.
std::int64_t taps_of(const ConvShape& c) { return c.kernel[0] * c.kernel[1] * c.kernel[2]; }
bool turns(const ConvShape& c) { return c.weights_last && taps_of(c) > 1 && c.cin > 1; }
std::int64_t turned_bytes(const ConvShape& c) {
  return turns(c) ? ((c.groups * c.cout * c.cin * taps_of(c) + 15) / 16 * 16 + 16) * 4 : 0;
}
void turn(const ConvShape& c, const float* from, float* to, bool back) {
  turn_matrices(c.groups * c.cout, back ? c.cin : taps_of(c), back ? taps_of(c) : c.cin, from, to);
}

bool run(const Conv& conv, ConvPass pass, Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::winograd:
      pass == ConvPass::weight_grad ? winograd_weight(conv) : winograd_data(conv, pass);
      return true;
    case Algorithm::dilated:
      dilated_run(conv, pass);
      return true;
    case Algorithm::pointwise:
      pointwise_run(conv, pass);
      return true;
    case Algorithm::narrow:
      pass == ConvPass::weight_grad ? narrow_weight(conv) : narrow_data(conv, pass);
      return true;
    case Algorithm::stem:
      pass == ConvPass::forward ? stem_data(conv) : stem_weight(conv);
      return true;
    case Algorithm::direct:
      pass == ConvPass::weight_grad ? direct_weight(conv) : direct_data(conv, pass);
      return true;
    case Algorithm::depthwise_last:
      pass == ConvPass::weight_grad ? depthwise_last_weight(conv) : depthwise_last_data(conv, pass);
      return true;
    default:
      return false;
  }
}

std::int64_t scratch_of(const ConvShape& c, ConvPass pass) {
  switch (choose(c, pass)) {
    case Algorithm::winograd:
      return pass == ConvPass::weight_grad ? winograd_weight_scratch(c) : winograd_data_scratch(c, pass);
    case Algorithm::dilated:
      return dilated_scratch(c, pass);
    case Algorithm::pointwise:
      return pointwise_scratch(c, pass);
    case Algorithm::narrow:
      return pass == ConvPass::weight_grad ? narrow_weight_scratch(c) : narrow_data_scratch(c, pass);
    case Algorithm::stem:
      return pass == ConvPass::forward ? stem_data_scratch(c) : stem_weight_scratch(c);
    case Algorithm::direct:
      return pass == ConvPass::weight_grad ? direct_weight_scratch(c) : direct_data_scratch(c, pass);
    case Algorithm::depthwise_last:
      return depthwise_last_scratch(c, pass);
    default:
      return -1;
  }
}

}  // namespace

void turn_matrices(std::int64_t count, std::int64_t rows, std::int64_t columns, const float* from, float* to) {
  constexpr int kHeight = 4 * kLanesOf<float>;  // four lines of a row of the result at a time
  const std::int64_t strips = ceil_div(rows, kHeight), one = rows * columns;
  parallel_for(count * strips, 32768 / (kHeight * columns) + 1, [&](std::int64_t b, std::int64_t e) {
    for (std::int64_t u = b; u < e; ++u) {
      const std::int64_t at = u / strips * one, i = u % strips * kHeight;
      transpose_tile(to + at + i, rows, from + at + i * columns, columns, columns, smaller(kHeight, rows - i));
    }
  });
}

bool special_conv(const Conv& conv, ConvPass pass) {
  const Algorithm algorithm = choose(conv.shape, pass);
  if (verbose_on) describe(conv.shape, pass, algorithm);
  if (!turns(conv.shape)) return run(conv, pass, algorithm);
  float* turned = reinterpret_cast<float*>((reinterpret_cast<std::uintptr_t>(conv.scratch) + 63) & ~std::uintptr_t{63});
  Conv inner = conv;
  inner.shape.weights_last = false;
  inner.w = turned;
  inner.w_given = conv.w;
  inner.scratch = static_cast<char*>(conv.scratch) + turned_bytes(conv.shape);
  inner.prepared_current = conv.prepared && conv.prepared_filled && winograd_current(conv);
  if (pass != ConvPass::weight_grad && !inner.prepared_current)
    turn(conv.shape, static_cast<const float*>(conv.w), turned, false);
  run(inner, pass, algorithm);
  if (pass == ConvPass::weight_grad) turn(conv.shape, turned, static_cast<float*>(conv.w), true);
  return true;
}

std::int64_t special_conv_scratch(const ConvShape& c, ConvPass pass) {
  const std::int64_t n = scratch_of(c, pass);
  return n < 0 ? n : n + turned_bytes(c);
}

bool special_conv_channels_last(const ConvShape& c, ConvPass pass) {
  ConvShape last = c;
  last.channels_last = true;
  const Algorithm a = choose(last, pass);
  return a != Algorithm::general && a != Algorithm::dilated && a != Algorithm::narrow;
}

std::int64_t special_conv_prepared(const ConvShape& c) {
  const Algorithm a = choose(c, ConvPass::forward);
  return a == Algorithm::winograd  ? winograd_prepared(c)
         : a == Algorithm::dilated ? winograd_prepared(dilated_shape(c))
                                   : 0;
}

void register_special(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
