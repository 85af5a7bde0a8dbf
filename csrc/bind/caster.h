// Lets pybind11 functions take and return Tensor.
#pragma once
#include <pybind11/pybind11.h>

#include "bind/tensor_type.h"

namespace pydlx::bind {
namespace py = pybind11;

// Base of values inside pybind11 objects: their memory comes with a default one in it, because Python can make an
// object and leave its __init__ out.
template <class T>
struct ReadyMemory {
  static void* operator new(std::size_t n) { return ::new (::operator new(n)) T; }
  static void* operator new(std::size_t, void* p) { return p; }
  static void operator delete(void* p) { ::operator delete(p); }
};
}  // namespace pydlx::bind

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
