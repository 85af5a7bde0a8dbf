// Which operations autocast casts for, and the casting of a call's arguments.
#pragma once
#include <string>
#include <vector>

#include "autograd/autocast.h"
#include "bind/schema.h"

namespace pydlx::bind {

CastPolicies cast_policies(const std::string& op);
// Replaces tensors among the slots by their casts, which `owned` keeps alive.
void cast_arguments(const Schema& s, PyObject** slots, std::vector<Object>& owned);
// For operator slots.
Tensor cast_operand(const Tensor& t, CastPolicies p);
void init_autocast(PyObject* module);

}  // namespace pydlx::bind
