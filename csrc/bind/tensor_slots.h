// The parts that the class `Tensor` is put together from in tensor_type.cpp.
#pragma once
#include <Python.h>

#include <vector>

namespace pydlx::bind {

template <class F>
PyType_Slot slot(int id, F* f) {
  return {id, reinterpret_cast<void*>(f)};
}

// tensor_operators.cpp: arithmetic, comparison, conversion to Python's numbers.
std::vector<PyType_Slot> operator_slots();
// tensor_attributes.cpp; ends with an empty row.
extern PyGetSetDef tensor_attributes[];

}  // namespace pydlx::bind
