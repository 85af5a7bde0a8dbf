#include "bind/signature.h"

#include <cmath>
#include <cstdlib>
#include <map>
#include <stdexcept>

#include "bind/autocast.h"

namespace pydlx::bind {

namespace {

std::string strip(const std::string& s) {
  const auto b = s.find_first_not_of(" \n"), e = s.find_last_not_of(" \n");
  return b == std::string::npos ? "" : s.substr(b, e - b + 1);
}

[[noreturn]] void bad_signature(const std::string& text, const std::string& why) {
  throw std::runtime_error("bad op signature: " + text + ": " + why);
}

PyObject* parse_default(const std::string& v, const std::string& text) {
  if (v == "None") Py_RETURN_NONE;
  if (v == "True") Py_RETURN_TRUE;
  if (v == "False") Py_RETURN_FALSE;
  if (v.size() >= 2 && v[0] == '\'')
    return PyUnicode_FromStringAndSize(v.data() + 1, static_cast<Py_ssize_t>(v.size()) - 2);
  if (v == "()") return PyTuple_New(0);
  if (v == "inf" || v == "-inf") return PyFloat_FromDouble(v[0] == '-' ? -HUGE_VAL : HUGE_VAL);
  char* end = nullptr;
  if (v.find_first_of(".e") == std::string::npos) {
    const long long i = std::strtoll(v.c_str(), &end, 10);
    if (*end == 0) return PyLong_FromLongLong(i);
  }
  const double d = std::strtod(v.c_str(), &end);
  if (*end != 0) bad_signature(text, "default " + v);
  return PyFloat_FromDouble(d);
}

Param parse_param(const std::string& text, const std::string& whole) {
  const auto eq = text.find('=');
  const std::string left = strip(text.substr(0, eq));
  const auto space = left.rfind(' ');
  if (space == std::string::npos) bad_signature(whole, text);
  Param p;
  p.type = strip(left.substr(0, space));
  p.name = left.substr(space + 1);
  std::string t = p.type;
  if (t.back() == '?') {
    p.optional = true;
    t.pop_back();
  }
  static const std::map<std::string, Kind> kinds = {
      {"Tensor", Kind::Tensor}, {"Operand", Kind::Operand}, {"Tensor[]", Kind::TensorList}, {"Number", Kind::Number},
      {"int", Kind::Int},       {"float", Kind::Float},     {"bool", Kind::Bool},           {"str", Kind::Str},
      {"dtype", Kind::DType},   {"device", Kind::Device},   {"Generator", Kind::Generator}, {"object", Kind::Object}};
  if (t == "Tensor[*]") {
    p.kind = Kind::TensorList;
    p.variadic = true;
  } else if (t.rfind("int[", 0) == 0) {
    p.kind = Kind::IntList;
    const std::string n = t.substr(4, t.size() - 5);
    p.variadic = n == "*";
    p.single = n == "+";
    if (!p.variadic && !p.single && !n.empty()) p.repeat = std::stoi(n);
  } else if (auto it = kinds.find(t); it != kinds.end()) {
    p.kind = it->second;
  } else {
    bad_signature(whole, "type " + t);
  }
  if (eq != std::string::npos) p.fallback = parse_default(strip(text.substr(eq + 1)), whole);
  p.interned = PyUnicode_InternFromString(p.name.c_str());
  return p;
}

// Splits at top-level commas.
std::vector<std::string> split(const std::string& s) {
  std::vector<std::string> out;
  int depth = 0;
  std::string now;
  for (char ch : s) {
    if (ch == '(' || ch == '[') ++depth;
    if (ch == ')' || ch == ']') --depth;
    if (ch == ',' && depth == 0) {
      out.push_back(strip(now));
      now.clear();
    } else {
      now += ch;
    }
  }
  if (!strip(now).empty()) out.push_back(strip(now));
  return out;
}

PyTypeObject* named_tuple(const std::string& op, const std::string& returns) {
  // Kept alive for the life of the process: the type object points into these strings.
  auto* names = new std::vector<std::string>;
  for (const auto& r : split(returns.substr(1, returns.size() - 2))) {
    const auto space = r.rfind(' ');
    if (space == std::string::npos) return nullptr;
    names->push_back(r.substr(space + 1));
  }
  auto* fields = new std::vector<PyStructSequence_Field>;
  for (const auto& n : *names) fields->push_back({n.c_str(), nullptr});
  fields->push_back({nullptr, nullptr});
  auto* type_name = new std::string("pydlx.return_types." + op);
  PyStructSequence_Desc desc{type_name->c_str(), nullptr, fields->data(), static_cast<int>(names->size())};
  return PyStructSequence_NewType(&desc);
}

}  // namespace

Schema parse_signature(const OpRow& row) {
  Schema s;
  s.text = row.signature;
  s.doc = row.doc;
  s.impl = row.impl;
  const auto open = s.text.find('('), arrow = s.text.find("->");
  if (open == std::string::npos || arrow == std::string::npos) bad_signature(s.text, "expected name(...) -> type");
  s.name = s.text.substr(0, open);
  s.casts = cast_policies(s.name);
  const auto close = s.text.rfind(')', arrow);
  bool keyword_only = false;
  for (const auto& part : split(s.text.substr(open + 1, close - open - 1))) {
    if (part == "*") {
      keyword_only = true;
      continue;
    }
    Param p = parse_param(part, s.text);
    p.keyword_only = keyword_only;
    if (!keyword_only) ++s.positional;
    s.params.push_back(std::move(p));
  }
  const std::string returns = strip(s.text.substr(arrow + 2));
  if (returns.front() == '(') s.result_type = named_tuple(s.name, returns);
  s.has_out = row.where & kOut;
  return s;
}

}  // namespace pydlx::bind
