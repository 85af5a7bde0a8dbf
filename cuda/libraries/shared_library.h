// Libraries of the vendor that are opened at run time where they are, and never linked.
#pragma once
#include <initializer_list>
#include <string>

namespace pydlx::cuda {

// `never` (the default), `always`: for everything that the library can express, an error where there is none,
// `automatic`: where it is there and is expected to pay.
enum class UseLibrary { never, always, automatic };

// What the environment variable says: own, the library's name or auto. ValueError otherwise.
UseLibrary library_use(const char* op, const char* variable, const char* name);

class SharedLibrary {
 public:
  // The file that the environment variable names, otherwise the first of `names` that the system's loader finds.
  SharedLibrary(const char* variable, std::initializer_list<const char*> names);

  template <class Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(symbol(name));
  }
  // Whether the library and everything that was looked for is there. Where it is not and `use` is always: DeviceError.
  bool ready(UseLibrary use, const char* op, const char* variable, const char* name) const;

 private:
  void* symbol(const char* name);
  void* file_ = nullptr;
  const char* variable_;
  std::string problem_;
};

}  // namespace pydlx::cuda
