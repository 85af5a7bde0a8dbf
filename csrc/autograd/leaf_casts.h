// The casts of leaves that mixed precision makes, on devices where each would cost a launch in either direction: leaves
// are cast together, and so are their gradients, which wait for each other until the backward pass ends (or enough have
// come). What is computed is what casts one by one compute.
#pragma once
#include "core/tensor.h"

namespace pydlx {

// Casts of float32 leaves of one device by one launch, recorded for gradients.
TensorList cast_leaves(const TensorList& leaves, DType dtype);

// Gradients of such casts during one backward pass that adds to the leaves' gradients.
class LeafGradients {
 public:
  explicit LeafGradients(bool active);
  ~LeafGradients();
  LeafGradients(const LeafGradients&) = delete;

  // Casts what has come and adds it to the leaves' gradients. Call before anybody may look at those.
  void flush();

  // Keeps the gradient of a cast of `leaf` for the calling thread's pass. False if it must be delivered as usual.
  static bool keep(const Tensor& leaf, const Tensor& grad);

 private:
  const bool active_;
  LeafGradients* const before_;
  TensorList leaves_, grads_;
  std::int64_t bytes_ = 0;
};

}  // namespace pydlx
