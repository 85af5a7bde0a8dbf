#include "bind/indexing.h"

#include <optional>

#include "bind/data.h"
#include "bind/errors.h"
#include "ops/elementwise.h"
#include "ops/index.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::bind {

namespace {

constexpr const char* kOp = "index";

std::int64_t as_index(PyObject* o) {
  const Object n = Object::checked(PyNumber_Index(o));
  int overflow = 0;
  const long long v = PyLong_AsLongLongAndOverflow(n.get(), &overflow);
  require(!overflow, kOp, "", ErrorKind::Index, "expected an index that fits 64 bits");
  return v;
}

// One entry of a key, classified before anything is done so that an ellipsis knows how many axes the others take.
struct Entry {
  enum class Kind { integer, slice, none, ellipsis, truth, tensor } kind;
  std::int64_t value = 0;  // integer, truth
  Tensor tensor;
  Py_ssize_t start = 0, stop = 0, step = 1;  // slice
};

bool is_mask(const Tensor& t) { return t.dtype() == DType::Bool || t.dtype() == DType::UInt8; }

Entry classify_tensor(const Tensor& t) {
  if (t.ndim() > 0) return {Entry::Kind::tensor, 0, t};
  require(!is_floating(t.dtype()), kOp, "", ErrorKind::Index, "expected integers or bools as an index, got a ",
          t.dtype(), " tensor");
  const std::int64_t v = scalar_of(t).to_int();
  return {is_mask(t) ? Entry::Kind::truth : Entry::Kind::integer, v, {}};
}

Entry classify(PyObject* k) {
  using Kind = Entry::Kind;
  if (PySlice_Check(k)) {
    Entry e{Kind::slice, 0, {}};
    if (PySlice_Unpack(k, &e.start, &e.stop, &e.step) < 0) throw PythonError{};
    require(e.step > 0, kOp, "", ErrorKind::Value, "expected a positive slice step, got ",
            static_cast<std::int64_t>(e.step), "; use flip()");
    return e;
  }
  if (k == Py_None) return {Kind::none, 0, {}};
  if (k == Py_Ellipsis) return {Kind::ellipsis, 0, {}};
  if (PyBool_Check(k)) return {Kind::truth, k == Py_True, {}};
  if (is_tensor(k)) return classify_tensor(as_tensor(k));
  if (PyLong_Check(k)) return {Kind::integer, as_index(k), {}};
  if (is_array(k)) return classify_tensor(tensor_from_array(k));
  if (PyIndex_Check(k)) return {Kind::integer, as_index(k), {}};
  if (PySequence_Check(k) && !PyUnicode_Check(k) && !PyBytes_Check(k)) {
    Tensor t = tensor_from_data(k, std::nullopt, std::nullopt);
    if (t.numel() == 0 && is_floating(t.dtype())) t = empty(t.sizes(), DType::Int64);  // x[[]]
    return classify_tensor(t);
  }
  fail(kOp, "", ErrorKind::Index, "expected integers, slices, None, ..., bools, lists or integer tensors, got ",
       Py_TYPE(k)->tp_name);
}

std::int64_t axes_taken(const Entry& e) {
  switch (e.kind) {
    case Entry::Kind::none:
    case Entry::Kind::ellipsis:
    case Entry::Kind::truth:
      return 0;
    case Entry::Kind::tensor:
      return is_mask(e.tensor) ? e.tensor.ndim() : 1;
    default:
      return 1;
  }
}

// Builds the view that the basic part of a key selects, axis by axis, without intermediate tensors; advanced indices
// are collected against the axes of that view. The whole key is converted before the tensor's geometry is looked at:
// converting runs Python code (__index__, sequences), which may give the tensor other data.
class Key {
 public:
  Key(const Tensor& x, PyObject* key) : x_(x) {
    PyObject* const* items = &key;
    Py_ssize_t n = 1;
    if (PyTuple_Check(key)) {
      items = PySequence_Fast_ITEMS(key);
      n = PyTuple_GET_SIZE(key);
    }
    std::vector<Entry> entries;
    entries.reserve(static_cast<std::size_t>(n));
    std::int64_t taken = 0;
    int ellipses = 0;
    for (Py_ssize_t i = 0; i < n; ++i) {
      entries.push_back(classify(items[i]));
      taken += axes_taken(entries.back());
      ellipses += entries.back().kind == Entry::Kind::ellipsis;
    }
    w_.offset = x.offset();
    dense_ = contiguous_strides(x.sizes());
    require(ellipses <= 1, kOp, "", ErrorKind::Index, "expected at most one ellipsis");
    require(taken <= x.ndim(), kOp, "", ErrorKind::Index, "too many indices: the tensor has ", x.ndim(),
            " dimensions, got ", taken);
    for (const Entry& e : entries) {
      if (e.kind == Entry::Kind::ellipsis)
        keep(static_cast<int>(x.ndim() - taken));
      else
        apply(e);
    }
    keep(x.ndim() - axis_);
    require(w_.sizes.ndim() <= kMaxDims, kOp, "", ErrorKind::Index, "expected at most ", kMaxDims,
            " dimensions in the result");
    // An empty selection may name an offset past the end; keep it inside the storage.
    for (auto s : w_.sizes)
      if (s == 0) w_.offset = x.offset(), w_.dense_offset = 0;
  }

  bool advanced() const { return !indices_.empty(); }
  const TensorList& indices() const { return indices_; }
  bool whole() const { return w_.sizes == x_.sizes() && w_.strides == x_.strides() && w_.offset == x_.offset(); }
  Tensor view() { return ops::window("slice", x_, std::move(w_)); }

