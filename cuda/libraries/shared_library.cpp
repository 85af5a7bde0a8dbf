#include "cuda/libraries/shared_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

#include "core/check.h"

namespace pydlx::cuda {

UseLibrary library_use(const char* op, const char* variable, const char* name) {
  const char* v = std::getenv(variable);
  if (!v || !*v || std::strcmp(v, "own") == 0) return UseLibrary::never;
  if (std::strcmp(v, name) == 0) return UseLibrary::always;
  if (std::strcmp(v, "auto") == 0) return UseLibrary::automatic;
  fail(op, variable, ErrorKind::Value, "expected own, ", name, " or auto, got '", v, "'");
}

SharedLibrary::SharedLibrary(const char* variable, std::initializer_list<const char*> names) : variable_(variable) {
  const auto open = [this](const char* name) {
    file_ = dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!file_ && problem_.empty()) problem_ = dlerror();
  };
  if (const char* named = std::getenv(variable)) {
    open(named);
  } else {
    for (const char* name : names)
      if (!file_) open(name);
  }
  if (file_) problem_.clear();
}

void* SharedLibrary::symbol(const char* name) {
  void* found = file_ ? dlsym(file_, name) : nullptr;
  if (!found && problem_.empty()) problem_ = std::string("it has no ") + name;
  return found;
}

bool SharedLibrary::ready(UseLibrary use, const char* op, const char* variable, const char* name) const {
  if (problem_.empty()) return true;
  require(use != UseLibrary::always, op, variable, ErrorKind::Device, "expected the library, because it is set to ",
          name, "; got: ", problem_, ". Install it, name the file in ", variable_, ", or set it to own or auto");
  return false;
}

}  // namespace pydlx::cuda
