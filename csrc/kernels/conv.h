// Convolution as three passes over one geometry: output from input and weight, input gradient from output gradient and
// weight, weight gradient from output gradient and input. A transposed convolution is the second pass, so the three are
// closed under differentiation.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace pydlx {

// Spatial axes are depth, height, width; missing ones have size 1. All tensors are contiguous, channels counted per
// group.
struct ConvShape {
  std::int64_t batch = 0, groups = 1, cin = 0, cout = 0;
  std::int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1};
  std::int64_t stride[3] = {1, 1, 1}, pad[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};  // pad: in front of each axis
  bool exact = false;  // only algorithms that form the products of the definition
};

enum class ConvPass : int { forward, input_grad, weight_grad, COUNT };

struct Conv {
  ConvShape shape;
  void* x = nullptr;           // [batch, groups * cin, in...]; written by input_grad
  void* w = nullptr;           // [groups * cout, cin, kernel...]; written by weight_grad
  void* y = nullptr;           // [batch, groups * cout, out...]; written by forward
  const void* bias = nullptr;  // one value per channel of the written tensor, or null; not used by weight_grad
  void* scratch = nullptr;     // as many bytes as `scratch_size` says
  // Forward pass: `prepared_size` bytes for weights in the kernel's own order, to be given again with later calls, or
  // null. The kernel compares the weights with those it prepared and does its work again when they differ.
  void* prepared = nullptr;
  bool prepared_filled = false;  // by an earlier call
};

struct ConvKernels {
  void (*run[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(const Conv&) = {};
  std::int64_t (*scratch_size[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(
      const ConvShape&) = {};                                         // -1: does not fit
  std::int64_t (*prepared_size[kDTypeCount])(const ConvShape&) = {};  // null or 0: weights are used as they are
};

}  // namespace pydlx
