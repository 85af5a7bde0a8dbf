// Forward pass and input gradient of 3x3 convolutions with stride two by Winograd's algorithm; see winograd_data.h.
#include "cpu/conv/winograd_data.h"

namespace pydlx::PYDLX_ISA {
namespace {

// f(the pass of this geometry).
template <class F>
auto with_pass(const ConvShape& c, ConvPass pass, const F& f) {
  if (pass == ConvPass::input_grad)
    return c.exact ? f(DataPass<StridedGrad<FourPoints>, 3, 3>()) : f(DataPass<StridedGrad<FivePoints>, 3, 3>());
  return c.exact ? f(DataPass<Strided<FourPoints>, 3, 3>()) : f(DataPass<Strided<FivePoints>, 3, 3>());
}

}  // namespace

std::int64_t winograd_strided_scratch(const ConvShape& c, ConvPass pass) {
  return with_pass(c, pass, [&](auto p) { return p.scratch(c, pass); });
}

std::int64_t winograd_strided_prepared(const ConvShape& c) {
  return with_pass(c, ConvPass::forward, [&](auto p) { return p.prepared(c); });
}

bool winograd_strided_current(const Conv& conv) {
  return with_pass(conv.shape, ConvPass::forward, [&](auto p) { return p.current(conv); });
}

void winograd_strided_data(const Conv& conv, ConvPass pass) {
  with_pass(conv.shape, pass, [&](auto p) { p.run(conv, pass); });
}

void register_winograd_strided(KernelTable&) {}  // reached through winograd.cpp

}  // namespace pydlx::PYDLX_ISA
