#include "ops/elementwise.h"

#include "autograd/node.h"
#include "kernels/pointwise.h"
#include "ops/elementwise_op.h"
#include "ops/math.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

using detail::binary_op;
using detail::fit;

// ---- creation and copies
// ---------------------------------------------------------------------------------------------------------

Tensor full(const Dims& sizes, Scalar value, DType dtype, Device device) {
  Tensor t = empty(sizes, dtype, device);
  fill_raw(t, value);
  return t;
}
Tensor zeros_like(const Tensor& x) {
  Tensor t = empty_like(x);
  fill_raw(t, 0);
  return t;
}
Tensor ones_like(const Tensor& x) {
  Tensor t = empty_like(x);
  fill_raw(t, 1);
  return t;
}

namespace {
// Copies x into the prepared result; the gradient of a copy is the gradient itself.
Tensor copied(const char* name, const Tensor& x, Tensor out) {
  copy_raw(out, x);
  if (is_floating(out.dtype()) && any_requires_grad(x))
    record(name, out, {&x}, [dtype = x.dtype()](Backward& bw) { bw.set(0, to_dtype(bw.grad(), dtype)); });
  return out;
}
}  // namespace

Tensor clone(const Tensor& x) { return copied("clone", x, empty_like(x)); }
Tensor contiguous(const Tensor& x) {
  if (x.contiguous_layout()) return x;
  return copied("contiguous", x, empty(x.sizes(), x.dtype(), x.device()));
}
Tensor clone(const Tensor& x, MemoryFormat format) {
  return copied("clone", x,
                empty_strided(x.sizes(), format_strides(x.sizes(), format, "clone"), x.dtype(), x.device()));
}
Tensor contiguous(const Tensor& x, MemoryFormat format) {
  const Dims strides = format_strides(x.sizes(), format, "contiguous");
  if (has_format(x, format)) return x;
  return copied("contiguous", x, empty_strided(x.sizes(), strides, x.dtype(), x.device()));
}
Tensor to_format(const Tensor& x, MemoryFormat format) {
  const Dims strides = format_strides(x.sizes(), format, "to");
  if (format == MemoryFormat::contiguous ? x.contiguous_layout() && format_of(x) == format : format_of(x) == format)
    return x;
  return copied("to", x, empty_strided(x.sizes(), strides, x.dtype(), x.device()));
}
Tensor clone_as(const Tensor& x, const Tensor& like) {
  Tensor out = empty_like(like);
  copy_raw(out, x);
  return out;
}
Tensor clone_with_strides(const Tensor& x, const Dims& strides) {
  if (is_dense(x.sizes(), strides)) return copied("clone", x, empty_strided(x.sizes(), strides, x.dtype(), x.device()));
  std::int64_t span = 1;
  for (int i = 0; i < x.ndim(); ++i) span += (x.sizes()[i] - 1) * strides[i];
  return copied("clone", x, alias(full({span}, 0, x.dtype(), x.device()), x.sizes(), strides, 0));
}
Tensor to_dtype(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return copied("to", x, empty_like(x, dtype));
}
Tensor to_device(const Tensor& x, Device device, bool non_blocking) {
  if (x.device() == device) return x;
  Tensor out;
  if (x.ndim() == 0 && x.is_cpu()) {  // a number travels with a kernel, which nobody waits for
    out = empty({}, x.dtype(), device);
    copy_raw(out, x);
  } else if (x.contiguous_layout() || !is_dense(x.sizes(), x.strides())) {
    out = empty(x.sizes(), x.dtype(), device);
    if (x.numel() > 0) copy_between(out, x, non_blocking);
  } else {  // the bytes as they lie, under the same strides
    out = empty_strided(x.sizes(), x.strides(), x.dtype(), device);
    const Dims flat{x.numel()};
    if (x.numel() > 0) copy_between(alias(out, flat, {1}, 0), alias(x, flat, {1}, x.offset()), non_blocking);
  }
  if (any_requires_grad(x))
    record("to", out, {&x}, [from = x.device()](Backward& bw) { bw.set(0, to_device(bw.grad(), from, false)); });
  return out;
}

Tensor wide_operand(const Tensor& x, MemoryFormat format) {
  const GradModeGuard off(false);
  const bool narrow = x.dtype() == DType::Float16 || x.dtype() == DType::BFloat16;
  return contiguous(narrow ? to_dtype(detach(x), DType::Float32) : detach(x), format);
}

