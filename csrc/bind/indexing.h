// x[...] for reading and writing.
#pragma once
#include "bind/tensor_type.h"

namespace pydlx::bind {

PyObject* get_item(const Tensor& x, PyObject* key);
void set_item(Tensor x, PyObject* key, PyObject* value);

}  // namespace pydlx::bind
