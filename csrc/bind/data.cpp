#include "bind/data.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "autograd/node.h"
#include "bind/schema.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

namespace {

bool is_sequence(PyObject* o) { return PyList_Check(o) || PyTuple_Check(o); }

// range, arrays of the array module and other sequences are turned into lists first; strings are not data.
bool is_other_sequence(PyObject* o) {
  return PySequence_Check(o) && !PyUnicode_Check(o) && !PyBytes_Check(o) && !PyByteArray_Check(o) && !PyDict_Check(o) &&
         !is_tensor(o);
}

[[noreturn]] void not_a_number(PyObject* o) {
  if (PyComplex_Check(o))
    fail("tensor", "data", ErrorKind::DType,
         "complex numbers are not supported; keep the real and imaginary parts as two tensors");
  fail("tensor", "data", ErrorKind::Type, "expected numbers, nested lists of numbers, arrays or tensors, got ",
       Py_TYPE(o)->tp_name);
}

struct Parser {
  Dims sizes;
  int category = 0;            // 0 bool, 1 int, 2 float
  DType widest = DType::Bool;  // of tensors and NumPy scalars met as elements
  bool typed = false;
  DType dtype = DType::Bool;
  char* out = nullptr;

  // The shape, from the first element at each level.
  void measure(PyObject* o) {
    while (true) {
      if (is_tensor(o)) {
        for (auto s : as_tensor(o).sizes()) sizes.push_back(s);
        break;
      }
      if (!is_sequence(o)) break;
      const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
      sizes.push_back(n);
      require(sizes.ndim() <= kMaxDims, "tensor", "data", ErrorKind::Shape, "expected lists nested at most ", kMaxDims,
              " deep");
      if (n == 0) break;
      o = PySequence_Fast_ITEMS(o)[0];
    }
    require(sizes.ndim() <= kMaxDims, "tensor", "data", ErrorKind::Shape, "expected at most ", kMaxDims, " dimensions");
  }

  void ragged(int depth, std::int64_t got) const {
    fail("tensor", "data", ErrorKind::Value, "expected length ", sizes[depth], " at dimension ", depth, ", got ", got,
         "; all lists at one level must have the same length");
  }

  void note(DType t) {
    widest = typed ? promote(widest, t) : t;
    typed = true;
  }

  // First pass: checks the shape everywhere and finds the category.
  void scan(PyObject* o, int depth) {
    if (depth < sizes.ndim() && is_sequence(o)) {
      const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
      if (n != sizes[depth]) ragged(depth, n);
      for (Py_ssize_t i = 0; i < n && i < PySequence_Fast_GET_SIZE(o); ++i)
        scan(PySequence_Fast_ITEMS(o)[i], depth + 1);
      return;
    }
    if (is_tensor(o)) {
      const Tensor t = as_tensor(o);
      require(t.ndim() == sizes.ndim() - depth, "tensor", "data", ErrorKind::Value, "expected a tensor of ",
              sizes.ndim() - depth, " dimensions at depth ", depth, ", got shape ", t.sizes());
      for (int i = 0; i < t.ndim(); ++i)
        if (t.sizes()[i] != sizes[depth + i]) ragged(depth + i, t.sizes()[i]);
      return note(t.dtype());
    }
    if (depth != sizes.ndim() || is_sequence(o))
      fail("tensor", "data", ErrorKind::Value, "expected a list of length ", depth < sizes.ndim() ? sizes[depth] : 0,
           " at dimension ", depth, ", got ", Py_TYPE(o)->tp_name, "; lists must not be ragged");
    if (PyBool_Check(o)) return;
    if (PyLong_Check(o)) {
      category = std::max(category, 1);
      return;
    }
    if (PyFloat_Check(o)) {
      category = 2;
      return;
    }
    bool ok = true;
    const Tensor t = PyComplex_Check(o) ? Tensor() : operand(o, ok);
    if (!ok || !t.defined()) not_a_number(o);
    note(t.dtype());
  }

  DType inferred() const {
    if (sizes.size() > 0 && !typed && category == 0 && empty_data()) return default_dtype();
    DType t = category == 2 ? default_dtype() : category == 1 ? DType::Int64 : DType::Bool;
    if (!typed) return t;
    // Python numbers beside typed elements raise the category only.
    return category > dtype_category(widest) ? t : widest;
  }
  bool empty_data() const {
    for (auto s : sizes)
      if (s == 0) return true;
    return false;
  }

