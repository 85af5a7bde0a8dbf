#include "bind/schema.h"

#include <structmember.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>

#include "autograd/mode.h"
#include "autograd/node.h"
#include "bind/autocast.h"
#include "bind/signature.h"
#include "core/operation.h"
#include "ops/elementwise.h"
#include "ops/out_offer.h"
#include "ops/pointwise.h"

namespace pydlx::bind {

namespace {

constexpr int kMaxParams = 32;

struct OpObject {
  PyObject_HEAD vectorcallfunc vectorcall;
  std::vector<Schema>* overloads;
  PyObject* name;
};

PyTypeObject* g_op_type = nullptr;
std::map<std::string, OpObject*, std::less<>>& op_table() {
  static auto* t = new std::map<std::string, OpObject*, std::less<>>;
  return *t;
}

bool is_number(PyObject* o) {
  return PyFloat_Check(o) || PyLong_Check(o) ||
         (!is_tensor(o) && PyObject_HasAttrString(o, "dtype") && PyNumber_Check(o) && !PySequence_Check(o));
}
bool is_int(PyObject* o) { return PyIndex_Check(o) && !PyBool_Check(o) && !is_tensor(o); }

// Cheap test used to choose among overloads.
bool accepts(const Param& p, PyObject* o) {
  if (o == Py_None) return p.optional;
  DType dtype;
  Device device;
  switch (p.kind) {
    case Kind::Tensor:
      return is_tensor(o);
    case Kind::Operand:
      return is_tensor(o) || is_number(o);
    case Kind::TensorList: {
      if (!PyTuple_Check(o) && !PyList_Check(o)) return false;
      return PySequence_Fast_GET_SIZE(o) == 0 || is_tensor(PySequence_Fast_ITEMS(o)[0]);
    }
    case Kind::Number:
      return is_number(o);
    case Kind::Int:
      return is_int(o) || is_int_tensor(o);
    case Kind::Float:
      return is_number(o);
    case Kind::Bool:
      return PyBool_Check(o);
    case Kind::Str:
      return PyUnicode_Check(o);
    case Kind::IntList:
      return (PyTuple_Check(o) || PyList_Check(o)) || ((p.repeat || p.variadic || p.single) && is_int(o));
    case Kind::DType:
      return dtype_from(o, dtype);
    case Kind::Device:
      return PyUnicode_Check(o) || device_from(o, device);
    case Kind::Generator:
      return generator_from(o) != nullptr;
    case Kind::Object:
      return true;
  }
  return false;
}

// A keyword for a message; one that is not valid Unicode (a lone surrogate) has no text.
std::string keyword_text(PyObject* key) {
  const char* text = PyUnicode_AsUTF8(key);
  if (!text) PyErr_Clear();
  return text ? text : "?";
}

struct Bound {
  PyObject* slots[kMaxParams];
  PyObject* temporary = nullptr;  // tuple made for int[*]
  PyObject* out = nullptr;
  ~Bound() { Py_XDECREF(temporary); }
};

// Puts arguments into parameter slots. With `strict` a mismatch throws, else it returns false.
bool bind_arguments(const Schema& s, PyObject* const* args, Py_ssize_t n, PyObject* kwnames, Bound& b, bool strict) {
  const int count = static_cast<int>(s.params.size());
  std::fill_n(b.slots, count, nullptr);
  Py_ssize_t take = n;
  for (Py_ssize_t i = 0; i < n && i < s.positional; ++i) {
    const Param& p = s.params[i];
    const auto belongs = [&p](PyObject* o) {
      return p.kind == Kind::TensorList ? is_tensor(o) : is_int(o) || is_int_tensor(o);
    };
    if (p.variadic && belongs(args[i])) {
      Py_ssize_t end = i;
      while (end < n && belongs(args[end])) ++end;
      b.temporary = PyTuple_New(end - i);
      if (!b.temporary) throw PythonError{};
      for (Py_ssize_t k = i; k < end; ++k) PyTuple_SET_ITEM(b.temporary, k - i, Py_NewRef(args[k]));
      b.slots[i] = b.temporary;
      take = i;
      if (end != n) {
        if (!strict) return false;
        fail(s.name, p.name, ErrorKind::Type,
             p.kind == Kind::TensorList ? "expected tensors, got " : "expected integers, got ",
             Py_TYPE(args[end])->tp_name);
      }
      break;
    }
    b.slots[i] = args[i];
  }
  if (take > s.positional) {
    if (!strict) return false;
    fail(s.name, "", ErrorKind::Type, "expected at most ", s.positional, " positional arguments, got ",
         static_cast<std::int64_t>(n), "; signature: ", s.text);
  }
  const Py_ssize_t kw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  for (Py_ssize_t k = 0; k < kw; ++k) {
    PyObject* key = PyTuple_GET_ITEM(kwnames, k);
    PyObject* value = args[n + k];
    int at = -1;
    for (int i = 0; i < count && at < 0; ++i)
      if (s.params[i].interned == key) at = i;
    for (int i = 0; i < count && at < 0; ++i)
      if (PyUnicode_Compare(s.params[i].interned, key) == 0) at = i;
    if (at < 0 && s.has_out && PyUnicode_CompareWithASCIIString(key, "out") == 0) {
      b.out = value == Py_None ? nullptr : value;
      continue;
    }
    // NumPy's spellings of the two most common arguments, as PyTorch accepts them.
    if (at < 0 && PyUnicode_CompareWithASCIIString(key, "axis") == 0)
      for (int i = 0; i < count && at < 0; ++i)
        if (s.params[i].name == "dim") at = i;
    if (at < 0 && PyUnicode_CompareWithASCIIString(key, "keepdims") == 0)
      for (int i = 0; i < count && at < 0; ++i)
        if (s.params[i].name == "keepdim") at = i;
    if (at < 0 && PyUnicode_CompareWithASCIIString(key, "x") == 0 && count > 0 && s.params[0].name == "input") at = 0;
    if (at < 0 || b.slots[at]) {
      if (!strict) return false;
      fail(s.name, "", ErrorKind::Type, at < 0 ? "unexpected keyword argument '" : "argument given twice: '",
           keyword_text(key), "'; signature: ", s.text);
    }
    b.slots[at] = value;
  }
  for (int i = 0; i < count; ++i) {
    if (b.slots[i]) continue;
    b.slots[i] = s.params[i].fallback;
    if (!b.slots[i]) {
      if (!strict) return false;
      fail(s.name, s.params[i].name, ErrorKind::Type, "missing argument; signature: ", s.text);
    }
  }
  if (strict) return true;
  for (int i = 0; i < count; ++i)
    if (b.slots[i] != s.params[i].fallback && !accepts(s.params[i], b.slots[i])) return false;
  return true;
}

// `out` as an op may write it before any check of the result: plain row-major memory that takes no part in gradients
// and that no argument overlaps. Else an undefined tensor.
Tensor offered_out(const Schema& s, const Bound& b) {
  if (!b.out || !is_tensor(b.out)) return {};
  const Tensor o = as_tensor(b.out);
  const TensorImpl& impl = *o.impl();
  if (o.numel() == 0 || !o.contiguous_layout() || impl.storage->read_only || impl.inference || o.requires_grad() ||
      impl.base)
    return {};
  for (std::size_t i = 0; i < s.params.size(); ++i) {
    PyObject* a = b.slots[i];
    if (a == Py_None || PyFloat_Check(a) || PyLong_Check(a) || PyUnicode_Check(a)) continue;
    if (!is_tensor(a)) return {};
    const Tensor t = as_tensor(a);
    if (!t.defined()) continue;
    if ((GradMode::enabled() && t.requires_grad()) || t.data() == o.data() || partially_overlaps(o, t)) return {};
  }
  return detach(o);
}

// out=: compute, then store with the checks PyTorch makes. Computing first makes any overlap between out and the inputs
// harmless.
PyObject* store_out(const Schema& s, PyObject* result, PyObject* out) {
  const Object owner(result);
  auto store_one = [&](PyObject* from, PyObject* to) {
    require(is_tensor(to), s.name, "out", ErrorKind::Type, "expected a tensor, got ", Py_TYPE(to)->tp_name);
    const Tensor r = as_tensor(from);
    Tensor o = as_tensor(to);
    require(
        !(GradMode::enabled() && (r.requires_grad() || o.requires_grad())), s.name, "out", ErrorKind::Gradient,
        "expected no gradients: out= does not support automatic differentiation; use the returned result or no_grad()");
    require(dtype_category(r.dtype()) <= dtype_category(o.dtype()), s.name, "out", ErrorKind::DType,
            "expected a dtype that can hold ", r.dtype(), ", got ", o.dtype());
    // An empty out is given the right size, as in PyTorch.
    if (o.numel() == 0 && r.numel() > 0 && !o.impl()->base && !o.requires_grad()) {
      Tensor fresh = empty(r.sizes(), o.dtype(), o.device());
      const Alone alone(s.name.c_str());
      o.impl()->storage = fresh.impl()->storage;
      o.impl()->offset = 0;
      o.impl()->set_geometry(fresh.sizes(), fresh.strides());
    }
    require(o.sizes() == r.sizes(), s.name, "out", ErrorKind::Shape, "expected shape ", r.sizes(), ", got ", o.sizes());
    const GradModeGuard off(false);
    if (r.data() == o.data() && r.dtype() == o.dtype() && r.strides() == o.strides()) {  // it took the offer
      check_inplace(o, "copy_");
      bump_version(o, "copy_");
    } else {
      ops::copy_(o, r);
    }
  };
  if (is_tensor(result)) {
    store_one(result, out);
    return Py_NewRef(out);
  }
  require(PyTuple_Check(out) && PyTuple_Check(result) && PyTuple_GET_SIZE(out) == PyTuple_GET_SIZE(result), s.name,
          "out", ErrorKind::Type, "expected a tuple with one tensor per result");
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(out); ++i)
    store_one(PyTuple_GET_ITEM(result, i), PyTuple_GET_ITEM(out, i));
  return Py_NewRef(out);
}

bool finite(PyObject* o) {
  if (is_tensor(o)) return !ops::has_nonfinite(as_tensor(o));
  if (PyFloat_Check(o)) return std::isfinite(PyFloat_AS_DOUBLE(o));
  if (PyTuple_Check(o) || PyList_Check(o))
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i)
      if (!finite(PySequence_Fast_ITEMS(o)[i])) return false;
  return true;
}

