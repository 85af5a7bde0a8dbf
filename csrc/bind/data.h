// Nested Python lists <-> tensors.
#pragma once
#include <optional>

#include "bind/errors.h"
#include "bind/tensor_type.h"

namespace pydlx::bind {

// A tensor with the values of a number, a nested list or tuple, a NumPy array or scalar, or a tensor (copied). The
// dtype, unless given, is the smallest of bool, int64, default float that holds every Python number; arrays and tensors
// keep theirs.
Tensor tensor_from_data(PyObject* data, std::optional<DType> dtype, std::optional<Device> device);
// A NumPy array or scalar as a tensor that shares its memory where it can.
Tensor tensor_from_array(PyObject* array);
inline bool is_array(PyObject* o) { return PyObject_HasAttrString(o, "__array_interface__"); }
// Nested lists of Python numbers.
Object to_list(const Tensor& t);

}  // namespace pydlx::bind
