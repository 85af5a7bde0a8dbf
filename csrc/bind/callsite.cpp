// Where in the user's program an op was called. Every recorded op asks, so this reads the interpreter's frame directly:
// PyEval_GetFrame allocates a frame object per Python call, a sixth of the time of a small recorded op.
#include "core/callsite.h"

#include <Python.h>

#include <set>

#include "bind/errors.h"

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
#define Py_BUILD_CORE 1
extern "C" {
#include <internal/pycore_frame.h>
}
#undef Py_BUILD_CORE
#elif PY_VERSION_HEX < 0x030B0000
#include <frameobject.h>
#endif

namespace pydlx::bind {

namespace {

// Nodes keep bare pointers to code objects, so a code object seen here stays for the life of the process.
void keep(PyCodeObject* code) {
  static const void* last = nullptr;
  if (code == last) return;
  static std::set<const void*> known;
  if (known.insert(code).second) Py_INCREF(code);
  last = code;
}

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
CallSite current_site() {
  const _PyInterpreterFrame* f = PyThreadState_Get()->cframe->current_frame;
  if (!f) return {};
  keep(f->f_code);
  return {f->f_code, _PyInterpreterFrame_LASTI(f) * static_cast<int>(sizeof(_Py_CODEUNIT))};
}
#else
CallSite current_site() {
  PyFrameObject* f = PyEval_GetFrame();
  if (!f) return {};
  PyCodeObject* code = PyFrame_GetCode(f);
  keep(code);
  Py_DECREF(code);
#if PY_VERSION_HEX < 0x030B0000  // the accessor came with 3.11; 3.10 counts two-byte instructions
  return {code, f->f_lasti * 2};
#else
  return {code, PyFrame_GetLasti(f)};
#endif
}
#endif

std::string describe_site(CallSite site) {
  auto* code = static_cast<PyCodeObject*>(const_cast<void*>(site.code));
  const int line = PyCode_Addr2Line(code, site.instruction);
  const auto text = [&](const char* attribute) {
    const Object value(PyObject_GetAttrString(reinterpret_cast<PyObject*>(code), attribute));
    const char* s = value && PyUnicode_Check(value.get()) ? PyUnicode_AsUTF8(value.get()) : nullptr;
    if (!s) PyErr_Clear();
    return std::string(s ? s : "?");
  };
  return text("co_filename") + ":" + std::to_string(line) + " in " + text("co_name");
}

}  // namespace

void init_callsite() { callsite_hooks() = {current_site, describe_site}; }

}  // namespace pydlx::bind
