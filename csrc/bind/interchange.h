// Zero-copy exchange with other libraries.
#pragma once
#include "bind/tensor_type.h"

namespace pydlx::bind {

void init_numpy(PyObject* module);
void init_dlpack(PyObject* module);
// Buffer protocol of Tensor.
int get_buffer(PyObject* self, Py_buffer* view, int flags);
void release_buffer(PyObject* self, Py_buffer* view);

}  // namespace pydlx::bind
