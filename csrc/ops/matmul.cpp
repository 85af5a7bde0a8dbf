#include "ops/matmul.h"

#include "autograd/node.h"
#include "core/verbose.h"
#include "kernels/gemm.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"

namespace pydlx::ops {

void run_gemm(const char* op, const Gemm& g, DType dtype, Device device) {
  const VerboseCall call(op);
  if (verbose_on)
    verbose_note(" %s m=%lld n=%lld k=%lld batch=%lld (%s)", dtype_name(dtype), static_cast<long long>(g.m),
                 static_cast<long long>(g.n), static_cast<long long>(g.k), static_cast<long long>(g.batch),
                 kernels_for(device).name);
  const GemmKernels& table = kernels<GemmKernels>(device);
  const int t = static_cast<int>(dtype);
  if (table.external[t] && table.external[t](g)) return;
  kernel_or_fail(table.gemm[t], op, device, dtype)(g);
}

void check_operands(const char* op, const char* argument, const Tensor& a, const Tensor& b) {
  common_device(op, {&a, &b});
  require(a.dtype() == b.dtype(), op, argument, ErrorKind::DType, "expected dtype ", a.dtype(),
          " like the first operand, got ", b.dtype(), "; convert with .to()");
}

Tensor as_rows(const Tensor& a) {
  const std::int64_t cols = a.size(-1);
  std::int64_t rows = 1;
  for (int i = 0; i + 1 < a.ndim(); ++i) rows *= a.sizes()[i];
  return a.ndim() == 2 ? a : reshape(a, {rows, cols});
}

namespace {

void check_ndim(const char* op, const char* argument, const Tensor& t, int ndim) {
  require(t.ndim() == ndim, op, argument, ErrorKind::Shape, "expected ", ndim, " dimension", ndim == 1 ? "" : "s",
          ", got shape ", t.sizes());
}

void check_inner(const char* op, const char* argument, const Tensor& a, const Tensor& b, std::int64_t ka,
                 std::int64_t kb) {
  require(ka == kb, op, argument, ErrorKind::Shape, "expected inner sizes to match, got ", a.sizes(), " and ",
          b.sizes());
}

// out = alpha a b + beta out, for (batch..., m, k) x (batch..., k, n) with out (batch..., m, n) and contiguous columns.
// No gradient.
void product_into(const char* op, const Tensor& out, const Tensor& a, const Tensor& b, double alpha, double beta) {
  if (out.numel() == 0) return;
  const Dims batch(out.sizes().data(), out.sizes().size() - 2);
  Gemm g;
  g.m = out.size(-2);
  g.n = out.size(-1);
  g.k = a.size(-1);
  g.a_row = a.stride(-2);
  g.a_col = a.stride(-1);
  g.b_row = b.stride(-2);
  g.b_col = b.stride(-1);
  // An axis of one element may carry any stride; name the one the kernels like.
  if (g.k == 1) g.a_col = 1;
  if (g.n == 1 && g.b_row != 1) g.b_col = 1;
  if (g.k == 1 && g.b_col != 1) g.b_row = 1;
  if (g.m == 1 && g.a_col != 1) g.a_row = 1;
  g.c_row = out.stride(-2);
  g.alpha = alpha;
  g.beta = beta;
  // The innermost batch axes that all operands walk with one stride form one kernel call; the rest is a loop.
  auto batch_stride = [&](const Tensor& t, int axis) -> std::int64_t {
    const int i = axis - (batch.ndim() - (t.ndim() - 2));
    return i < 0 || t.sizes()[i] == 1 ? 0 : t.strides()[i];
  };
  int first = batch.ndim();
  if (first > 0) {
    --first;
    g.batch = batch[first];
    g.a_batch = batch_stride(a, first);
    g.b_batch = batch_stride(b, first);
    g.c_batch = batch_stride(out, first);
    while (first > 0 && batch_stride(a, first - 1) == g.a_batch * g.batch &&
           batch_stride(b, first - 1) == g.b_batch * g.batch && batch_stride(out, first - 1) == g.c_batch * g.batch) {
      --first;
      g.batch *= batch[first];
    }
  }
  std::int64_t outer = 1;
  for (int i = 0; i < first; ++i) outer *= batch[i];
  const auto size = static_cast<std::int64_t>(itemsize(a.dtype()));
  for (std::int64_t o = 0; o < outer; ++o) {
    std::int64_t rest = o, ao = 0, bo = 0, co = 0;
    for (int i = first - 1; i >= 0; --i) {
      const std::int64_t at = rest % batch[i];
      rest /= batch[i];
      ao += at * batch_stride(a, i);
      bo += at * batch_stride(b, i);
      co += at * batch_stride(out, i);
    }
    g.a = static_cast<const char*>(a.data()) + ao * size;
    g.b = static_cast<const char*>(b.data()) + bo * size;
    g.c = static_cast<char*>(out.data()) + co * size;
    run_gemm(op, g, a.dtype(), a.device());
  }
}

Tensor product(const char* op, const Tensor& a, const Tensor& b) {
  const Dims ba(a.sizes().data(), a.sizes().size() - 2), bb(b.sizes().data(), b.sizes().size() - 2);
  Dims sizes = ba.empty() && bb.empty() ? Dims() : broadcast_sizes(op, ba, bb);
  sizes.push_back(a.size(-2));
  sizes.push_back(b.size(-1));
  Tensor out = empty(sizes, a.dtype(), a.device());
  product_into(op, out, a, b, 1, 0);
  return out;
}

Tensor swap(const Tensor& t) { return transpose(t, -1, -2); }

// A x B for operands with at least two axes, differentiable.
Tensor matrix_product(const char* op, const Tensor& a, const Tensor& b) {
  Tensor out = product(op, a, b);
  if (any_requires_grad(a, b))
    record(op, out, {&a, &b},
           [sa = a.sizes(), sb = b.sizes(), a = save_if(b.requires_grad(), a),
            b = save_if(a.requires_grad(), b)](Backward& bw) {
             if (bw.needs(0)) bw.set(0, sum_to(matrix_product("matmul", bw.grad(), swap(b.get(bw))), sa));
             if (bw.needs(1)) bw.set(1, sum_to(matrix_product("matmul", swap(a.get(bw)), bw.grad()), sb));
           });
  return out;
}

Tensor with_last(const Tensor& rows, Dims sizes, std::int64_t last) {
  sizes.back() = last;
  return reshape(rows, sizes);
}

}  // namespace

Tensor mm(const Tensor& a, const Tensor& b) {
  check_ndim("mm", "input", a, 2);
  check_ndim("mm", "mat2", b, 2);
  check_operands("mm", "mat2", a, b);
  check_inner("mm", "mat2", a, b, a.size(1), b.size(0));
  return matrix_product("mm", a, b);
}

Tensor bmm(const Tensor& a, const Tensor& b) {
  check_ndim("bmm", "input", a, 3);
  check_ndim("bmm", "mat2", b, 3);
  check_operands("bmm", "mat2", a, b);
  require(a.size(0) == b.size(0), "bmm", "mat2", ErrorKind::Shape, "expected batch size ", a.size(0), ", got shape ",
          b.sizes());
  check_inner("bmm", "mat2", a, b, a.size(2), b.size(1));
  return matrix_product("bmm", a, b);
}

Tensor mv(const Tensor& a, const Tensor& v) {
  check_ndim("mv", "input", a, 2);
  check_ndim("mv", "vec", v, 1);
  check_operands("mv", "vec", a, v);
  check_inner("mv", "vec", a, v, a.size(1), v.size(0));
  Tensor out = empty({a.size(0)}, a.dtype(), a.device());
  const Tensor column = alias(out, {a.size(0), 1}, {1, 1}, out.offset());
  product_into("mv", column, a, alias(v, {v.size(0), 1}, {v.stride(0), 1}, v.offset()), 1, 0);
  if (any_requires_grad(a, v))
    record("mv", out, {&a, &v}, [a = save_if(v.requires_grad(), a), v = save_if(a.requires_grad(), v)](Backward& bw) {
      if (bw.needs(0)) bw.set(0, outer(bw.grad(), v.get(bw)));
      if (bw.needs(1)) bw.set(1, mv(transpose(a.get(bw), 0, 1), bw.grad()));
    });
  return out;
}

Tensor dot(const Tensor& a, const Tensor& b) {
  check_ndim("dot", "input", a, 1);
  check_ndim("dot", "tensor", b, 1);
  check_operands("dot", "tensor", a, b);
  check_inner("dot", "tensor", a, b, a.size(0), b.size(0));
  Tensor out = empty({}, a.dtype(), a.device());
  product_into("dot", alias(out, {1, 1}, {1, 1}, out.offset()), alias(a, {1, a.size(0)}, {1, a.stride(0)}, a.offset()),
               alias(b, {b.size(0), 1}, {b.stride(0), 1}, b.offset()), 1, 0);
  if (any_requires_grad(a, b))
    record("dot", out, {&a, &b}, [a = save_if(b.requires_grad(), a), b = save_if(a.requires_grad(), b)](Backward& bw) {
      if (bw.needs(0)) bw.set(0, mul(bw.grad(), b.get(bw)));
      if (bw.needs(1)) bw.set(1, mul(bw.grad(), a.get(bw)));
    });
  return out;
}

Tensor vdot(const Tensor& a, const Tensor& b) { return dot(a, b); }

Tensor matmul(const Tensor& a, const Tensor& b) {
  require(a.ndim() > 0 && b.ndim() > 0, "matmul", "", ErrorKind::Shape, "expected at least 1-d operands, got shapes ",
          a.sizes(), " and ", b.sizes(), "; multiply scalars with *");
  check_operands("matmul", "other", a, b);
  const std::int64_t inner = b.ndim() == 1 ? b.size(0) : b.size(-2);
  require(a.size(-1) == inner, "matmul", "other", ErrorKind::Shape, "expected inner sizes to match, got ", a.sizes(),
          " and ", b.sizes());
  if (a.ndim() == 2 && b.ndim() == 2) return matrix_product("matmul", a, b);
  if (a.ndim() == 1 && b.ndim() == 1) return dot(a, b);
  if (a.ndim() == 2 && b.ndim() == 1) return mv(a, b);
  // A stack of rows against one matrix is one big product; so is its gradient with respect to the matrix, which is
  // worth a copy.
  if (a.ndim() > 2 && b.ndim() <= 2 && (a.contiguous_layout() || any_requires_grad(a, b))) {
    const Tensor rows = as_rows(a);
    if (b.ndim() == 1) return reshape(mv(rows, b), Dims(a.sizes().data(), a.sizes().size() - 1));
    return with_last(matrix_product("matmul", rows, b), a.sizes(), b.size(1));
  }
  const Tensor x = a.ndim() == 1 ? unsqueeze(a, 0) : a;
  const Tensor y = b.ndim() == 1 ? unsqueeze(b, 1) : b;
  Tensor out = matrix_product("matmul", x, y);
  if (b.ndim() == 1) out = squeeze(out, {-1});
  if (a.ndim() == 1) out = squeeze(out, {b.ndim() == 1 ? -1 : -2});
  return out;
}

Tensor inner(const Tensor& a, const Tensor& b) {
  if (a.ndim() == 0 || b.ndim() == 0) return mul(a, b);
  check_operands("inner", "other", a, b);
  check_inner("inner", "other", a, b, a.size(-1), b.size(-1));
  return tensordot(a, b, {a.ndim() - 1}, {b.ndim() - 1});
}

Tensor outer(const Tensor& a, const Tensor& b) {
  check_ndim("outer", "input", a, 1);
  check_ndim("outer", "vec2", b, 1);
  return mul(unsqueeze(a, 1), unsqueeze(b, 0));
}

// ---- beta * input + alpha * product
// ----------------------------------------------------------------------------------------------

namespace {

void check_factors(const char* op, DType dtype, Scalar beta, Scalar alpha) {
  if (is_floating(dtype)) return;
  require(!beta.is_float(), op, "beta", ErrorKind::DType, "expected an integer for integer tensors, got ",
          beta.to_double());
  require(!alpha.is_float(), op, "alpha", ErrorKind::DType, "expected an integer for integer tensors, got ",
          alpha.to_double());
}

Tensor scaled(const Tensor& x, double factor) { return factor == 1 ? x : mul(x, wrap_scalar(factor)); }

// a and b have the same batch axes (none or one).
Tensor add_product(const char* op, const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  check_operands(op, "input", a, input);
  check_factors(op, a.dtype(), beta, alpha);
  Dims sizes = a.sizes();
  sizes.back() = b.size(-1);
  require(input.ndim() <= sizes.ndim() && broadcast_sizes(op, input.sizes(), sizes) == sizes, op, "input",
          ErrorKind::Shape, "expected a shape that broadcasts to ", sizes, ", got ", input.sizes());
  const double bd = beta.to_double(), ad = alpha.to_double();
  Tensor out = empty(sizes, a.dtype(), a.device());
  if (bd != 0) copy_raw(out, input);
  product_into(op, out, a, b, ad, bd);
  if (any_requires_grad(input, a, b) && is_floating(a.dtype()))
    record(op, out, {&input, &a, &b},
           [is = input.sizes(), bd, ad, a = save_if(b.requires_grad(), a),
            b = save_if(a.requires_grad(), b)](Backward& bw) {
             const Tensor& g = bw.grad();
             if (bw.needs(0)) bw.set(0, scaled(sum_to(g, is), bd));
             if (bw.needs(1)) bw.set(1, scaled(matmul(g, swap(b.get(bw))), ad));
             if (bw.needs(2)) bw.set(2, scaled(matmul(swap(a.get(bw)), g), ad));
           });
  return out;
}

}  // namespace

Tensor addmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  check_ndim("addmm", "mat1", a, 2);
  check_ndim("addmm", "mat2", b, 2);
  check_operands("addmm", "mat2", a, b);
  check_inner("addmm", "mat2", a, b, a.size(1), b.size(0));
  return add_product("addmm", input, a, b, beta, alpha);
}

