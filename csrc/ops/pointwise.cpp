#include "ops/pointwise.h"

#include <cstring>
#include <utility>

#include "autograd/mode.h"
#include "core/backend.h"
#include "kernels/mixed.h"
#include "kernels/pointwise.h"
#include "ops/out_offer.h"

namespace pydlx {

Dims broadcast_sizes(const char* op, const Dims& a, const Dims& b) {
  const Dims& longer = a.size() >= b.size() ? a : b;
  const Dims& shorter = a.size() >= b.size() ? b : a;
  Dims out = longer;
  const std::size_t shift = longer.size() - shorter.size();
  for (std::size_t i = 0; i < shorter.size(); ++i) {
    std::int64_t& s = out[i + shift];
    if (s == shorter[i] || shorter[i] == 1) continue;
    if (s == 1)
      s = shorter[i];
    else
      fail(op, "", ErrorKind::Shape, "expected shapes that broadcast together, got ", a, " and ", b);
  }
  return out;
}

Dims broadcast_sizes(const char* op, std::initializer_list<const Tensor*> tensors) {
  Dims out;
  for (const Tensor* t : tensors) out = broadcast_sizes(op, out, t->sizes());
  return out;
}

DType result_type(std::initializer_list<const Tensor*> tensors) {
  // One running dtype per priority: dimensioned tensors, 0-d tensors, Python numbers.
  bool have[3] = {};
  DType t[3] = {};
  for (const Tensor* x : tensors) {
    if (!x->defined()) continue;
    const int level = x->is_wrapped_number() ? 2 : (x->ndim() == 0 ? 1 : 0);
    DType d = x->dtype();
    if (level == 2 && is_floating(d)) d = default_dtype();
    t[level] = have[level] ? promote(t[level], d) : d;
    have[level] = true;
  }
  // A lower priority matters only when its category is higher.
  DType result = have[0] ? t[0] : have[1] ? t[1] : t[2];
  for (int level = have[0] ? 1 : 2; level < 3; ++level)
    if (have[level] && dtype_category(t[level]) > dtype_category(result)) result = t[level];
  return result;
}

namespace {

bool same_layout(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return false;
  return (a.contiguous_layout() && b.contiguous_layout()) || a.strides() == b.strides();
}

void set_immediate(Elementwise& e, int k, const Tensor& t, DType dtype) {
  if (t.dtype() == dtype)
    std::memcpy(e.value[k], t.data(), itemsize(dtype));
  else
    store_scalar(e.value[k], dtype, load_scalar(t.data(), t.dtype()));
  e.immediate[k] = true;
  e.data[k] = e.value[k];
}

// Orders axes by the output's strides (innermost first) and merges neighbours that every operand walks in one step.
void order_and_merge(Elementwise& e) {
  for (int i = 1; i < e.ndim; ++i)  // insertion sort: ndim is small
    for (int j = i; j > 0; --j) {
      bool swap = false;
      for (int k = 0; k < e.operands; ++k) {
        const auto inner = e.stride[k][j - 1], outer = e.stride[k][j];
        if (inner == 0 || outer == 0) continue;  // a broadcast axis says nothing about order
        swap = outer < inner;
        break;
      }
      if (!swap) break;
      std::swap(e.size[j], e.size[j - 1]);
      for (int k = 0; k < e.operands; ++k) std::swap(e.stride[k][j], e.stride[k][j - 1]);
    }
  int last = 0;
  for (int i = 1; i < e.ndim; ++i) {
    bool merge = true;
    for (int k = 0; k < e.operands; ++k) merge &= e.stride[k][i] == e.stride[k][last] * e.size[last];
    if (merge) {
      e.size[last] *= e.size[i];
    } else {
      ++last;
      e.size[last] = e.size[i];
      for (int k = 0; k < e.operands; ++k) e.stride[k][last] = e.stride[k][i];
    }
  }
  e.ndim = last + 1;
}

}  // namespace

void build_elementwise(Elementwise& e, const Tensor& out, std::initializer_list<const Tensor*> inputs,
                       std::optional<DType> compute) {
  e.numel = out.numel();
  e.operands = 1 + static_cast<int>(inputs.size());
  e.data[0] = out.data();

  // Fast path: everything has the output's layout, or is a single value.
  const bool dense = out.contiguous_layout() || is_dense(out.sizes(), out.strides());
  bool simple = dense;
  for (const Tensor* t : inputs) simple = simple && (same_layout(*t, out) || (t->numel() == 1 && out.numel() > 0));
  int k = 1;
  for (const Tensor* t : inputs) {
    e.data[k] = t->data();
    if (t->ndim() == 0 && t->is_cpu()) set_immediate(e, k, *t, compute.value_or(t->dtype()));
    ++k;
  }
  if (simple) {
    e.ndim = 1;
    e.size[0] = out.numel();
    e.stride[0][0] = 1;
    k = 1;
    for (const Tensor* t : inputs) e.stride[k++][0] = t->numel() == 1 && out.numel() != 1 ? 0 : 1;
    return;
  }

  e.ndim = 0;
  for (int axis = out.ndim() - 1; axis >= 0; --axis) {
    if (out.sizes()[axis] == 1) continue;
    const int d = e.ndim++;
    e.size[d] = out.sizes()[axis];
    e.stride[0][d] = out.strides()[axis];
    k = 1;
    for (const Tensor* t : inputs) {
      const int a = axis - (out.ndim() - t->ndim());
      e.stride[k++][d] = a < 0 || t->sizes()[a] == 1 ? 0 : t->strides()[a];
    }
  }
  if (e.ndim == 0) {
    e.ndim = 1;
    e.size[0] = out.numel();
    for (int j = 0; j < e.operands; ++j) e.stride[j][0] = 1;
    return;
  }
  order_and_merge(e);
}

Tensor elementwise_output(const Dims& sizes, DType dtype, Device device, std::initializer_list<const Tensor*> inputs) {
  for (const Tensor* t : inputs) {
    if (t->sizes() != sizes || !(t->device() == device)) continue;  // a 0-d host value beside a 0-d result elsewhere
    if (t->contiguous_layout()) return empty_like(*t, dtype);
    bool broadcast = false;  // strides of 0 say nothing about order
    for (int i = 0; i < t->ndim(); ++i) broadcast |= t->strides()[i] == 0 && sizes[i] > 1;
    if (!broadcast) return empty_like(*t, dtype);
  }
  return empty(sizes, dtype, device);
}

namespace {
thread_local OutOffer* t_offer = nullptr;
}

OutOffer::OutOffer(std::string_view name, Tensor out) : name_(name), out_(std::move(out)), before_(t_offer) {
  t_offer = this;
}
OutOffer::~OutOffer() { t_offer = before_; }

Tensor OutOffer::take(const char* name, const Dims& sizes, DType dtype, Device device) {
  OutOffer* o = t_offer;
  if (!o || !o->out_.defined() || o->name_ != name) return {};
  if (!(o->out_.sizes() == sizes && o->out_.dtype() == dtype && o->out_.device() == device)) return {};
  return std::exchange(o->out_, {});
}

void copy_between(const Tensor& out, const Tensor& src, bool non_blocking) {
  // The source converts on its own device to the bytes that the target wants, and spreads there when it must.
  Tensor bytes = src;
  if (src.dtype() != out.dtype() || !src.contiguous_layout()) {
    bytes = empty(src.sizes(), out.dtype(), src.device());
    copy_raw(bytes, src);
  }
  const bool direct = out.contiguous_layout() && out.sizes() == src.sizes();
  const Tensor landed = direct ? out : empty(src.sizes(), out.dtype(), out.device());
  Backend& backend = require_backend(out.is_cpu() ? src.device() : out.device());
  // Bytes that only live here must have arrived before they are freed.
  backend.copy(landed.data(), out.device(), bytes.data(), src.device(),
               static_cast<std::size_t>(bytes.numel()) * itemsize(out.dtype()),
               non_blocking && bytes.is_same(src) && direct);
  if (!direct) copy_raw(out, landed);
}

void copy_raw(const Tensor& out, const Tensor& src, bool non_blocking) {
  if (out.numel() == 0) return;
  if (!(out.device() == src.device()) && !(src.ndim() == 0 && src.is_cpu()))
    return copy_between(out, src, non_blocking);
  // One number is converted once.
  if (src.ndim() == 0 && src.is_cpu() && src.dtype() != out.dtype() && is_floating(out.dtype()))
    return copy_raw(out, wrap_scalar(load_scalar(src.data(), src.dtype()), out.dtype()));
  const auto fn = kernel_or_fail(
      kernels<PointwiseKernels>(out.device()).copy[static_cast<int>(out.dtype())][static_cast<int>(src.dtype())],
      "copy_", out.device(), src.dtype());
  Elementwise e;
  build_elementwise(e, out, {&src});
  fn(e);
}

void fill_raw(const Tensor& out, Scalar value) {
  if (out.numel() == 0) return;
  copy_raw(out, wrap_scalar(value, out.dtype()));
}

namespace {

// An input in the compute dtype: the tensor itself, or a converted copy that lives here. 0-d host values stay as they
// are: they are converted when they become immediates.
class Converted {
 public:
  Converted(const Tensor& t, DType dtype) : use_(&t) {
    if (!t.defined() || t.dtype() == dtype || (t.ndim() == 0 && t.is_cpu())) return;
    copy_ = empty_like(t, dtype);
    copy_raw(copy_, t);
    use_ = &copy_;
  }
  Converted(const Converted&) = delete;
  const Tensor* get() const { return use_; }

