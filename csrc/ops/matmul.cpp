#include "ops/matmul.h"

#include "autograd/node.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/views.h"
#include "kernels/gemm.h"

namespace pydlx::ops {

namespace {

// A matrix operand must have a unit stride on one of its last two axes for the kernels' fast paths; anything else is copied.
Tensor gemm_ready(const Tensor& t) {
  const auto r = t.strides()[t.ndim() - 2], c = t.strides()[t.ndim() - 1];
  const bool rows_ok = c == 1 || t.sizes().back() == 1, cols_ok = r == 1 || t.sizes()[t.ndim() - 2] == 1;
  return rows_ok || cols_ok ? t : contiguous(t);
}

void run_gemm(const char* op, Gemm g, DType dtype, Device device) {
  kernel_or_fail(kernels<GemmKernels>(device).gemm[static_cast<int>(dtype)], op, device, dtype)(g);
}

void check_operands(const char* op, const Tensor& a, const Tensor& b) {
  common_device(op, {&a, &b});
  require(a.dtype() == b.dtype(), op, "other", ErrorKind::DType, "expected dtype ", a.dtype(), " like the first matrix, got ", b.dtype(),
          "; convert with .to()");
}

// (batch..., m, k) x (batch..., k, n) with equal batch axes after broadcasting; both at least 2-d. No gradient.
Tensor batched(const char* op, const Tensor& a0, const Tensor& b0) {
  Dims ba(a0.sizes().data(), a0.sizes().size() - 2), bb(b0.sizes().data(), b0.sizes().size() - 2);
  const Dims batch = broadcast_sizes(op, ba, bb);
  const std::int64_t m = a0.size(-2), k = a0.size(-1), n = b0.size(-1);
  Dims sizes = batch;
  sizes.push_back(m);
  sizes.push_back(n);
  Tensor out = empty(sizes, a0.dtype(), a0.device());
  if (out.numel() == 0) return out;
  if (k == 0) {
    fill_raw(out, 0);
    return out;
  }
  const Tensor a = gemm_ready(a0), b = gemm_ready(b0);
  Gemm g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a_row = a.stride(-2);
  g.a_col = a.stride(-1);
  g.b_row = b.stride(-2);
  g.b_col = b.stride(-1);
  g.c_row = n;
  // The innermost batch axes that both operands walk with one stride form one kernel call; the rest is a loop.
  auto batch_stride = [&](const Tensor& t, int axis) -> std::int64_t {
    const int i = axis - (batch.ndim() - (t.ndim() - 2));
    return i < 0 || t.sizes()[i] == 1 ? 0 : t.strides()[i];
  };
  int first = batch.ndim();
  g.c_batch = m * n;
  if (first > 0) {
    --first;
    g.batch = batch[first];
    g.a_batch = batch_stride(a, first);
    g.b_batch = batch_stride(b, first);
    while (first > 0 && batch_stride(a, first - 1) == g.a_batch * g.batch && batch_stride(b, first - 1) == g.b_batch * g.batch) {
      --first;
      g.batch *= batch[first];
    }
  }
  std::int64_t outer = 1;
  for (int i = 0; i < first; ++i) outer *= batch[i];
  const auto size = itemsize(a.dtype());
  for (std::int64_t o = 0; o < outer; ++o) {
    std::int64_t rest = o, ao = 0, bo = 0;
    for (int i = first - 1; i >= 0; --i) {
      const std::int64_t at = rest % batch[i];
      rest /= batch[i];
      ao += at * batch_stride(a, i);
      bo += at * batch_stride(b, i);
    }
    g.a = static_cast<const char*>(a.data()) + ao * size;
    g.b = static_cast<const char*>(b.data()) + bo * size;
    g.c = static_cast<char*>(out.data()) + o * g.batch * m * n * size;
    run_gemm(op, g, a.dtype(), a.device());
  }
  return out;
}

// A x B for operands with at least two axes, differentiable.
Tensor matrix_product(const Tensor& a, const Tensor& b) {
  Tensor out = batched("matmul", a, b);
  if (any_requires_grad(a, b))
    record("matmul", out, {&a, &b},
           [sa = a.sizes(), sb = b.sizes(), a = save_if(b.requires_grad(), a), b = save_if(a.requires_grad(), b)](Backward& bw) {
             if (bw.needs(0)) bw.set(0, sum_to(matrix_product(bw.grad(), transpose(b.get(bw), -1, -2)), sa));
             if (bw.needs(1)) bw.set(1, sum_to(matrix_product(transpose(a.get(bw), -1, -2), bw.grad()), sb));
           });
  return out;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) {
  require(a.ndim() > 0 && b.ndim() > 0, "matmul", "", ErrorKind::Shape, "expected at least 1-d operands, got shapes ", a.sizes(), " and ",
          b.sizes());
  check_operands("matmul", a, b);
  const std::int64_t inner = b.ndim() == 1 ? b.size(0) : b.size(-2);
  require(a.size(-1) == inner, "matmul", "other", ErrorKind::Shape, "expected inner sizes to match, got ", a.sizes(), " and ", b.sizes());
  if (a.ndim() > 1 && b.ndim() > 1) {
    // A stack of rows against one matrix is one big product.
    if (b.ndim() == 2 && a.ndim() > 2 && a.contiguous_layout()) {
      Dims sizes = a.sizes();
      sizes.back() = b.size(1);
      return reshape(matrix_product(reshape(a, {a.numel() / std::max<std::int64_t>(a.size(-1), 1), a.size(-1)}), b), sizes);
    }
    return matrix_product(a, b);
  }
  const Tensor x = a.ndim() == 1 ? unsqueeze(a, 0) : a;
  const Tensor y = b.ndim() == 1 ? unsqueeze(b, 1) : b;
  Tensor out = matrix_product(x, y);
  if (b.ndim() == 1) out = squeeze(out, {-1});
  if (a.ndim() == 1) out = squeeze(out, {b.ndim() == 1 ? -1 : -2});
  return out;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  require(x.ndim() > 0, "linear", "input", ErrorKind::Shape, "expected at least one axis, got a 0-d tensor");
  require(weight.ndim() == 2 && weight.size(1) == x.size(-1), "linear", "weight", ErrorKind::Shape, "expected shape (out_features, ",
          x.size(-1), ") for input of shape ", x.sizes(), ", got ", weight.sizes());
  check_operands("linear", x, weight);
  const std::int64_t out_features = weight.size(0), in_features = weight.size(1);
  if (bias.defined()) {
    require(bias.ndim() == 1 && bias.size(0) == out_features, "linear", "bias", ErrorKind::Shape, "expected shape (", out_features,
            ",), got ", bias.sizes());
    check_operands("linear", x, bias);
  }
  if (in_features == 0 || x.numel() == 0) {
    Tensor y = matmul(x, transpose(weight, 0, 1));
    return bias.defined() ? add(y, bias) : y;
  }
  const Tensor rows = x.ndim() == 2 ? x : reshape(x, {-1, in_features});
  const Tensor a = gemm_ready(rows), w = gemm_ready(weight), b = bias.defined() ? contiguous(detach(bias)) : Tensor();
  Dims sizes = x.sizes();
  sizes.back() = out_features;
  Tensor out = empty(sizes, x.dtype(), x.device());
  Gemm g;
  g.m = rows.size(0);
  g.n = out_features;
  g.k = in_features;
  g.a = a.data();
  g.a_row = a.stride(0);
  g.a_col = a.stride(1);
  g.b = w.data();
  g.b_row = w.stride(1);
  g.b_col = w.stride(0);
  g.c = out.data();
  g.c_row = out_features;
  g.bias = b.defined() ? b.data() : nullptr;
  if (out.numel() > 0) run_gemm("linear", g, x.dtype(), x.device());
  if (any_requires_grad(x, weight, bias))
    record("linear", out, {&x, &weight, &bias},
           [x = save_if(weight.requires_grad(), x), weight = save_if(x.requires_grad(), weight)](Backward& bw) {
             const Tensor& gy = bw.grad();
             if (bw.needs(0)) bw.set(0, matmul(gy, weight.get(bw)));
             const Tensor rows = reshape(gy, {-1, gy.size(-1)});
             if (bw.needs(1)) {
               const Tensor in = x.get(bw);
               bw.set(1, matmul(transpose(rows, 0, 1), reshape(in, {-1, in.size(-1)})));
             }
             if (bw.needs(2)) bw.set(2, sum_to(rows, {rows.size(1)}));
           });
  return out;
}

}  // namespace pydlx::ops