[[noreturn]] void no_overload(const OpObject& op, PyObject* const* args, Py_ssize_t n, PyObject* kwnames) {
  std::string got;
  const Py_ssize_t kw = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
  for (Py_ssize_t i = 0; i < n + kw; ++i) {
    if (i) got += ", ";
    if (i >= n) got += keyword_text(PyTuple_GET_ITEM(kwnames, i - n)) + "=";
    got += Py_TYPE(args[i])->tp_name;
  }
  std::string options;
  for (const auto& s : *op.overloads) options += "\n  " + s.text;
  fail((*op.overloads)[0].name, "", ErrorKind::Type, "no overload takes (", got, "); expected one of:", options);
}

PyObject* op_vectorcall(PyObject* self, PyObject* const* args, size_t nargsf, PyObject* kwnames) {
  return guarded([&]() -> PyObject* {
    auto& op = *reinterpret_cast<OpObject*>(self);
    const Py_ssize_t n = PyVectorcall_NARGS(nargsf);
    const auto& overloads = *op.overloads;
    for (const Schema& s : overloads) {
      Bound b;
      if (!bind_arguments(s, args, n, kwnames, b, overloads.size() == 1)) continue;
      const NamedOperation named(s.name.c_str(), false);
      std::vector<Object> casts;
      if (s.casts.any() && autocast_active() && !b.out) [[unlikely]]
        cast_arguments(s, b.slots, casts);
      std::optional<OutOffer> offer;
      if (b.out) offer.emplace(s.name, offered_out(s, b));
      PyObject* r = s.impl(Call{s, b.slots});
      if (r && anomaly_checks_nan()) check_finite(s.name, r, b.slots, static_cast<Py_ssize_t>(s.params.size()));
      return r && b.out ? store_out(s, r, b.out) : r;
    }
    no_overload(op, args, n, kwnames);
  });
}

