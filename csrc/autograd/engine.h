// The backward pass.
#pragma once
#include "autograd/node.h"

namespace pydlx {

struct BackwardOptions {
  bool retain_graph = false;
  bool create_graph = false;
};

// Adds the gradients of sum_i <roots[i], grads[i]> to the `.grad` of every leaf that requires one; when `inputs` is not
// empty, only to those tensors. An undefined grads[i] means 1 for a root with one element.
void run_backward(const TensorList& roots, const TensorList& grads, const TensorList& inputs, BackwardOptions options);

// Returns the gradients with respect to `inputs` and leaves every `.grad` alone. Unreached inputs give undefined
// tensors.
TensorList run_grad(const TensorList& roots, const TensorList& grads, const TensorList& inputs,
                    BackwardOptions options);

// How many saved tensors the backward formulas of this thread have asked for so far.
std::uint64_t& saved_reads() noexcept;

}  // namespace pydlx
