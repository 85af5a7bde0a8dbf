// Small work per leaf, on devices where each piece would cost a launch: leaves that mixed precision casts are cast
// together, and their gradients wait for each other until the backward pass ends (or enough have come). What is
// computed is what one by one would be.
#pragma once
#include <array>

#include "core/tensor.h"

namespace pydlx {

// Casts of float32 leaves of one device by one launch, recorded for gradients.
TensorList cast_leaves(const TensorList& leaves, DType dtype);

// Gradients of leaves that wait for each other during one backward pass which adds to `.grad`: those of casts, and
// those to be added to what is there.
class LeafGradients {
 public:
  explicit LeafGradients(bool active);
  ~LeafGradients();
  LeafGradients(const LeafGradients&) = delete;

  // Casts what has come and adds it to the leaves' gradients. Call before anybody may look at those.
  void flush();

  // Keeps a gradient of `leaf`, or of a cast of it, for the calling thread's pass. False if it must be delivered as
  // usual.
  static bool keep(const Tensor& leaf, const Tensor& grad);

 private:
  struct Waiting {  // of one dtype
    TensorList leaves, grads;
  };
  static void add(const Waiting& waiting);

  const bool active_;
  LeafGradients* const before_;
  std::array<Waiting, 3> waiting_;
  std::size_t count_ = 0;
  std::int64_t bytes_ = 0;
};

}  // namespace pydlx