Tensor& copy_(Tensor& target, const Tensor& source, bool non_blocking) {
  check_inplace(target, "copy_");
  require_number_fits("copy_", "src", source, target.dtype());
  require(broadcast_sizes("copy_", target.sizes(), source.sizes()) == target.sizes(), "copy_", "src", ErrorKind::Shape,
          "expected a shape that broadcasts to ", target.sizes(), ", got ", source.sizes());
  const bool differentiable = is_floating(target.dtype()) && any_requires_grad(target, source);
  Ref<Node> node;
  if (differentiable)
    node = make_node("copy_", {&target, &source},
                     [sizes = source.sizes(), dtype = source.dtype(), device = source.device()](Backward& bw) {
                       if (bw.needs(0)) bw.set(0, zeros_like(bw.grad()));
                       if (bw.needs(1)) bw.set(1, to_device(to_dtype(sum_to(bw.grad(), sizes), dtype), device));
                     });
  copy_raw(target, partially_overlaps(target, source) ? clone(source) : source, non_blocking);
  bump_version(target, "copy_");
  if (node) set_history_inplace(target, node);
  return target;
}

Tensor& fill_(Tensor& target, const Tensor& value) {
  require(value.numel() == 1 && value.ndim() == 0, "fill_", "value", ErrorKind::Shape,
          "expected a 0-d tensor or a number, got shape ", value.sizes());
  require_number_fits("fill_", "value", value, target.dtype());
  return copy_(target, value);
}
Tensor& zero_(Tensor& target) { return fill_(target, wrap_scalar(std::int64_t{0})); }

// ---- unary
// -----------------------------------------------------------------------------------------------------------------------

Tensor neg(const Tensor& x) {
  Tensor y = run_unary(UnaryOp::neg, "neg", x, false);
  if (any_requires_grad(x)) record("neg", y, {&x}, [](Backward& bw) { bw.set(0, neg(bw.grad())); });
  return y;
}

Tensor abs(const Tensor& x) {
  Tensor y = run_unary(UnaryOp::abs, "abs", x, false);
  if (any_requires_grad(x))
    record("abs", y, {&x}, [x = save(x)](Backward& bw) { bw.set(0, mul(bw.grad(), sign(x.get(bw)))); });  // sign(0) = 0
  return y;
}

Tensor exp(const Tensor& x) {
  Tensor y = run_unary(UnaryOp::exp, "exp", x, true);
  if (any_requires_grad(x))
    record("exp", y, {&x}, [y = Saved(y, 0)](Backward& bw) { bw.set(0, mul(bw.grad(), y.get(bw))); });
  return y;
}

Tensor sqrt(const Tensor& x) {
  Tensor y = run_unary(UnaryOp::sqrt, "sqrt", x, true);
  if (any_requires_grad(x))
    record("sqrt", y, {&x}, [y = Saved(y, 0)](Backward& bw) {
      const Tensor t = y.get(bw);
      bw.set(0, div(bw.grad(), add(t, t)));
    });
  return y;
}

Tensor relu_gradient(const Tensor& g, const Tensor& y) {
  const Tensor mask = detach(y);
  Tensor r = run_binary(BinaryOp::relu_backward, "relu_backward", g, mask, false);
  if (any_requires_grad(g))
    record("relu_backward", r, {&g},
           [y = save(mask)](Backward& bw) { bw.set(0, relu_gradient(bw.grad(), y.get(bw))); });
  return r;
}

Tensor relu(const Tensor& x) {
  Tensor y = run_unary(UnaryOp::relu, "relu", x, false);
  if (any_requires_grad(x))
    record("relu", y, {&x}, [y = Saved(y, 0)](Backward& bw) { bw.set(0, relu_gradient(bw.grad(), y.get(bw))); });
  return y;
}

Tensor& relu_(Tensor& x) {
  check_inplace(x, "relu_");
  const bool wanted = any_requires_grad(x);
  const Tensor before = wanted ? alias(x) : Tensor();
  Edge edge = wanted ? gradient_edge(x) : Edge{};
  run_unary(UnaryOp::relu, "relu_", x, false, true);
  if (wanted) {
    auto node = make_node("relu_", {&before},
                          [y = Saved(x, 0)](Backward& bw) { bw.set(0, relu_gradient(bw.grad(), y.get(bw))); });
    node->edge_begin()[0] = std::move(edge);
    set_history_inplace(x, node);
  }
  return x;
}

// ---- binary
// ----------------------------------------------------------------------------------------------------------------------

Tensor sum_to(const Tensor& g, const Dims& sizes) {
  if (g.sizes() == sizes) return g;
  Dims axes;
  const int lead = g.ndim() - sizes.ndim();
  for (int i = 0; i < g.ndim(); ++i)
    if (i < lead || (sizes[i - lead] == 1 && g.sizes()[i] != 1)) axes.push_back(i);
  Tensor r = axes.empty() ? g : sum(g, axes, true);
  if (r.sizes() == sizes) return r;
  // A view would share its memory with `r`, and a leaf that takes it as its gradient would have to copy it.
  if (!GradMode::enabled() && r.contiguous_layout()) return alias(r, sizes, contiguous_strides(sizes), r.offset());
  return reshape(r, sizes);
}