PyObject* op_descr_get(PyObject* self, PyObject* obj, PyObject*) {
  return obj && obj != Py_None ? PyMethod_New(self, obj) : Py_NewRef(self);
}

PyObject* op_repr(PyObject* self) {
  return PyUnicode_FromFormat("<pydlx op %U>", reinterpret_cast<OpObject*>(self)->name);
}

PyObject* op_get_name(PyObject* self, void*) { return Py_NewRef(reinterpret_cast<OpObject*>(self)->name); }
PyObject* op_get_module(PyObject*, void*) { return PyUnicode_FromString("pydlx._C"); }
PyObject* op_get_doc(PyObject* self, void*) {
  std::string doc;
  for (const auto& s : *reinterpret_cast<OpObject*>(self)->overloads) doc += s.text + "\n";
  for (const auto& s : *reinterpret_cast<OpObject*>(self)->overloads)
    if (!s.doc.empty()) doc += "\n" + s.doc + "\n";
  return PyUnicode_FromStringAndSize(doc.data(), static_cast<Py_ssize_t>(doc.size()));
}
PyObject* op_get_signatures(PyObject* self, void*) {
  return guarded([&]() -> PyObject* {
    const auto& overloads = *reinterpret_cast<OpObject*>(self)->overloads;
    Object list = Object::checked(PyList_New(0));
    for (const auto& s : overloads) {
      const std::string text = s.text + (s.has_out ? " [out]" : "");
      const Object item =
          Object::checked(PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
      if (PyList_Append(list.get(), item.get()) < 0) throw PythonError{};
    }
    return list.release();
  });
}
PyObject* op_reduce(PyObject* self, PyObject*) { return Py_NewRef(reinterpret_cast<OpObject*>(self)->name); }

PyGetSetDef op_getset[] = {{"__name__", op_get_name, nullptr, nullptr, nullptr},
                           {"__qualname__", op_get_name, nullptr, nullptr, nullptr},
                           {"__module__", op_get_module, nullptr, nullptr, nullptr},
                           {"__doc__", op_get_doc, nullptr, nullptr, nullptr},
                           {"__signatures__", op_get_signatures, nullptr, nullptr, nullptr},
                           {nullptr, nullptr, nullptr, nullptr, nullptr}};
PyMethodDef op_methods[] = {{"__reduce__", op_reduce, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
PyMemberDef op_members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(OpObject, vectorcall), READONLY, nullptr},
                            {nullptr, 0, 0, 0, nullptr}};
PyType_Slot op_slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                          {Py_tp_descr_get, reinterpret_cast<void*>(op_descr_get)},
                          {Py_tp_repr, reinterpret_cast<void*>(op_repr)},
                          {Py_tp_getset, op_getset},
                          {Py_tp_methods, op_methods},
                          {Py_tp_members, op_members},
                          {0, nullptr}};
