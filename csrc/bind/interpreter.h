// Taking the interpreter lock while the interpreter may be shutting down.
#pragma once
#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace pydlx::bind {

// Runs f, in which CPython may take the interpreter lock. Before 3.14 CPython ends a thread that asks for the lock
// while the interpreter shuts down by unwinding its stack, which neither noexcept functions nor objects that need the
// lock survive. Such a thread sleeps here until the process ends, as newer versions let it.
template <class F>
decltype(auto) stay_at_shutdown(F&& f) {
  try {
    return f();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

class InterpreterLock {
 public:
  InterpreterLock() : state_(stay_at_shutdown(PyGILState_Ensure)) {}
  ~InterpreterLock() { PyGILState_Release(state_); }
  InterpreterLock(const InterpreterLock&) = delete;
  InterpreterLock& operator=(const InterpreterLock&) = delete;

 private:
  PyGILState_STATE state_;
};

}  // namespace pydlx::bind
