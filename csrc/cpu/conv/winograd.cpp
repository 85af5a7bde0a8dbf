// Forward pass and input gradient of convolutions by Winograd's algorithm, unit stride; see winograd_data.h.
#include "cpu/conv/winograd_data.h"

namespace pydlx::PYDLX_ISA {
namespace {

// f(the pass of this kernel size).
template <class F>
auto with_pass(const ConvShape& c, const F& f) {
  switch (c.kernel[1]) {
    case 5:
      return f(DataPass<UnitStride<SixPoints>, 5, 5>());
    case 1:
      return f(DataPass<UnitStride<SixPoints>, 1, 3>());
    default:
      return c.exact ? f(DataPass<UnitStride<FourPoints>, 3, 3>()) : f(DataPass<UnitStride<SixPoints>, 3, 3>());
  }
}

}  // namespace

std::int64_t winograd_data_scratch(const ConvShape& c, ConvPass pass) {
  if (c.stride[2] != 1) return winograd_strided_scratch(c, pass);
  return with_pass(c, [&](auto p) { return p.scratch(c, pass); });
}

std::int64_t winograd_prepared(const ConvShape& c) {
  if (c.stride[2] != 1) return winograd_strided_prepared(c);
  return with_pass(c, [&](auto p) { return p.prepared(c); });
}

bool winograd_current(const Conv& conv) {
  if (conv.shape.stride[2] != 1) return winograd_strided_current(conv);
  return with_pass(conv.shape, [&](auto p) { return p.current(conv); });
}

void winograd_data(const Conv& conv, ConvPass pass) {
  if (conv.shape.stride[2] != 1) return winograd_strided_data(conv, pass);
  with_pass(conv.shape, [&](auto p) { p.run(conv, pass); });
}

void register_winograd(KernelTable&) {}  // reached through conv_data.cpp and conv_weight.cpp

}  // namespace pydlx::PYDLX_ISA