PyType_Spec op_spec = {
    "pydlx._C.Op", sizeof(OpObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    op_slots};

}  // namespace

void check_finite(std::string_view op, PyObject* result, PyObject* const* args, Py_ssize_t n) {
  if (finite(result)) return;
  for (Py_ssize_t i = 0; i < n; ++i)
    if (!finite(args[i])) return;  // not the first: it came in
  const Object owner(result);
  fail(op, "", ErrorKind::Gradient, "anomaly detection: finite inputs gave NaN or infinity at ",
       describe_callsite(current_callsite()));
}

void OpRegistry::add(const std::vector<OpRow>& rows) {
  for (const auto& r : rows) schemas_.emplace_back(parse_signature(r), r.where);
}

void OpRegistry::finish(PyObject* m) {
  g_op_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&op_spec));
  if (!g_op_type) throw PythonError{};
  for (auto& [schema, where] : schemas_) {
    auto& slot = op_table()[schema.name];
    const bool first = !slot;
    if (first) {
      slot = PyObject_New(OpObject, g_op_type);
      if (!slot) throw PythonError{};
      slot->vectorcall = op_vectorcall;
      slot->overloads = new std::vector<Schema>;
      slot->name = PyUnicode_InternFromString(schema.name.c_str());
    }
    if (where & kHidden) hidden_.insert(schema.name);
    if (where & (kFunction | kHidden) && PyObject_SetAttr(m, slot->name, reinterpret_cast<PyObject*>(slot)) < 0)
      throw PythonError{};
    if (where & kMethod) {
      if (PyDict_SetItem(g_tensor_type->tp_dict, slot->name, reinterpret_cast<PyObject*>(slot)) < 0)
        throw PythonError{};
    }
    slot->overloads->push_back(std::move(schema));
  }
  PyType_Modified(g_tensor_type);
  schemas_.clear();
}

void OpRegistry::list_public(PyObject* m) const {
  const Object names = Object::checked(PyList_New(0));
  const Object all = Object::checked(PyObject_Dir(m));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(all.get()); ++i) {
    PyObject* name = PyList_GET_ITEM(all.get(), i);
    const std::string text = PyUnicode_AsUTF8(name);
    if (text[0] != '_' && !hidden_.count(text) && PyList_Append(names.get(), name) < 0) throw PythonError{};
  }
  if (PyObject_SetAttrString(m, "__all__", names.get()) < 0) throw PythonError{};
}

PyObject* call_op(const char* name, PyObject* const* args, Py_ssize_t n) {
  const auto it = op_table().find(std::string_view(name));
  if (it == op_table().end()) {
    PyErr_Format(PyExc_NotImplementedError, "[%s] this operation does not exist", name);
    return nullptr;
  }
  return op_vectorcall(reinterpret_cast<PyObject*>(it->second), args, static_cast<size_t>(n), nullptr);
}

}  // namespace pydlx::bind
