// What Python's cycle collector must know about the engine: hooks and custom functions keep Python objects, which may
// refer back to the tensor or node that keeps them.
#pragma once
#include <Python.h>

#include "autograd/node.h"

namespace pydlx::bind {

// Python objects that only `t` keeps alive: those of its hooks, and of the operation that made it when nobody else
// holds it. Graphs are followed one operation deep, as in PyTorch: walking them to the end in every collection would
// cost more than it frees.
int visit_tensor(const TensorImpl& t, visitproc visit, void* arg);
// Python objects kept by a node that nobody else holds.
int visit_node(const Node& n, visitproc visit, void* arg);
// Lets go of what visit_tensor reports. The tensor stays usable, without history.
void forget_python(TensorImpl& t);
void forget_python(Node& n);

// The part of it that concerns custom functions (bind/function.cpp).
int visit_function(const Node& n, visitproc visit, void* arg);

}  // namespace pydlx::bind
