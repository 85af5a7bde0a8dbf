#include "bind/memory_format.h"

#include <string_view>

namespace pydlx::bind {

bool memory_format_from(PyObject* o, MemoryFormat& out) {
  static constexpr std::pair<std::string_view, MemoryFormat> kFormats[] = {
      {"contiguous_format", MemoryFormat::contiguous},
      {"preserve_format", MemoryFormat::preserve},
      {"channels_last", MemoryFormat::channels_last},
      {"channels_last_3d", MemoryFormat::channels_last_3d},
  };
  if (std::string_view(Py_TYPE(o)->tp_name) != "memory_format") return false;
  const Object name(PyObject_GetAttrString(o, "_name"));
  const char* text = name ? PyUnicode_AsUTF8(name.get()) : nullptr;
  PyErr_Clear();
  if (!text) return false;
  for (const auto& [known, format] : kFormats)
    if (known == text) {
      out = format;
      return true;
    }
  return false;
}

}  // namespace pydlx::bind
