// Python functions as hooks of tensors and nodes. They are named types so that the cycle collector can find the
// functions inside (bind/garbage.cpp). The interpreter lock is held whenever hooks run or die: backward gives it up
// inside kernels only.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "autograd/saved_hooks.h"
#include "core/tensor.h"

namespace pydlx::bind {
namespace py = pybind11;

struct TensorHook {
  py::object function;
  Tensor operator()(const Tensor& gradient) const;
};
struct NodePreHook {
  py::object function;
  void operator()(std::vector<Tensor>& grad_outputs) const;
};
struct NodePostHook {
  py::object function;
  void operator()(std::vector<Tensor>& grad_inputs, const std::vector<Tensor>& grad_outputs) const;
};

// The two functions of autograd.graph.saved_tensors_hooks, and what the first made of a tensor.
struct TensorKeeper final : SavedTensorHooks {
  TensorKeeper(py::object pack_with, py::object unpack_with)
      : pack_function(std::move(pack_with)), unpack_function(std::move(unpack_with)) {}
  Ref<PackedTensor> pack(const Tensor&) override;
  py::object pack_function, unpack_function;
};
struct KeptTensor final : PackedTensor {
  KeptTensor(py::object packed, py::object unpack_with)
      : value(std::move(packed)), unpack_function(std::move(unpack_with)) {}
  Tensor unpack() const override;
  py::object value, unpack_function;
};

}  // namespace pydlx::bind
