// Algorithms for particular float32 convolutions, and the choice among them. What none of them takes is left to the
// general kernels (conv_data.cpp, conv_weight.cpp).
#pragma once
#include "cpu/isa.h"
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {

// Floats between neighbouring images, groups, channels and pixels of a tensor.
struct ImageLayout {
  std::int64_t image, group, channel, pixel;
};
inline __attribute__((always_inline)) ImageLayout image_layout(const ConvShape& c, std::int64_t channels,
                                                               const std::int64_t* space) {
  const std::int64_t pixels = space[0] * space[1] * space[2], all = c.groups * channels;
  if (c.channels_last) return {pixels * all, channels, 1, all};
  return {pixels * all, pixels * channels, pixels, 1};
}
inline __attribute__((always_inline)) ImageLayout x_layout(const ConvShape& c) { return image_layout(c, c.cin, c.in); }
inline __attribute__((always_inline)) ImageLayout y_layout(const ConvShape& c) {
  return image_layout(c, c.cout, c.out);
}

// Each of `count` matrices [rows][columns] as [columns][rows].
void turn_matrices(std::int64_t count, std::int64_t rows, std::int64_t columns, const float* from, float* to);

// Runs the pass and returns true, or returns false without touching anything.
bool special_conv(const Conv& conv, ConvPass pass);
std::int64_t special_conv_scratch(const ConvShape& c, ConvPass pass);  // -1: none takes it
std::int64_t special_conv_prepared(const ConvShape& c);                // see ConvKernels::prepared_size
bool special_conv_channels_last(const ConvShape& c, ConvPass pass);    // see ConvKernels::channels_last

// 3x3, 5x5 and 1x3 kernels (of any depth) with unit stride, 3x3 with stride two; scratch in bytes.
void winograd_data(const Conv& conv, ConvPass pass);  // forward and input_grad
void winograd_weight(const Conv& conv);
std::int64_t winograd_data_scratch(const ConvShape& c, ConvPass pass);
std::int64_t winograd_prepared(const ConvShape& c);
bool winograd_current(const Conv& conv);  // whether the prepared weights were made from `w`
std::int64_t winograd_weight_scratch(const ConvShape& c);
struct StridedTiles {
  std::int64_t outputs;  // of a tile, along both axes
  std::int64_t rows;     // of products, with the time for a kernel's transform counted as rows; 9 per output otherwise
};
StridedTiles winograd_strided_tiles(const ConvShape& c, ConvPass pass);
void winograd_strided_data(const Conv& conv, ConvPass pass);
std::int64_t winograd_strided_scratch(const ConvShape& c, ConvPass pass);
std::int64_t winograd_strided_prepared(const ConvShape& c);
bool winograd_strided_current(const Conv& conv);

// Dilated 3x3 kernels with unit stride.
ConvShape dilated_shape(const ConvShape& c);  // of the ordinary convolution it turns into
void dilated_run(const Conv& conv, ConvPass pass);
std::int64_t dilated_scratch(const ConvShape& c, ConvPass pass);

// Any geometry whose bands fit the caches.
bool direct_fits(const ConvShape& c, ConvPass pass);
void direct_data(const Conv& conv, ConvPass pass);  // forward and input_grad
void direct_weight(const Conv& conv);
std::int64_t direct_data_scratch(const ConvShape& c, ConvPass pass);
std::int64_t direct_weight_scratch(const ConvShape& c);

// 1x1 kernels without padding, any stride.
void pointwise_run(const Conv& conv, ConvPass pass);
std::int64_t pointwise_scratch(const ConvShape& c, ConvPass pass);

// Channels-last images with one channel per group.
bool depthwise_last_fits(const ConvShape& c);
void depthwise_last_data(const Conv& conv, ConvPass pass);
void depthwise_last_weight(const Conv& conv);
std::int64_t depthwise_last_scratch(const ConvShape& c, ConvPass pass);

// Few channels per group: depthwise, and the first layer of a network.
void narrow_data(const Conv& conv, ConvPass pass);
void narrow_weight(const Conv& conv);
bool narrow_fits(const ConvShape& c, ConvPass pass);  // whether the planes of a group stay in the caches
std::int64_t narrow_data_scratch(const ConvShape& c, ConvPass pass);
std::int64_t narrow_weight_scratch(const ConvShape& c);
bool stem_fits(const ConvShape& c);  // whether a band of the forward pass stays in the caches
void stem_data(const Conv& conv);
std::int64_t stem_data_scratch(const ConvShape& c);
void stem_weight(const Conv& conv);
std::int64_t stem_weight_scratch(const ConvShape& c);

}  // namespace pydlx::PYDLX_ISA