 private:
  void add_axis(std::int64_t size, std::int64_t stride, std::int64_t dense) {
    w_.sizes.push_back(size);
    w_.strides.push_back(stride);
    w_.dense_strides.push_back(dense);
  }
  void keep(int n) {
    for (int i = 0; i < n; ++i, ++axis_) add_axis(x_.sizes()[axis_], x_.strides()[axis_], dense_[axis_]);
  }
  void apply(const Entry& e) {
    switch (e.kind) {
      case Entry::Kind::integer: {
        const std::int64_t n = x_.sizes()[axis_];
        require(e.value >= -n && e.value < n, "select", "index", ErrorKind::Index, "expected an index in [", -n, ", ",
                n - 1, "] for axis ", axis_, " of shape ", x_.sizes(), ", got ", e.value);
        const std::int64_t i = e.value < 0 ? e.value + n : e.value;
        w_.offset += i * x_.strides()[axis_];
        w_.dense_offset += i * dense_[axis_];
        ++axis_;
        break;
      }
      case Entry::Kind::slice: {
        Py_ssize_t start = e.start, stop = e.stop, step = e.step;
        const std::int64_t n = x_.sizes()[axis_];
        const std::int64_t count = PySlice_AdjustIndices(n, &start, &stop, step);
        if (count <= 1) step = 1;  // keeps strides small
        if (count > 0) {
          w_.offset += start * x_.strides()[axis_];
          w_.dense_offset += start * dense_[axis_];
        }
        add_axis(count, x_.strides()[axis_] * step, dense_[axis_] * step);
        ++axis_;
        break;
      }
      case Entry::Kind::none: {
        const bool last = axis_ >= x_.ndim();
        add_axis(1, last ? 1 : x_.sizes()[axis_] * x_.strides()[axis_], last ? 1 : x_.sizes()[axis_] * dense_[axis_]);
        break;
      }
      case Entry::Kind::truth: {  // a new axis of size 1, kept or dropped
        const Tensor index = ops::full({e.value ? 1 : 0}, 0, DType::Int64, x_.device());
        indices_.resize(static_cast<std::size_t>(index_slots()));
        add_axis(1, 1, 1);
        indices_.push_back(index);
        break;
      }
      case Entry::Kind::tensor: {
        indices_.resize(static_cast<std::size_t>(index_slots()));
        indices_.push_back(e.tensor);
        keep(static_cast<int>(axes_taken(e)));
        break;
      }
      case Entry::Kind::ellipsis:
        break;
    }
  }
  // Entries of the index list so far, counting a mask as one entry for all its axes.
  std::int64_t index_slots() const {
    std::int64_t extra = 0;
    for (const Tensor& t : indices_)
      if (t.defined() && is_mask(t)) extra += t.ndim() - 1;
    return w_.sizes.ndim() - extra;
  }

  const Tensor& x_;
  Dims dense_;
  ops::Window w_;
  TensorList indices_;
  int axis_ = 0;
};

// x[i] and x[a:b] without the general machinery.
bool simple(const Tensor& x, PyObject* key, Tensor& out) {
  if (PyLong_CheckExact(key) && x.ndim() > 0) {
    int overflow = 0;
    const long long i = PyLong_AsLongLongAndOverflow(key, &overflow);
    if (overflow) return false;
    out = ops::select(x, 0, i);
    return true;
  }
  return false;
}

Tensor value_of(PyObject* value) {
  bool ok = true;
  if (is_tensor(value)) return as_tensor(value);
  if (PyComplex_Check(value)) ok = false;
  Tensor v = ok && (PyFloat_Check(value) || PyLong_Check(value)) ? operand(value, ok) : Tensor();
  if (v.defined()) return v;
  if (is_array(value)) return tensor_from_array(value);
  if (PyList_Check(value) || PyTuple_Check(value)) return tensor_from_data(value, std::nullopt, std::nullopt);
  fail("setitem", "value", ErrorKind::Type, "expected a tensor, a number or an array, got ", Py_TYPE(value)->tp_name);
}

}  // namespace

PyObject* get_item(const Tensor& x, PyObject* key) {
  Tensor out;
  if (simple(x, key, out)) return wrap(out);
  if (is_tensor(key)) {  // x[index], x[mask]
    const Tensor k = as_tensor(key);
    if (k.ndim() > 0 && x.ndim() > 0) return wrap(ops::index(x, {k}));
  }
  Key k(x, key);
  if (!k.advanced()) return wrap(k.view());
  return wrap(ops::index(k.whole() ? x : k.view(), k.indices()));
}

void set_item(Tensor x, PyObject* key, PyObject* value) {
  Tensor v = value_of(value);
  require_number_fits("setitem", "value", v, x.dtype());
  if (is_tensor(key)) {
    const Tensor k = as_tensor(key);
    if (k.ndim() > 0 && x.ndim() > 0) {
      ops::index_put_(x, {k}, v, false);
      return;
    }
  }
  Tensor target;
  if (!simple(x, key, target)) {
    Key k(x, key);
    if (k.advanced()) {
      target = k.whole() ? x : k.view();
      ops::index_put_(target, k.indices(), v, false);
      return;
    }
    target = k.whole() ? x : k.view();
  }
  // Leading axes of size 1 of the value beyond the target's rank are dropped, as in PyTorch.
  if (v.ndim() > target.ndim()) {
    int extra = 0;
    while (v.ndim() - extra > target.ndim() && v.sizes()[extra] == 1) ++extra;
    if (extra > 0)
      v = ops::reshape(v, Dims(v.sizes().begin() + extra, v.sizes().size() - static_cast<std::size_t>(extra)));
  }
  ops::copy_(target, v);
}

}  // namespace pydlx::bind
