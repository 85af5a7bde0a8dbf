#include "core/check.h"

#include <algorithm>
#include <cstdio>

namespace pydlx {

std::string to_text(std::string_view s) { return std::string(s); }
std::string to_text(const char* s) { return s; }
std::string to_text(const std::string& s) { return s; }
std::string to_text(std::int64_t v) { return std::to_string(v); }
std::string to_text(int v) { return std::to_string(v); }
std::string to_text(std::size_t v) { return std::to_string(v); }
std::string to_text(double v) {
  char b[32];
  std::snprintf(b, sizeof b, "%g", v);
  return b;
}
std::string to_text(bool v) { return v ? "True" : "False"; }
std::string to_text(DType t) { return dtype_name(t); }
std::string to_text(Device d) { return d.str(); }
std::string to_text(const Dims& d) {
  std::string s = "(";
  for (std::size_t i = 0; i < d.size(); ++i) s += (i ? ", " : "") + std::to_string(d[i]);
  return s + (d.size() == 1 ? ",)" : ")");
}

std::int64_t checked_mul(std::int64_t a, std::int64_t b, std::string_view op) {
  std::int64_t r;
  if (__builtin_mul_overflow(a, b, &r)) fail(op, "", ErrorKind::Value, "size ", a, " x ", b, " overflows 64 bits");
  return r;
}
std::int64_t checked_add(std::int64_t a, std::int64_t b, std::string_view op) {
  std::int64_t r;
  if (__builtin_add_overflow(a, b, &r)) fail(op, "", ErrorKind::Value, "size ", a, " + ", b, " overflows 64 bits");
  return r;
}
std::int64_t checked_numel(const Dims& sizes, std::string_view op) {
  require(sizes.ndim() <= kMaxDims, op, "size", ErrorKind::Shape, "expected at most ", kMaxDims, " dimensions, got ",
          sizes.ndim());
  // Sizes beside a 0 must fit too: strides and the products over some of the axes are formed from them.
  std::int64_t n = 1;
  bool empty = false;
  for (auto s : sizes) {
    require(s >= 0, op, "size", ErrorKind::Shape, "expected non-negative sizes, got ", sizes);
    if (s == 0)
      empty = true;
    else
      n = checked_mul(n, s, op);
  }
  return empty ? 0 : n;
}

int wrap_axis(std::int64_t axis, int ndim, std::string_view op, std::string_view argument) {
  const std::int64_t n = std::max(ndim, 1);
  if (axis < -n || axis >= n)
    fail(op, argument, ErrorKind::Index, "expected an axis in [", -n, ", ", n - 1, "], got ", axis);
  return static_cast<int>(axis < 0 ? axis + n : axis);
}

Dims wrap_axes(const Dims& axes, int ndim, std::string_view op, std::string_view argument) {
  Dims out;
  if (axes.empty()) {
    for (int i = 0; i < ndim; ++i) out.push_back(i);
    return out;
  }
  for (auto a : axes) {
    const int w = wrap_axis(a, ndim, op, argument);
    require(std::find(out.begin(), out.end(), w) == out.end(), op, argument, ErrorKind::Value, "axis ", w,
            " appears more than once in ", axes);
    out.push_back(w);
  }
  std::sort(out.begin(), out.end());
  if (ndim == 0) out.resize(0);
  return out;
}

}  // namespace pydlx
