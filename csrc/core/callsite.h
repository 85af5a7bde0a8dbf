// The user's source line, kept for error messages. The bindings install a hook that reads the interpreter's current
// frame; the engine itself knows nothing about Python.
#pragma once
#include <string>

namespace pydlx {

struct CallSite {
  const void* code = nullptr;  // opaque to the engine
  int instruction = -1;
  explicit operator bool() const { return code != nullptr; }
};

struct CallSiteHooks {
  CallSite (*current)() = nullptr;
  std::string (*describe)(CallSite) = nullptr;  // "train.py:12 in step"
};

CallSiteHooks& callsite_hooks();
inline CallSite current_callsite() {
  auto* f = callsite_hooks().current;
  return f ? f() : CallSite{};
}
std::string describe_callsite(CallSite site);

}  // namespace pydlx
