// Convolutions of bfloat16 on channels-last images, for the passes in conv_pairs*_avx512_bf16.cpp to hand over.
#pragma once
#include "kernels/conv.h"

namespace pydlx::PYDLX_ISA {

bool pairs_last_fits(const ConvShape& c, ConvPass pass);
std::int64_t pairs_last_scratch(const ConvShape& c, ConvPass pass);
void pairs_last_data(const Conv& conv, ConvPass pass);  // forward or input_grad
void pairs_last_weight(const Conv& conv);

// Of few channels: forward and weight_grad. pairs_last_* hand over what fits.
bool first_last_fits(const ConvShape& c);
std::int64_t first_last_scratch(const ConvShape& c, ConvPass pass);
void first_last_forward(const Conv& conv);
void first_last_weight(const Conv& conv);

}  // namespace pydlx::PYDLX_ISA