Tensor baddbmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  check_ndim("baddbmm", "batch1", a, 3);
  check_ndim("baddbmm", "batch2", b, 3);
  check_operands("baddbmm", "batch2", a, b);
  require(a.size(0) == b.size(0), "baddbmm", "batch2", ErrorKind::Shape, "expected batch size ", a.size(0),
          ", got shape ", b.sizes());
  check_inner("baddbmm", "batch2", a, b, a.size(2), b.size(1));
  return add_product("baddbmm", input, a, b, beta, alpha);
}

Tensor addbmm(const Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  check_ndim("addbmm", "batch1", a, 3);
  check_ndim("addbmm", "batch2", b, 3);
  check_operands("addbmm", "batch2", a, b);
  require(a.size(0) == b.size(0), "addbmm", "batch2", ErrorKind::Shape, "expected batch size ", a.size(0),
          ", got shape ", b.sizes());
  check_inner("addbmm", "batch2", a, b, a.size(2), b.size(1));
  // The sum over the batch is one product with the batch moved into K.
  const std::int64_t k = checked_mul(a.size(0), a.size(2), "addbmm");
  return add_product("addbmm", input, reshape(permute(a, {1, 0, 2}), {a.size(1), k}), reshape(b, {k, b.size(2)}), beta,
                     alpha);
}