namespace {

bool is_one(Scalar s) { return s.is_float() ? s.f == 1.0 : s.i == 1; }
Tensor scaled(const Tensor& t, Scalar alpha) { return is_one(alpha) ? t : mul(t, wrap_scalar(alpha)); }

void check_alpha(const char* op, const Tensor& a, const Tensor& b, Scalar alpha) {
  if (alpha.is_float() && !is_floating(result_type({&a, &b})))
    fail(op, "alpha", ErrorKind::DType, "expected an integer for integer tensors, got ", alpha.f);
}

Tensor add_impl(const char* name, const Tensor& a, const Tensor& b, bool inplace) {
  return binary_op(BinaryOp::add, name, a, b, false, inplace, [&] {
    return [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype()](Backward& bw) {
      if (bw.needs(0)) bw.set(0, fit(bw.grad(), sa, da));
      if (bw.needs(1)) bw.set(1, fit(bw.grad(), sb, db));
    };
  });
}

// a + alpha b in one pass. Integers are multiplied first, so that they wrap as PyTorch's do.
Tensor add_scaled(const char* name, const Tensor& a, const Tensor& b, Scalar alpha, bool inplace) {
  return binary_op(
      BinaryOp::add_scaled, name, a, b, false, inplace,
      [&] {
        return
            [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype(), alpha = wrap_scalar(alpha)](Backward& bw) {
              if (bw.needs(0)) bw.set(0, fit(bw.grad(), sa, da));
              if (bw.needs(1)) bw.set(1, fit(mul(bw.grad(), alpha), sb, db));
            };
      },
      PointwiseParams{{alpha.to_double(), 0, 0, 0}});
}
Tensor add_any(const char* name, const Tensor& a, const Tensor& b, Scalar alpha, bool inplace) {
  check_alpha(name, a, b, alpha);
  if (!is_one(alpha) && is_floating(result_type({&a, &b}))) return add_scaled(name, a, b, alpha, inplace);
  return add_impl(name, a, scaled(b, alpha), inplace);
}

Tensor sub_impl(const char* name, const Tensor& a, const Tensor& b, bool inplace) {
  require(a.dtype() != DType::Bool || b.dtype() != DType::Bool, name, "", ErrorKind::DType,
          "expected numbers, got two bool tensors; use logical_xor or ^ instead of -");
  return binary_op(BinaryOp::sub, name, a, b, false, inplace, [&] {
    return [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype()](Backward& bw) {
      if (bw.needs(0)) bw.set(0, fit(bw.grad(), sa, da));
      if (bw.needs(1)) bw.set(1, fit(neg(bw.grad()), sb, db));
    };
  });
}

Tensor sub_any(const char* name, const Tensor& a, const Tensor& b, Scalar alpha, bool inplace) {
  check_alpha(name, a, b, alpha);
  if (!is_one(alpha) && is_floating(result_type({&a, &b})))
    return add_scaled(name, a, b, Scalar(-alpha.to_double()), inplace);
  return sub_impl(name, a, scaled(b, alpha), inplace);
}

// The first operand as backward needs it: an in-place op is about to overwrite it, so it is copied then (as PyTorch
// does).
Saved save_first(const Tensor& a, bool wanted, bool inplace) {
  return save_if(wanted, wanted && inplace ? clone(a) : a);
}

Tensor mul_impl(const char* name, const Tensor& a, const Tensor& b, bool inplace) {
  return binary_op(BinaryOp::mul, name, a, b, false, inplace, [&] {
    return [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype(),
            a = save_first(a, b.requires_grad(), inplace), b = save_if(a.requires_grad(), b)](Backward& bw) {
      if (bw.needs(0)) bw.set(0, fit(mul(bw.grad(), b.get(bw)), sa, da));
      if (bw.needs(1)) bw.set(1, fit(mul(bw.grad(), a.get(bw)), sb, db));
    };
  });
}

Tensor div_impl(const char* name, const Tensor& a, const Tensor& b, bool inplace) {
  return binary_op(BinaryOp::div, name, a, b, true, inplace, [&] {
    return [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype(),
            a = save_first(a, b.requires_grad(), inplace), b = save(b)](Backward& bw) {
      const Tensor d = b.get(bw);
      if (bw.needs(0)) bw.set(0, fit(div(bw.grad(), d), sa, da));
      if (bw.needs(1)) bw.set(1, fit(neg(mul(bw.grad(), div(div(a.get(bw), d), d))), sb, db));
    };
  });
}

// max/min: the gradient goes to the operand that was chosen, half to each on ties, all of it to both where either is
// NaN (PyTorch's convention).
Tensor extremum(BinaryOp op, const char* name, const Tensor& a, const Tensor& b) {
  return binary_op(op, name, a, b, false, false, [&] {
    return
        [sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype(), op, a = save(a), b = save(b)](Backward& bw) {
          const Tensor x = a.get(bw), y = b.get(bw);
          const Tensor zero = wrap_scalar(std::int64_t{0});
          const Tensor less = lt(x, y), more = gt(x, y);
          const Tensor g = where(eq(x, y), mul(bw.grad(), wrap_scalar(0.5)), bw.grad());
          if (bw.needs(0)) bw.set(0, fit(where(op == BinaryOp::maximum ? less : more, zero, g), sa, da));
          if (bw.needs(1)) bw.set(1, fit(where(op == BinaryOp::maximum ? more : less, zero, g), sb, db));
        };
  });
}

}  // namespace

