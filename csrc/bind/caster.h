// Lets pybind11 functions take and return Tensor.
#pragma once
#include <pybind11/pybind11.h>

#include "bind/tensor_type.h"

namespace pydlx::bind {
namespace py = pybind11;
}

namespace pybind11::detail {
template <>
struct type_caster<pydlx::Tensor> {
  PYBIND11_TYPE_CASTER(pydlx::Tensor, const_name("Tensor"));
  bool load(handle src, bool) {
    if (!pydlx::bind::is_tensor(src.ptr())) return false;
    value = pydlx::bind::as_tensor(src.ptr());
    return true;
  }
  static handle cast(const pydlx::Tensor& t, return_value_policy, handle) { return pydlx::bind::wrap(t); }
};
}  // namespace pybind11::detail