Tensor addmv(const Tensor& input, const Tensor& a, const Tensor& v, Scalar beta, Scalar alpha) {
  check_ndim("addmv", "mat", a, 2);
  check_ndim("addmv", "vec", v, 1);
  check_operands("addmv", "vec", a, v);
  check_inner("addmv", "vec", a, v, a.size(1), v.size(0));
  require(input.ndim() == 0 || (input.ndim() == 1 && (input.size(0) == 1 || input.size(0) == a.size(0))), "addmv",
          "input", ErrorKind::Shape, "expected a shape that broadcasts to (", a.size(0), ",), got ", input.sizes());
  const Tensor column = input.ndim() == 0 ? input : unsqueeze(input, 1);
  return squeeze(add_product("addmv", column, a, unsqueeze(v, 1), beta, alpha), {1});
}

Tensor addr(const Tensor& input, const Tensor& v, const Tensor& w, Scalar beta, Scalar alpha) {
  check_ndim("addr", "vec1", v, 1);
  check_ndim("addr", "vec2", w, 1);
  check_operands("addr", "vec2", v, w);
  return add_product("addr", input, unsqueeze(v, 1), unsqueeze(w, 0), beta, alpha);
}

namespace {

void check_result_shape(const char* op, const Tensor& input, const Dims& sizes) {
  require(input.sizes() == sizes, op, "input", ErrorKind::Shape, "expected shape ", sizes, " of the product, got ",
          input.sizes());
}

}  // namespace