  static void check_int(std::int64_t v, DType t) {
    if (t == DType::Bool || is_floating(t)) return;
    const std::int64_t low = integer_min(t), high = integer_max(t);
    require(v >= low && v <= high, "tensor", "data", ErrorKind::Value, "expected integers in [", low, ", ", high,
            "] for ", t, ", got ", v);
  }

  void store(PyObject* o) {
    if (PyFloat_Check(o)) {
      const double v = PyFloat_AS_DOUBLE(o);
      if (is_floating(dtype)) {
        store_scalar(out, dtype, v);
      } else {
        require(dtype == DType::Bool || (std::isfinite(v) && std::abs(v) < 9.2e18), "tensor", "data", ErrorKind::Value,
                "expected finite numbers that fit ", dtype, ", got ", v);
        if (dtype != DType::Bool) check_int(static_cast<std::int64_t>(v), dtype);
        store_scalar(out, dtype, v);
      }
    } else if (PyLong_Check(o)) {  // bool is an int
      int overflow = 0;
      const long long v = PyLong_AsLongLongAndOverflow(o, &overflow);
      if (overflow && is_floating(dtype)) {
        const double d = PyLong_AsDouble(o);
        if (d == -1.0 && PyErr_Occurred()) {
          PyErr_Clear();
          fail("tensor", "data", ErrorKind::Value, "expected integers that fit ", dtype, ", got a larger one");
        }
        store_scalar(out, dtype, d);
      } else {
        require(!overflow, "tensor", "data", ErrorKind::Value, "expected integers that fit 64 bits, got a larger one");
        check_int(v, dtype);
        store_scalar(out, dtype, static_cast<std::int64_t>(v));
      }
    } else {
      bool ok = true;
      const Tensor t = operand(o, ok);
      if (!ok || t.numel() != 1) not_a_number(o);
      store_scalar(out, dtype, scalar_of(t));
    }
    out += itemsize(dtype);
  }

  // Second pass. Lists may have been changed by an element's __index__ in between, so lengths are checked again.
  void fill(PyObject* o, int depth) {
    if (is_tensor(o)) {
      const Tensor t = as_tensor(o);
      require(t.ndim() == sizes.ndim() - depth, "tensor", "data", ErrorKind::Value,
              "the data changed while it was read");
      Tensor c = empty(t.sizes(), dtype);
      copy_raw(c, detach(t));
      const std::size_t bytes = static_cast<std::size_t>(c.numel()) * itemsize(dtype);
      std::memcpy(out, c.data(), bytes);
      out += bytes;
      return;
    }
    if (depth == sizes.ndim()) return store(o);
    require(is_sequence(o) && PySequence_Fast_GET_SIZE(o) == sizes[depth], "tensor", "data", ErrorKind::Value,
            "the data changed while it was read");
    const std::int64_t n = sizes[depth];
    for (std::int64_t i = 0; i < n; ++i) {
      require(PySequence_Fast_GET_SIZE(o) == n, "tensor", "data", ErrorKind::Value,
              "the data changed while it was read");
      fill(PySequence_Fast_ITEMS(o)[i], depth + 1);
    }
  }
};

// Lists inside which some level is a range or an array are rebuilt with plain lists; depth is limited against
// self-containing lists.
PyObject* plain_lists(PyObject* o, int depth) {
  require(depth <= kMaxDims, "tensor", "data", ErrorKind::Shape, "expected lists nested at most ", kMaxDims, " deep");
  if (is_tensor(o) || PyFloat_Check(o) || PyLong_Check(o)) return Py_NewRef(o);
  if (is_array(o)) return wrap(tensor_from_array(o));
  if (!is_sequence(o) && !is_other_sequence(o)) return Py_NewRef(o);
  Object list = Object::checked(PySequence_List(o));
  const Py_ssize_t n = PyList_GET_SIZE(list.get());
  for (Py_ssize_t i = 0; i < n; ++i) {
    PyObject* item = PyList_GET_ITEM(list.get(), i);
    if (PyFloat_CheckExact(item) || PyLong_CheckExact(item)) continue;
    PyObject* plain = plain_lists(item, depth + 1);
    if (PyList_SetItem(list.get(), i, plain) < 0) throw PythonError{};
  }
  return list.release();
}

Tensor placed(const Tensor& t, std::optional<Device> device) { return device ? ops::to_device(t, *device) : t; }

template <class T, class Make>
PyObject* row_list(const char* p, const Dims& sizes, const Dims& strides, int axis, Make make) {
  if (axis == sizes.ndim()) {
    if constexpr (std::is_same_v<T, bool>)
      return make(*p != 0);  // a byte from elsewhere need not be 0 or 1
    else
      return make(*reinterpret_cast<const T*>(p));
  }
  Object list = Object::checked(PyList_New(sizes[axis]));
  for (std::int64_t i = 0; i < sizes[axis]; ++i) {
    PyObject* v =
        row_list<T>(p + static_cast<std::ptrdiff_t>(i * strides[axis]) * static_cast<std::ptrdiff_t>(sizeof(T)), sizes,
                    strides, axis + 1, make);
    if (!v) throw PythonError{};
    PyList_SET_ITEM(list.get(), i, v);
  }
  return list.release();
}

}  // namespace

