// pydlx._C._cuda.
#pragma once
#include <pybind11/pybind11.h>

#include "core/allocator.h"

namespace pydlx::bind {

void init_cuda(PyObject* module);
pybind11::dict stats_dict(const AllocatorStats& s);

}  // namespace pydlx::bind
