// Python functions as hooks of tensors and nodes. They are named types so that the cycle collector can find the
// functions inside (bind/garbage.cpp). The interpreter lock is held whenever hooks run or die: backward gives it up
// inside kernels only.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

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

}  // namespace pydlx::bind
