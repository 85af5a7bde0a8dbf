// Structured errors: "[op] argument: expected ..., got ...". Every exception the engine throws is a pydlx::Error; the
// bindings turn its kind into a Python class that also derives from the built-in the user would catch.
#pragma once
#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "core/device.h"
#include "core/dims.h"
#include "core/dtype.h"

namespace pydlx {

enum class ErrorKind : std::uint8_t {
  Value,           // ValueError
  Shape,           // ShapeError(ValueError)
  DType,           // DTypeError(TypeError)
  Device,          // DeviceError(RuntimeError)
  OutOfMemory,     // OutOfMemoryError(MemoryError)
  Gradient,        // GradientError(RuntimeError)
  Index,           // IndexError
  Type,            // TypeError
  Runtime,         // RuntimeError
  NotImplemented,  // NotImplementedError
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}
  ErrorKind kind() const noexcept { return kind_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  ErrorKind kind_;
  std::string message_;
};

std::string to_text(std::string_view s);
std::string to_text(const char* s);
std::string to_text(const std::string& s);
std::string to_text(std::int64_t v);
std::string to_text(int v);
std::string to_text(std::size_t v);
std::string to_text(double v);
std::string to_text(bool v);
std::string to_text(DType t);
std::string to_text(Device d);
std::string to_text(const Dims& d);  // "(2, 3)"

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::string s;
  ((s += to_text(parts)), ...);
  return s;
}

// `where` is "op" or "op argument": fail("layer_norm", "weight", ErrorKind::Shape, "expected shape ", a, ", got ", b).
template <class... Parts>
[[noreturn]] __attribute__((noinline, cold)) void fail(std::string_view op, std::string_view argument, ErrorKind kind,
                                                       const Parts&... parts) {
  std::string s = "[" + std::string(op) + "] ";
  if (!argument.empty()) s += std::string(argument) + ": ";
  throw Error(kind, s + concat(parts...));
}

template <class... Parts>
void require(bool ok, std::string_view op, std::string_view argument, ErrorKind kind, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail(op, argument, kind, parts...);
}

// Overflow-checked size arithmetic for geometry that comes from users or files.
std::int64_t checked_mul(std::int64_t a, std::int64_t b, std::string_view op);
std::int64_t checked_add(std::int64_t a, std::int64_t b, std::string_view op);
std::int64_t checked_numel(const Dims& sizes, std::string_view op);  // refuses negative sizes

// Maps an axis in [-ndim, ndim) to [0, ndim); a 0-d tensor accepts -1 and 0.
int wrap_axis(std::int64_t axis, int ndim, std::string_view op, std::string_view argument = "dim");
// Wrapped, sorted, distinct axes; an empty list means all.
Dims wrap_axes(const Dims& axes, int ndim, std::string_view op, std::string_view argument = "dim");

}  // namespace pydlx
