// Convolution as three passes over one geometry: output from input and weight, input gradient from output gradient and
// weight, weight gradient from output gradient and input. A transposed convolution is the second pass, so the three are
// closed under differentiation.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "kernels/gemm.h"

namespace pydlx {

// Spatial axes are depth, height, width; missing ones have size 1. All tensors are contiguous, channels counted per
// group. With `channels_last` x is [batch, in..., groups * cin] and y [batch, out..., groups * cout].
struct ConvShape {
  std::int64_t batch = 0, groups = 1, cin = 0, cout = 0;
  std::int64_t in[3] = {1, 1, 1}, out[3] = {1, 1, 1}, kernel[3] = {1, 1, 1};
  std::int64_t stride[3] = {1, 1, 1}, pad[3] = {0, 0, 0}, dilation[3] = {1, 1, 1};  // pad: in front of each axis
  bool exact = false;         // only algorithms that round no worse than the plain sum
  bool rounded = false;       // operands may be rounded to fewer digits, where there are units for that
  bool weights_kept = false;  // forward pass: prepared weights of a call are there for the next (Conv::prepared)
  bool channels_last = false;
  bool weights_last = false;  // only with channels_last: w is [groups * cout, kernel..., cin]
};

enum class ConvPass : int { forward, input_grad, weight_grad, COUNT };

struct Conv {
  ConvShape shape;
  void* x = nullptr;           // [batch, groups * cin, in...]; written by input_grad
  void* w = nullptr;           // [groups * cout, cin, kernel...]; written by weight_grad
  void* y = nullptr;           // [batch, groups * cout, out...]; written by forward
  const void* bias = nullptr;  // one value per channel of the written tensor, or null; not used by weight_grad
  // Forward pass: y = activation(scale[channel] * sum + bias[channel]). Without a scale (null) that of the sum itself.
  const void* scale = nullptr;
  Activation activation = Activation::none;  // or relu
  void* scratch = nullptr;                   // as many bytes as `scratch_size` says
  // Forward pass: `prepared_size` bytes for weights in the kernel's own order, to be given again with later calls, or
  // null. The kernel compares the weights with those it prepared and does its work again when they differ.
  void* prepared = nullptr;
  bool prepared_filled = false;  // by an earlier call
  // For algorithms that got reordered weights: those that the caller gave (null: w), and whether they are known to be
  // the prepared ones, so that w holds nothing.
  const void* w_given = nullptr;
  bool prepared_current = false;
};

struct ConvKernels {
  void (*run[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(const Conv&) = {};
  std::int64_t (*scratch_size[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(
      const ConvShape&) = {};  // -1: does not fit
  // Whether the pass reads and writes channels-last tensors of this geometry. Null: never.
  bool (*channels_last[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(const ConvShape&) = {};
  // Whether images with the channels first had better be copied to channels last for the pass, and back. Null: never.
  bool (*prefers_last[static_cast<int>(ConvPass::COUNT)][kDTypeCount])(const ConvShape&) = {};
  std::int64_t (*prepared_size[kDTypeCount])(const ConvShape&) = {};  // null or 0: weights are used as they are
};

}  // namespace pydlx
