// Forward pass and input gradient of 3x3 convolutions with stride two by Winograd's algorithm; see winograd_data.h.
#include "cpu/conv/winograd_data.h"

namespace pydlx::PYDLX_ISA {
namespace {

template <class P>
StridedTiles tiles_on(const ConvShape& c, ConvPass pass) {
  const bool back = pass == ConvPass::input_grad;
  const std::int64_t outputs = P::count - 1, tile = back ? 2 * outputs : outputs, kernels = P::count + 1;
  const std::int64_t* space = back ? c.in : c.out;
  const std::int64_t tiles = c.batch * c.out[0] * ceil_div(space[1], tile) * ceil_div(space[2], tile);
  return {outputs,
          tiles * (P::count + outputs) * (P::count + outputs) + tuning::kWinogradKernelRows * kernels * kernels};
}

// f(the pass of this geometry).
template <class F>
auto with_pass(const ConvShape& c, ConvPass pass, const F& f) {
  const auto on = [&](auto points) {
    using P = decltype(points);
    return pass == ConvPass::input_grad ? f(DataPass<StridedGrad<P>, 3, 3>()) : f(DataPass<Strided<P>, 3, 3>());
  };
  const std::int64_t outputs = winograd_strided_tiles(c, pass).outputs;
  return outputs == 3 ? on(FourPoints()) : outputs == 4 ? on(FivePoints()) : on(SixPoints());
}

}  // namespace

// More points need fewer products, unless their tiles reach further beyond the plane: 14 outputs are three tiles of
// five but four of four, 6 and 9 are tiles of three. 256 to 256 on 28, batch 8: 4.8 ms with tiles of four, 3.6 of five;
// 128 to 128 on 12, batch 8: 0.27, of three 0.16.
StridedTiles winograd_strided_tiles(const ConvShape& c, ConvPass pass) {
  const StridedTiles three = tiles_on<FourPoints>(c, pass), four = tiles_on<FivePoints>(c, pass),
                     five = tiles_on<SixPoints>(c, pass);
  // The sums of 49 kernels, or tiles of 121 positions, keep the weight gradient of many channels out of the caches.
  const bool small = pass != ConvPass::weight_grad || c.cin * c.cout <= 128 * 128;
  if (c.exact || (three.rows < four.rows && (three.rows <= five.rows || !small))) return three;
  return small && five.rows < four.rows ? five : four;
}

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
