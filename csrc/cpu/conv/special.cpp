// Which algorithm a float32 convolution takes. All thresholds are here, with the reason beside each.
#include "cpu/conv/special.h"

namespace pydlx::PYDLX_ISA {
namespace {

enum class Algorithm { general, winograd };

bool takes_winograd(const ConvShape& c, ConvPass pass) {
  if (c.exact || c.in[0] != 1 || c.out[0] != 1 || c.kernel[0] != 1) return false;
  for (int i = 1; i < 3; ++i)
    if (c.kernel[i] != 3 || c.stride[i] != 1 || c.dilation[i] != 1 || c.pad[i] > 2) return false;
  const std::int64_t* plane = pass == ConvPass::input_grad ? c.in : c.out;
  const std::int64_t tiles = c.batch * ((plane[1] + 3) / 4) * ((plane[2] + 3) / 4);
  // Transforms cost about 12 (cin + cout) operations per tile and lane where the multiplications saved are 108 cin cout
  // / lanes: below 16 channels they eat the gain. The transformed kernels are 4 times the size of the kernels, written
  // and read once per call: a few tiles do not pay for that.
  const std::int64_t channels = c.cin < c.cout ? c.cin : c.cout;
  return channels >= 16 && tiles >= 32;
}

Algorithm choose(const ConvShape& c, ConvPass pass) {
  if (takes_winograd(c, pass)) return Algorithm::winograd;
  return Algorithm::general;
}

}  // namespace

bool special_conv(const Conv& conv, ConvPass pass) {
  switch (choose(conv.shape, pass)) {
    case Algorithm::winograd:
      pass == ConvPass::weight_grad ? winograd_weight(conv) : winograd_data(conv, pass);
      return true;
    default:
      return false;
  }
}

std::int64_t special_conv_scratch(const ConvShape& c, ConvPass pass) {
  switch (choose(c, pass)) {
    case Algorithm::winograd:
      return pass == ConvPass::weight_grad ? winograd_weight_scratch(c) : winograd_data_scratch(c, pass);
    default:
      return -1;
  }
}

void register_special(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
