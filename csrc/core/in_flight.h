// Operations in the middle of which other Python threads run. Long kernels give the interpreter lock up; an operation
// that did so is "in flight" until it ends. It goes on reading sizes, strides and memory of its tensors afterwards, so
// whoever gives a tensor other memory or another geometry waits until no other thread is in flight. Ordinary
// operations pay one relaxed load at their end for this.
#pragma once
#include <atomic>

namespace pydlx {

namespace detail {
extern std::atomic<int> ops_in_flight;
void leave_flight() noexcept;
}  // namespace detail

// Gives the interpreter lock up between operations; null when there was nothing to give up. The bindings install it;
// BlockingHooks::acquire takes the lock back.
inline void* (*pause_interpreter)() = nullptr;

// The calling thread is about to give the interpreter lock up inside an operation. False when it must not, because it
// is changing a tensor (see Alone).
bool enter_flight() noexcept;

// The calling thread holds no raw pointer into a tensor any more. Call with the interpreter lock held.
inline void leave_flight() noexcept {
  if (detail::ops_in_flight.load(std::memory_order_relaxed)) [[unlikely]]
    detail::leave_flight();
}

// Leaves at the end of a scope, for entry points from Python.
struct Flight {
  Flight() = default;
  Flight(const Flight&) = delete;
  ~Flight() { leave_flight(); }
};

// While this lives, no operation of another thread is under way, and this thread keeps the interpreter lock. Waits for
// running ones; RuntimeError when one does not end within ten seconds.
class Alone {
 public:
  explicit Alone(const char* op);
  ~Alone();
  Alone(const Alone&) = delete;

 private:
  bool outermost_ = true;
};

}  // namespace pydlx
