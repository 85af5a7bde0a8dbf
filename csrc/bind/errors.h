// pydlx::Error -> Python exceptions.
#pragma once
#include <Python.h>

#include <type_traits>
#include <utility>

#include "bind/interpreter.h"
#include "core/check.h"
#include "core/in_flight.h"

namespace pydlx::bind {

void init_errors(PyObject* module);
void init_callsite();  // lets the engine name the user's source lines; ops run with the interpreter lock held
// Thrown when a CPython call has already set the Python error.
struct PythonError {};
// Sets the Python error for the exception in flight; call from a catch (...) block.
void set_python_error() noexcept;
// Runs f, turning C++ exceptions into Python errors; for raw CPython slots. The end of f is the end of an operation.
template <class F>
auto guarded(F&& f) noexcept -> decltype(f()) {
  using R = decltype(f());
  const Flight flight;
  try {
    return f();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();  // see stay_at_shutdown
  } catch (...) {
    set_python_error();
    if constexpr (std::is_pointer_v<R>)
      return nullptr;
    else
      return R(-1);
  }
}

// Owns one reference.
class Object {
 public:
  Object() = default;
  explicit Object(PyObject* owned) : p_(owned) {}
  Object(Object&& o) noexcept : p_(o.release()) {}
  Object& operator=(Object&& o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Object() { Py_XDECREF(p_); }
  // Takes the result of a CPython call; throws PythonError when it failed.
  static Object checked(PyObject* owned) {
    if (!owned) throw PythonError{};
    return Object(owned);
  }
  PyObject* get() const { return p_; }
  PyObject* release() {
    PyObject* p = p_;
    p_ = nullptr;
    return p;
  }
  explicit operator bool() const { return p_ != nullptr; }

 private:
  PyObject* p_ = nullptr;
};

}  // namespace pydlx::bind
