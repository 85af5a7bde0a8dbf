// Rows of the pooling ops. Signatures are those of nn.functional; return_indices changes the number of results, so
// these rows build their Python result themselves.
#include "bind/rows.h"
#include "ops/pool.h"

namespace pydlx::bind {

namespace {

PyObject* one_or_both(const Call& c, const std::pair<Tensor, Tensor>& r, bool both) {
  return both ? to_python(c, TensorList{r.first, r.second}) : wrap(r.first);
}

// (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
template <int axes>
PyObject* max_pool_row(const Call& c) {
  const Tensor x = parse_tensor(c, 0);
  const Dims kernel = parse_ints(c, 1), stride = parse_ints(c, 2), padding = parse_ints(c, 3),
             dilation = parse_ints(c, 4);
  const bool ceil_mode = parse_bool(c, 5);
  if (parse_bool(c, 6))
    return one_or_both(c, ops::max_pool_with_indices(axes, x, kernel, stride, padding, dilation, ceil_mode), true);
  return wrap(ops::max_pool(axes, x, kernel, stride, padding, dilation, ceil_mode));
}
template <int axes>
PyObject* max_pool_with_indices_row(const Call& c) {
  return one_or_both(c,
                     ops::max_pool_with_indices(axes, parse_tensor(c, 0), parse_ints(c, 1), parse_ints(c, 2),
                                                parse_ints(c, 3), parse_ints(c, 4), parse_bool(c, 5)),
                     true);
}

// avg_pool1d has no divisor_override.
template <int axes>
Tensor avg_pool_row(const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding, bool ceil_mode,
                    bool count_include_pad, std::optional<std::int64_t> divisor) {
  require(!divisor || *divisor != 0, "avg_pool", "divisor_override", ErrorKind::Value,
          "expected a number other than 0");
  return ops::avg_pool(axes, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor.value_or(0));
}
Tensor avg_pool1d_row(const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding, bool ceil_mode,
                      bool count_include_pad) {
  return ops::avg_pool(1, x, kernel, stride, padding, ceil_mode, count_include_pad, 0);
}

// An int, or a tuple whose entries may be None (keep the input's size).
Dims parse_size(const Call& c, std::size_t i, int axes) {
  PyObject* o = c.slots[i];
  const std::string& op = c.schema.name;
  auto entry = [&](PyObject* e) -> std::int64_t {
    if (e == Py_None) return -1;
    const long long v = PyIndex_Check(e) ? PyNumber_AsSsize_t(e, PyExc_OverflowError) : -2;
    if (PyErr_Occurred()) throw PythonError{};
    if (v < 0) fail(op, "output_size", ErrorKind::Value, "expected non-negative integers or None");
    return v;
  };
  if (!PyTuple_Check(o) && !PyList_Check(o)) return Dims::filled(axes, entry(o));
  const Py_ssize_t n = PySequence_Fast_GET_SIZE(o);
  if (n != 1 && n != axes)
    fail(op, "output_size", ErrorKind::Value, "expected one size or ", axes, ", got ", static_cast<std::int64_t>(n));
  Dims d;
  for (int k = 0; k < axes; ++k) {
    const Py_ssize_t at = n == 1 ? 0 : k;
    if (at >= PySequence_Fast_GET_SIZE(o))  // __index__ of an entry may shorten the list
      fail(op, "output_size", ErrorKind::Value, "expected a list that does not change while it is read");
    const Object e(Py_NewRef(PySequence_Fast_ITEMS(o)[at]));
    d.push_back(entry(e.get()));
  }
  return d;
}
template <int axes>
PyObject* adaptive_avg_row(const Call& c) {
  return wrap(ops::adaptive_avg_pool(axes, parse_tensor(c, 0), parse_size(c, 1, axes)));
}
template <int axes>
PyObject* adaptive_max_row(const Call& c) {
  return one_or_both(c, ops::adaptive_max_pool(axes, parse_tensor(c, 0), parse_size(c, 1, axes)), parse_bool(c, 2));
}

// (input, indices, kernel_size, stride, padding, output_size); the size may include batch and channel axes.
template <int axes>
Tensor max_unpool_row(const Tensor& x, const Tensor& indices, const Dims& kernel, const Dims& stride,
                      const Dims& padding, std::optional<Dims> size) {
  const Dims fallback = ops::unpool_size(axes, x, kernel, stride, padding);
  if (!size) return ops::max_unpool(axes, x, indices, fallback);
  Dims s = *size;
  while (s.ndim() > axes && s.ndim() <= axes + 2) s.erase(0);
  const char* op = axes == 1 ? "max_unpool1d" : axes == 2 ? "max_unpool2d" : "max_unpool3d";
  require(s.ndim() == axes, op, "output_size", ErrorKind::Value, "expected ", axes, " spatial sizes, got ", *size);
  const Dims& step = stride.empty() ? kernel : stride;
  for (int i = 0; i < axes; ++i)
    require(s[i] > checked_add(fallback[i], -step[i], op) && s[i] < checked_add(fallback[i], step[i], op), op,
            "output_size", ErrorKind::Value, "expected sizes within the stride ", step, " of ", fallback, ", got ", s);
  return ops::max_unpool(axes, x, indices, s);
}

constexpr const char* kMaxDoc =
    "Maximum over sliding windows of (N, C, spatial...) or (C, spatial...). stride defaults to kernel_size; padding "
    "counts as -inf; "
    "return_indices adds the flat position of each maximum in its plane. NaN wins.";
constexpr const char* kAvgDoc =
    "Average over sliding windows of (N, C, spatial...) or (C, spatial...). stride defaults to kernel_size. The "
    "divisor is the window "
    "including padding (count_include_pad) or without it, or divisor_override.";
constexpr const char* kAdaptiveDoc =
    "Pools to a given output size: window i runs from floor(i in / out) to ceil((i + 1) in / out). None keeps an axis' "
    "size.";
constexpr const char* kUnpoolDoc = "Puts values back at the positions max_pool reported; everything else is 0.";

}  // namespace

void bind_pool(OpRegistry& r) {
  r.add({
      {"max_pool1d(Tensor input, int[1] kernel_size, int[1]? stride=None, int[1] padding=0, int[1] dilation=1, bool "
       "ceil_mode=False, "
       "bool return_indices=False) -> Tensor",
       max_pool_row<1>, kFunction, kMaxDoc},
      {"max_pool2d(Tensor input, int[2] kernel_size, int[2]? stride=None, int[2] padding=0, int[2] dilation=1, bool "
       "ceil_mode=False, "
       "bool return_indices=False) -> Tensor",
       max_pool_row<2>, kFunction, kMaxDoc},
      {"max_pool3d(Tensor input, int[3] kernel_size, int[3]? stride=None, int[3] padding=0, int[3] dilation=1, bool "
       "ceil_mode=False, "
       "bool return_indices=False) -> Tensor",
       max_pool_row<3>, kFunction, kMaxDoc},
      {"max_pool1d_with_indices(Tensor input, int[1] kernel_size, int[1]? stride=None, int[1] padding=0, int[1] "
       "dilation=1, "
       "bool ceil_mode=False) -> Tensor",
       max_pool_with_indices_row<1>, kFunction, kMaxDoc},
      {"max_pool2d_with_indices(Tensor input, int[2] kernel_size, int[2]? stride=None, int[2] padding=0, int[2] "
       "dilation=1, "
       "bool ceil_mode=False) -> Tensor",
       max_pool_with_indices_row<2>, kHidden, kMaxDoc},
      {"max_pool3d_with_indices(Tensor input, int[3] kernel_size, int[3]? stride=None, int[3] padding=0, int[3] "
       "dilation=1, "
       "bool ceil_mode=False) -> Tensor",
       max_pool_with_indices_row<3>, kHidden, kMaxDoc},
      {"avg_pool1d(Tensor input, int[1] kernel_size, int[1]? stride=None, int[1] padding=0, bool ceil_mode=False, "
       "bool count_include_pad=True) -> Tensor",
       call<&avg_pool1d_row>, kFunction, kAvgDoc},
      {"avg_pool2d(Tensor input, int[2] kernel_size, int[2]? stride=None, int[2] padding=0, bool ceil_mode=False, "
       "bool count_include_pad=True, int? divisor_override=None) -> Tensor",
       call<&avg_pool_row<2>>, kHidden, kAvgDoc},
      {"avg_pool3d(Tensor input, int[3] kernel_size, int[3]? stride=None, int[3] padding=0, bool ceil_mode=False, "
       "bool count_include_pad=True, int? divisor_override=None) -> Tensor",
       call<&avg_pool_row<3>>, kHidden, kAvgDoc},
      {"adaptive_avg_pool1d(Tensor input, object output_size) -> Tensor", adaptive_avg_row<1>, kFunction, kAdaptiveDoc},
      {"adaptive_avg_pool2d(Tensor input, object output_size) -> Tensor", adaptive_avg_row<2>, kHidden, kAdaptiveDoc},
      {"adaptive_avg_pool3d(Tensor input, object output_size) -> Tensor", adaptive_avg_row<3>, kHidden, kAdaptiveDoc},
      {"adaptive_max_pool1d(Tensor input, object output_size, bool return_indices=False) -> Tensor",
       adaptive_max_row<1>, kFunction, kAdaptiveDoc},
      {"adaptive_max_pool2d(Tensor input, object output_size, bool return_indices=False) -> Tensor",
       adaptive_max_row<2>, kHidden, kAdaptiveDoc},
      {"adaptive_max_pool3d(Tensor input, object output_size, bool return_indices=False) -> Tensor",
       adaptive_max_row<3>, kHidden, kAdaptiveDoc},
      {"max_unpool1d(Tensor input, Tensor indices, int[1] kernel_size, int[1]? stride=None, int[1] padding=0, int[]? "
       "output_size=None) -> Tensor",
       call<&max_unpool_row<1>>, kHidden, kUnpoolDoc},
      {"max_unpool2d(Tensor input, Tensor indices, int[2] kernel_size, int[2]? stride=None, int[2] padding=0, int[]? "
       "output_size=None) -> Tensor",
       call<&max_unpool_row<2>>, kHidden, kUnpoolDoc},
      {"max_unpool3d(Tensor input, Tensor indices, int[3] kernel_size, int[3]? stride=None, int[3] padding=0, int[]? "
       "output_size=None) -> Tensor",
       call<&max_unpool_row<3>>, kHidden, kUnpoolDoc},
  });
}

}  // namespace pydlx::bind
