// One row per op. A row is a Python-like signature plus the C++ function behind it:
//
//   {"layer_norm(Tensor input, int[] normalized_shape, Tensor? weight=None, Tensor? bias=None, float eps=1e-5) ->
//   Tensor",
//    call<&ops::layer_norm>, kFunction, "doc"}
//
// From it come the module function, the tensor method, argument checking with errors that name op and argument, the
// docstring, and the type stubs. Argument types: Tensor, Tensor? (None allowed), Number (Python number), Operand
// (tensor or number), Tensor[], Tensor[*] (also as separate positional arguments), int, float, bool, str, int[], int[+]
// (also one int), int[N] (one int stands for N equal ones), int[*] (also as separate positional arguments), dtype,
// device, Generator, object; each may carry `?`. `*` starts keyword-only arguments. "-> (Tensor values, Tensor
// indices)" returns a named tuple. Several rows with one name are overloads, tried in order. With `kOut` the op gets a
// generic out= argument. The call goes through CPython's vectorcall: about 60 ns of overhead against 300 for a keyword
// call through pybind11's dispatcher.
#pragma once
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "autograd/autocast.h"
#include "bind/errors.h"
#include "bind/tensor_type.h"
#include "core/generator.h"
#include "core/tensor.h"

namespace pydlx::bind {

enum class Kind : std::uint8_t {
  Tensor,
  Operand,
  TensorList,
  Number,
  Int,
  Float,
  Bool,
  Str,
  IntList,
  DType,
  Device,
  Generator,
  Object
};

struct Param {
  std::string name, type;
  Kind kind = Kind::Tensor;
  bool optional = false;  // None allowed
  bool keyword_only = false;
  bool variadic = false;  // int[*]
  bool single = false;    // int[+]
  int repeat = 0;         // N of int[N]
  PyObject* interned = nullptr;
  PyObject* fallback = nullptr;  // default value; null: required
};

struct Schema;
struct Call {
  const Schema& schema;
  PyObject* const* slots;  // one per parameter, never null
};
using Impl = PyObject* (*)(const Call&);

// kHidden: in pydlx._C like kFunction, but not in pydlx itself: PyTorch has the name elsewhere (nn.functional) or not
// at all.
enum Where : unsigned { kFunction = 1, kMethod = 2, kBoth = 3, kOut = 4, kHidden = 8 };

struct OpRow {
  const char* signature;
  Impl impl;
  unsigned where = kBoth;
  const char* doc = "";
};

struct Schema {
  std::string name, text, doc;
  std::vector<Param> params;
  int positional = 0;  // parameters that may be given by position
  bool has_out = false;
  PyTypeObject* result_type = nullptr;  // named tuple
  Impl impl = nullptr;
  CastPolicies casts;  // in an autocast region
};

// Registers rows; call from each bind/ops_*.cpp inside `void bind_<family>(OpRegistry&)`.
class OpRegistry {
 public:
  void add(const std::vector<OpRow>& rows);
  void finish(PyObject* module);             // creates the Python objects
  void list_public(PyObject* module) const;  // writes __all__: every public name of the module that is not kHidden

