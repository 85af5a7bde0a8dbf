// Convolutions of bfloat16 on channels-last images, for the passes in conv_pairs*_avx512_bf16.cpp to hand over.
#pragma once
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {

bool pairs_last_fits(const ConvShape& c, ConvPass pass);
std::int64_t pairs_last_scratch(const ConvShape& c, ConvPass pass);
void pairs_last_data(const Conv& conv, ConvPass pass);  // forward or input_grad
void pairs_last_weight(const Conv& conv);
std::int64_t pairs_last_weight_scratch(const ConvShape& c);

// Of few channels: the forward pass of channels-last images, the weight gradient of any. The passes hand over what
// fits.
bool first_layer_fits(const ConvShape& c);
std::int64_t first_layer_scratch(const ConvShape& c, ConvPass pass);
void first_layer_forward(const Conv& conv);
void first_layer_weight(const Conv& conv);

}  // namespace pydlx::PYDLX_ISA