Tensor& addmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  check_ndim("addmm_", "mat1", a, 2);
  check_ndim("addmm_", "mat2", b, 2);
  check_result_shape("addmm_", input, {a.size(0), b.size(1)});
  // The kernel accumulates straight into the tensor when nothing is recorded and its rows are contiguous.
  if (!any_requires_grad(input, a, b) && input.stride(1) == 1 && !may_self_overlap(input.sizes(), input.strides()) &&
      input.impl()->storage.get() != a.impl()->storage.get() &&
      input.impl()->storage.get() != b.impl()->storage.get()) {
    check_inplace(input, "addmm_");
    check_operands("addmm_", "mat2", a, b);
    check_operands("addmm_", "input", a, input);
    check_inner("addmm_", "mat2", a, b, a.size(1), b.size(0));
    check_factors("addmm_", a.dtype(), beta, alpha);
    product_into("addmm_", input, a, b, alpha.to_double(), beta.to_double());
    bump_version(input, "addmm_");
    return input;
  }
  return copy_(input, addmm(input, a, b, beta, alpha));
}
Tensor& addmv_(Tensor& input, const Tensor& a, const Tensor& v, Scalar beta, Scalar alpha) {
  const Tensor r = addmv(input, a, v, beta, alpha);
  check_result_shape("addmv_", input, r.sizes());
  return copy_(input, r);
}
Tensor& addr_(Tensor& input, const Tensor& v, const Tensor& w, Scalar beta, Scalar alpha) {
  const Tensor r = addr(input, v, w, beta, alpha);
  check_result_shape("addr_", input, r.sizes());
  return copy_(input, r);
}
Tensor& addbmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  const Tensor r = addbmm(input, a, b, beta, alpha);
  check_result_shape("addbmm_", input, r.sizes());
  return copy_(input, r);
}
Tensor& baddbmm_(Tensor& input, const Tensor& a, const Tensor& b, Scalar beta, Scalar alpha) {
  const Tensor r = baddbmm(input, a, b, beta, alpha);
  check_result_shape("baddbmm_", input, r.sizes());
  return copy_(input, r);
}

}  // namespace pydlx::ops