 private:
  std::vector<std::pair<Schema, unsigned>> schemas_;
  std::set<std::string> hidden_;
};

// Anomaly mode: raises when `result` holds NaN or infinity although no argument does. Takes `result` over when it
// raises.
void check_finite(std::string_view op, PyObject* result, PyObject* const* args, Py_ssize_t n);

// Calls an op by name from C++ (operator slots of rarely used operators).
PyObject* call_op(const char* name, PyObject* const* args, Py_ssize_t n);

// ---- argument conversion
// ---------------------------------------------------------------------------------------------------------

bool is_int_tensor(PyObject* o);  // of one element
[[noreturn]] void argument_error(const Call& c, std::size_t i, const char* expected);
DType parse_dtype(const Call& c, std::size_t i);
Device parse_device(const Call& c, std::size_t i);
Dims parse_ints(const Call& c, std::size_t i);
std::int64_t parse_int(const Call& c, std::size_t i);
double parse_float(const Call& c, std::size_t i);
bool parse_bool(const Call& c, std::size_t i);
Scalar parse_number(const Call& c, std::size_t i);
Tensor parse_tensor(const Call& c, std::size_t i);
TensorList parse_tensors(const Call& c, std::size_t i);
std::string parse_str(const Call& c, std::size_t i);
Generator* parse_generator(const Call& c, std::size_t i);

template <class T>
struct Arg;
template <>
struct Arg<Tensor> {
  static Tensor get(const Call& c, std::size_t i) { return parse_tensor(c, i); }
};
template <>
struct Arg<TensorList> {
  static TensorList get(const Call& c, std::size_t i) { return parse_tensors(c, i); }
};
template <>
struct Arg<Scalar> {
  static Scalar get(const Call& c, std::size_t i) { return parse_number(c, i); }
};
template <>
struct Arg<std::int64_t> {
  static std::int64_t get(const Call& c, std::size_t i) { return parse_int(c, i); }
};
template <>
struct Arg<double> {
  static double get(const Call& c, std::size_t i) { return parse_float(c, i); }
};
template <>
struct Arg<bool> {
  static bool get(const Call& c, std::size_t i) { return parse_bool(c, i); }
};
template <>
struct Arg<std::string> {
  static std::string get(const Call& c, std::size_t i) { return parse_str(c, i); }
};
template <>
struct Arg<Dims> {
  static Dims get(const Call& c, std::size_t i) { return parse_ints(c, i); }
};
template <>
struct Arg<DType> {
  static DType get(const Call& c, std::size_t i) { return parse_dtype(c, i); }
};
template <>
struct Arg<Device> {
  static Device get(const Call& c, std::size_t i) { return parse_device(c, i); }
};
template <>
struct Arg<Generator*> {
  static Generator* get(const Call& c, std::size_t i) { return parse_generator(c, i); }
};
template <>
struct Arg<PyObject*> {
  static PyObject* get(const Call& c, std::size_t i) { return c.slots[i]; }
};
template <class T>
struct Arg<std::optional<T>> {
  static std::optional<T> get(const Call& c, std::size_t i) {
    if (c.slots[i] == Py_None) return std::nullopt;
    return Arg<T>::get(c, i);
  }
};

// ---- results
// ---------------------------------------------------------------------------------------------------------------------

inline PyObject* to_python(const Call&, Tensor t) { return wrap(std::move(t)); }
inline PyObject* to_python(const Call&, bool v) { return PyBool_FromLong(v); }
inline PyObject* to_python(const Call&, std::int64_t v) { return PyLong_FromLongLong(v); }
inline PyObject* to_python(const Call&, double v) { return PyFloat_FromDouble(v); }
inline PyObject* to_python(const Call&, const std::string& v) {
  return PyUnicode_FromStringAndSize(v.data(), static_cast<Py_ssize_t>(v.size()));
}
inline PyObject* to_python(const Call&, Object v) { return v.release(); }
PyObject* to_python(const Call&, DType v);
PyObject* to_python(const Call& c, const TensorList& ts);  // tuple, or the row's named tuple
template <class... Ts>
PyObject* to_python(const Call& c, const std::tuple<Ts...>& t) {
  return std::apply([&](const auto&... v) { return to_python(c, TensorList{v...}); }, t);
}
inline PyObject* to_python(const Call& c, const std::pair<Tensor, Tensor>& p) {
  return to_python(c, TensorList{p.first, p.second});
}

template <class R, class... As, std::size_t... I>
PyObject* invoke(R (*f)(As...), const Call& c, std::index_sequence<I...>) {
  std::tuple<std::remove_cvref_t<As>...> args{Arg<std::remove_cvref_t<As>>::get(c, I)...};
  if constexpr (std::is_void_v<R>) {
    f(static_cast<As>(std::get<I>(args))...);
    Py_RETURN_NONE;
  } else {
    return to_python(c, f(static_cast<As>(std::get<I>(args))...));
  }
}
template <class R, class... As>
PyObject* invoke(R (*f)(As...), const Call& c) {
  return invoke(f, c, std::index_sequence_for<As...>{});
}

// The trampoline of a row.
template <auto F>
PyObject* call(const Call& c) {
  return invoke(F, c);
}

// Python objects for dtypes and devices (bind/types.cpp).
PyObject* dtype_object(DType t);
bool dtype_from(PyObject* o, DType& t);  // also accepts float, int, bool
PyObject* device_object(Device d);
bool device_from(PyObject* o, Device& d);  // also accepts "cpu", "cuda:1"
Generator* generator_from(PyObject* o);    // null when it is none
void init_types(PyObject* module);

}  // namespace pydlx::bind