Tensor tensor_from_array(PyObject* array) {
  const Object module = Object::checked(PyImport_ImportModule("pydlx._namespace"));
  const Object t = Object::checked(PyObject_CallMethod(module.get(), "_from_array", "O", array));
  return as_tensor(t.get());
}

Tensor tensor_from_data(PyObject* data, std::optional<DType> dtype, std::optional<Device> device) {
  if (is_tensor(data)) {
    const Tensor t = detach(as_tensor(data));
    const DType want = dtype.value_or(t.dtype());
    return placed(t.dtype() == want ? ops::clone(t) : ops::to_dtype(t, want), device);
  }
  // Data without NumPy parts goes straight to the parser; anything else is rewritten as plain lists of numbers and
  // tensors.
  Object plain(Py_NewRef(data));
  bool rewritten = false;
  if (!PyFloat_Check(data) && !PyLong_Check(data)) {
    PyObject* o = data;
    int depth = 0;
    while (is_sequence(o) && PySequence_Fast_GET_SIZE(o) > 0 && depth++ <= kMaxDims) o = PySequence_Fast_ITEMS(o)[0];
    rewritten = !(PyFloat_Check(o) || PyLong_Check(o) || is_tensor(o) || is_sequence(o));
    if (rewritten) plain = Object(plain_lists(data, 0));
  }
  if (is_tensor(plain.get())) return tensor_from_data(plain.get(), dtype, device);
  Parser p;
  p.measure(plain.get());
  if (!p.empty_data() || p.sizes.size() > 0) p.scan(plain.get(), 0);
  p.dtype = dtype.value_or(p.inferred());
  Tensor t = empty(p.sizes, p.dtype);
  p.out = static_cast<char*>(t.data());
  if (t.numel() > 0) p.fill(plain.get(), 0);
  return placed(t, device.value_or(default_device()));
}

Object to_list(const Tensor& t) {
  if (!t.is_cpu()) return to_list(ops::to_device(detach(t), {}));
  const char* p = static_cast<const char*>(t.data());
  const auto list = [&]<class T>(T, auto make) {
    return Object::checked(row_list<T>(p, t.sizes(), t.strides(), 0, make));
  };
  const auto integer = [](auto v) { return PyLong_FromLongLong(v); };
  const auto real = [](auto v) { return PyFloat_FromDouble(static_cast<double>(v)); };
  const auto half = [](auto v) { return PyFloat_FromDouble(static_cast<double>(static_cast<float>(v))); };
  switch (t.dtype()) {
    case DType::Bool:
      return list(bool{}, [](bool v) { return PyBool_FromLong(v); });
    case DType::UInt8:
      return list(std::uint8_t{}, integer);
    case DType::Int8:
      return list(std::int8_t{}, integer);
    case DType::Int16:
      return list(std::int16_t{}, integer);
    case DType::Int32:
      return list(std::int32_t{}, integer);
    case DType::Int64:
      return list(std::int64_t{}, integer);
    case DType::Float16:
      return list(Half{}, half);
    case DType::BFloat16:
      return list(BFloat16{}, half);
    case DType::Float32:
      return list(float{}, real);
    case DType::Float64:
      return list(double{}, real);
  }
  return {};
}

}  // namespace pydlx::bind