 private:
  const Tensor* use_;
  Tensor copy_;
};

void check_inplace_result(const char* name, const Tensor& target, const Dims& sizes, DType result) {
  require(target.sizes() == sizes, name, "input", ErrorKind::Shape, "expected an in-place result of shape ",
          target.sizes(), ", got operands that broadcast to ", sizes);
  require(dtype_category(result) <= dtype_category(target.dtype()), name, "input", ErrorKind::DType, "the result type ",
          result, " cannot be stored in a ", target.dtype(), " tensor; use the out-of-place form");
}

// Runs `fn` on converted inputs; writes through a temporary when the target has another dtype or overlaps an input.
// Undefined inputs are absent. With `as_they_are` the kernel reads a and b in their own dtypes.
Tensor launch(ElementwiseFn fn, const char* name, const Dims& sizes, DType compute, DType out_dtype, Device device,
              const Tensor* target, const PointwiseParams& params, const Tensor& a, const Tensor& b = {},
              const Tensor& c = {}, bool as_they_are = false) {
  const Converted x(a, as_they_are ? a.dtype() : compute), y(b, as_they_are ? b.dtype() : compute), z(c, compute);
  bool direct = target && target->dtype() == out_dtype;
  for (const Tensor* t : {x.get(), y.get(), z.get()})
    direct = direct && !(t->defined() && partially_overlaps(*target, *t));
  auto with_inputs = [&](auto f) {
    if (c.defined()) return f({x.get(), y.get(), z.get()});
    if (b.defined()) return f({x.get(), y.get()});
    return f({x.get()});
  };
  using Inputs = std::initializer_list<const Tensor*>;
  Tensor out = direct ? *target : target ? Tensor() : OutOffer::take(name, sizes, out_dtype, device);
  if (!out.defined()) out = with_inputs([&](Inputs in) { return elementwise_output(sizes, out_dtype, device, in); });
  if (out.numel() > 0) {
    Elementwise e;
    std::memcpy(e.param, params.p, sizeof e.param);
    with_inputs([&](Inputs in) { build_elementwise(e, out, in, compute); });
    fn(e);
  }
  if (target && !direct) {
    copy_raw(*target, out);
    out = *target;
  }
  if (target) bump_version(*target, name);
  return out;
}

}  // namespace

Tensor run_unary(UnaryOp op, const char* name, const Tensor& x, bool to_float, bool inplace, PointwiseParams params) {
  const DType compute = to_float ? float_type(x.dtype()) : x.dtype();
  if (inplace) check_inplace_result(name, x, x.sizes(), compute);
  const auto fn =
      kernel_or_fail(kernels<PointwiseKernels>(x.device()).unary[static_cast<int>(op)][static_cast<int>(compute)], name,
                     x.device(), compute);
  return launch(fn, name, x.sizes(), compute, compute, x.device(), inplace ? &x : nullptr, params, x);
}

// The kernel that takes operands of these two dtypes as they are, where there is one.
static ElementwiseFn mixed_kernel(BinaryOp op, const Tensor& a, const Tensor& b, DType compute) {
  if (a.dtype() == b.dtype() || compute != DType::Float32 || a.is_cpu() || b.is_cpu() || a.ndim() == 0 || b.ndim() == 0)
    return nullptr;
  const MixedKernels& k = kernels<MixedKernels>(a.device());
  const int first = static_cast<int>(a.dtype()), second = static_cast<int>(b.dtype());
  return op == BinaryOp::add ? k.add[first][second] : op == BinaryOp::mul ? k.mul[first][second] : nullptr;
}

Tensor run_binary(BinaryOp op, const char* name, const Tensor& a, const Tensor& b, bool to_float, bool inplace,
                  PointwiseParams params) {
  const Device device = common_device(name, {&a, &b});
  DType compute = a.dtype() == b.dtype() && !a.is_wrapped_number() ? a.dtype() : result_type({&a, &b});
  if (to_float) compute = float_type(compute);
  const ElementwiseFn mixed = mixed_kernel(op, a, b, compute);
  const auto fn =
      mixed ? mixed
            : kernel_or_fail(kernels<PointwiseKernels>(device).binary[static_cast<int>(op)][static_cast<int>(compute)],
                             name, device, compute);
  const Tensor none;
  const Tensor* target = inplace ? &a : nullptr;
  if (a.sizes() == b.sizes()) {
    if (inplace) check_inplace_result(name, a, a.sizes(), compute);
    return launch(fn, name, a.sizes(), compute, compute, device, target, params, a, b, none, mixed != nullptr);
  }
  const Dims sizes = broadcast_sizes(name, a.sizes(), b.sizes());
  if (inplace) check_inplace_result(name, a, sizes, compute);
  return launch(fn, name, sizes, compute, compute, device, target, params, a, b, none, mixed != nullptr);
}

Tensor run_compare(CompareOp op, const char* name, const Tensor& a, const Tensor& b) {
  const Device device = common_device(name, {&a, &b});
  const DType compute = result_type({&a, &b});
  const auto fn =
      kernel_or_fail(kernels<PointwiseKernels>(device).compare[static_cast<int>(op)][static_cast<int>(compute)], name,
                     device, compute);
  return launch(fn, name, broadcast_sizes(name, a.sizes(), b.sizes()), compute, DType::Bool, device, nullptr, {}, a, b);
}

Tensor run_ternary(TernaryOp op, const char* name, const Tensor& a, const Tensor& b, const Tensor& c, bool to_float,
                   bool inplace, PointwiseParams params) {
  const Device device = common_device(name, {&a, &b, &c});
  DType compute = result_type({&a, &b, &c});
  if (to_float) compute = float_type(compute);
  const auto fn =
      kernel_or_fail(kernels<PointwiseKernels>(device).ternary[static_cast<int>(op)][static_cast<int>(compute)], name,
                     device, compute);
  const Dims sizes = broadcast_sizes(name, {&a, &b, &c});
  if (inplace) check_inplace_result(name, a, sizes, compute);
  return launch(fn, name, sizes, compute, compute, device, inplace ? &a : nullptr, params, a, b, c);
}

}  // namespace pydlx
