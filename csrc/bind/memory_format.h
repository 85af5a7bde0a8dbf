// Arguments of type `object` that name a memory format.
#pragma once
#include "bind/schema.h"
#include "core/memory_format.h"

namespace pydlx::bind {

// The format that a pydlx.memory_format object names; false for any other object.
bool memory_format_from(PyObject* o, MemoryFormat& out);

template <>
struct Arg<MemoryFormat> {
  static MemoryFormat get(const Call& c, std::size_t i) {
    MemoryFormat f{};
    if (!memory_format_from(c.slots[i], f)) argument_error(c, i, "a memory format such as pydlx.channels_last");
    return f;
  }
};

}  // namespace pydlx::bind