Tensor add(const Tensor& a, const Tensor& b, Scalar alpha) { return add_any("add", a, b, alpha, false); }
Tensor sub(const Tensor& a, const Tensor& b, Scalar alpha) { return sub_any("sub", a, b, alpha, false); }
Tensor mul(const Tensor& a, const Tensor& b) { return mul_impl("mul", a, b, false); }
Tensor div(const Tensor& a, const Tensor& b) { return div_impl("div", a, b, false); }
Tensor maximum(const Tensor& a, const Tensor& b) { return extremum(BinaryOp::maximum, "maximum", a, b); }
Tensor minimum(const Tensor& a, const Tensor& b) { return extremum(BinaryOp::minimum, "minimum", a, b); }

Tensor& add_(Tensor& a, const Tensor& b, Scalar alpha) {
  add_any("add_", a, b, alpha, true);
  return a;
}
Tensor& sub_(Tensor& a, const Tensor& b, Scalar alpha) {
  sub_any("sub_", a, b, alpha, true);
  return a;
}
Tensor& mul_(Tensor& a, const Tensor& b) {
  mul_impl("mul_", a, b, true);
  return a;
}
Tensor& div_(Tensor& a, const Tensor& b) {
  div_impl("div_", a, b, true);
  return a;
}

// ---- comparison
// ------------------------------------------------------------------------------------------------------------------

Tensor eq(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::eq, "eq", a, b); }
Tensor ne(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::ne, "ne", a, b); }
Tensor lt(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::lt, "lt", a, b); }
Tensor le(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::le, "le", a, b); }
Tensor gt(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::gt, "gt", a, b); }
Tensor ge(const Tensor& a, const Tensor& b) { return run_compare(CompareOp::ge, "ge", a, b); }

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  require(condition.dtype() == DType::Bool, "where", "condition", ErrorKind::DType, "expected a bool tensor, got ",
          condition.dtype(), "; compare with 0 first");
  const Device device = common_device("where", {&condition, &a, &b});
  const DType dtype = result_type({&a, &b});
  require_number_fits("where", "input", a, dtype);
  require_number_fits("where", "other", b, dtype);
  const Dims sizes = broadcast_sizes("where", {&condition, &a, &b});
  const auto fn =
      kernel_or_fail(kernels<PointwiseKernels>(device).where[static_cast<int>(dtype)], "where", device, dtype);
  const Tensor x = detach(to_dtype(detach(a), dtype)), y = detach(to_dtype(detach(b), dtype));
  Tensor out = elementwise_output(sizes, dtype, device, {&condition, &x, &y});
  if (out.numel() > 0) {
    Elementwise e;
    build_elementwise(e, out, {&condition, &x, &y});
    fn(e);
  }
  if (any_requires_grad(a, b))
    record("where", out, {&condition, &a, &b},
           [c = save(condition), sa = a.sizes(), sb = b.sizes(), da = a.dtype(), db = b.dtype()](Backward& bw) {
             const Tensor mask = c.get(bw), zero = wrap_scalar(std::int64_t{0});
             if (bw.needs(1)) bw.set(1, fit(where(mask, bw.grad(), zero), sa, da));
             if (bw.needs(2)) bw.set(2, fit(where(mask, zero, bw.grad()), sb, db));
           });
  return out;
}

bool has_nan(const Tensor& x) {
  if (!is_floating(x.dtype()) || x.numel() == 0) return false;
  const GradModeGuard off(false);
  return item(any(ne(x, x), std::nullopt, false)).to_int() != 0;
}

bool has_nonfinite(const Tensor& x) {
  if (!is_floating(x.dtype()) || x.numel() == 0) return false;
  const GradModeGuard off(false);
  const Tensor difference = sub(x, x);  // 0 for finite values, NaN otherwise
  return item(any(ne(difference, difference), std::nullopt, false)).to_int() != 0;
}

}  // namespace pydlx::ops
