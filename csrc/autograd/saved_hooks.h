// Hooks that keep tensors for backward in place of the graph: autograd.graph.saved_tensors_hooks.
#pragma once
#include "core/ref.h"
#include "core/tensor.h"

namespace pydlx {

// What a hook made of a tensor.
struct PackedTensor : RefCounted {
  virtual ~PackedTensor() = default;
  virtual Tensor unpack() const = 0;
  std::uint32_t geometry = 0;  // geometry_key of the tensor
};
inline void destroy(PackedTensor* p) noexcept { delete p; }

struct SavedTensorHooks : RefCounted {
  virtual ~SavedTensorHooks() = default;
  virtual Ref<PackedTensor> pack(const Tensor&) = 0;
};
inline void destroy(SavedTensorHooks* h) noexcept { delete h; }

// Hooks of the calling thread; those that were pushed last are in force. Null: none are.
SavedTensorHooks* saved_tensor_hooks() noexcept;
void push_saved_tensor_hooks(Ref<SavedTensorHooks>);  // null: none until the next pop
void pop_saved_tensor_hooks();

}  // namespace pydlx
