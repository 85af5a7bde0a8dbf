// Python access to the recorded graph.
#pragma once
#include "autograd/node.h"
#include "bind/tensor_type.h"

namespace pydlx::bind {

PyObject* wrap_node(const Ref<Node>& node);  // None for null
void init_autograd(PyObject* module);
void init_function(PyObject* module);

}  // namespace pydlx::bind
