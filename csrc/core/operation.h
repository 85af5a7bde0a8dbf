// The operation that the calling thread is in, for logs of what operations ask a device to do. A backend that writes
// such a log switches this on while the library is loaded; off, an operation pays one test of a flag.
#pragma once

namespace pydlx {

struct Operation {
  const char* name = "";
  bool backward = false;
};

inline bool operations_are_named = false;
inline thread_local Operation current_operation;

class NamedOperation {
 public:
  NamedOperation(const char* name, bool backward) noexcept : on_(operations_are_named) {
    if (on_) [[unlikely]] {
      before_ = current_operation;
      current_operation = {name, backward};
    }
  }
  ~NamedOperation() {
    if (on_) [[unlikely]]
      current_operation = before_;
  }
  NamedOperation(const NamedOperation&) = delete;
  NamedOperation& operator=(const NamedOperation&) = delete;

 private:
  const bool on_;
  Operation before_;
};

}  // namespace pydlx
