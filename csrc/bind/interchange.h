// Zero-copy exchange with other libraries.
#pragma once
#include "bind/tensor_type.h"

namespace pydlx::bind {

void init_numpy(PyObject* module);

}  // namespace pydlx::bind
