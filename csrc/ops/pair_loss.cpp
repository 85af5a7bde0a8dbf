#include "ops/pair_loss.h"

#include "autograd/node.h"
#include "kernels/pair_loss.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

DType acc_dtype(DType t) { return t == DType::Float64 ? DType::Float64 : DType::Float32; }

// Row-major copy (or view) in the common shape and dtype; a single number may come from the CPU.
Tensor prepared(const Tensor& t, const Dims& sizes, DType dtype, Device device) {
  const Tensor d = to_device(to_dtype(detach(t), dtype), device);
  return contiguous(d.sizes() == sizes ? d : expand(d, sizes));
}

Tensor number(double v) { return wrap_scalar(v); }
Tensor sign(const Tensor& d) {
  return sub(to_dtype(gt(d, number(0)), d.dtype()), to_dtype(lt(d, number(0)), d.dtype()));
}
Tensor each(PairLossOp op, const Tensor& x, const Tensor& t) {
  return pair_loss(op, "pair_loss", x, t, Reduction::none);
}

// The derivatives in differentiable ops, for gradients of gradients.
Tensor composed_dx(PairLossOp op, const Tensor& x, const Tensor& t, double param) {
  const Tensor d = sub(x, t);
  switch (op) {
    case PairLossOp::mse:
      return mul(d, number(2));
    case PairLossOp::l1:
      return sign(d);
    case PairLossOp::smooth_l1:
      return where(lt(abs(d), number(param)), div(d, number(param)), sign(d));
    case PairLossOp::huber:
      return where(le(abs(d), number(param)), d, mul(sign(d), number(param)));
    case PairLossOp::bce:
      return div(d, maximum(mul(sub(number(1), x), x), number(1e-12)));
    case PairLossOp::bce_logits:  // sigmoid(x) = e^-softplus(-x) cannot overflow
      return sub(exp(neg(each(PairLossOp::bce_logits, neg(x), zeros_like(x)))), t);
    case PairLossOp::kl:
      return neg(t);
    case PairLossOp::kl_log:
      return neg(exp(t));
    case PairLossOp::COUNT:
      break;
  }
  return {};
}
Tensor composed_dt(PairLossOp op, const Tensor& x, const Tensor& t, double param) {
  switch (op) {
    case PairLossOp::bce:
      return sub(each(op, x, ones_like(x)), each(op, x, zeros_like(x)));
    case PairLossOp::bce_logits:
      return neg(x);
    case PairLossOp::kl: {  // log t + 1 - x; t log t is the loss at x = 0
      const Tensor positive = gt(t, number(0)), safe = where(positive, t, ones_like(t));
      return where(positive, add(sub(div(each(op, zeros_like(x), safe), safe), x), number(1)), zeros_like(t));
    }
    case PairLossOp::kl_log:
      return mul(exp(t), add(sub(t, x), number(1)));
    default:
      return neg(composed_dx(op, x, t, param));
  }
}

Tensor reduced(const Tensor& loss, Reduction reduction) {
  if (reduction == Reduction::none) return loss;
  const Tensor total = sum(loss, {}, false);
  return reduction == Reduction::sum ? total : div(total, number(static_cast<double>(loss.numel())));
}

}  // namespace

Tensor pair_loss(PairLossOp op, const char* name, const Tensor& x, const Tensor& t, Reduction reduction, double param) {
  const Dims sizes = broadcast_sizes(name, x.sizes(), t.sizes());
  const DType dtype = result_type({&x, &t});
  require(is_floating(dtype), name, "input", ErrorKind::DType, "expected floating point tensors, got ", dtype);
  const Device device = common_device(name, {&x, &t});
  const DType acc = acc_dtype(dtype);
  const Tensor xc = prepared(x, sizes, dtype, device), tc = prepared(t, sizes, dtype, device);
  PairLoss k;
  k.x = xc.data();
  k.t = tc.data();
  k.n = xc.numel();
  k.param = param;
  Tensor out, partial;
  if (reduction == Reduction::none) {
    out = empty(sizes, dtype, device);
    k.out = out.data();
  } else {
    partial = empty({(k.n + PairLoss::kChunk - 1) / PairLoss::kChunk}, acc, device);
    k.partial = partial.data();
  }
  if (k.n > 0) {
    const auto fn = kernel_or_fail(
        kernels<PairLossKernels>(device).forward[static_cast<int>(op)][static_cast<int>(dtype)], name, device, dtype);
    const std::int64_t bad = fn(k);
    require(bad < 0, name, "input", ErrorKind::Value,
            "expected probabilities in [0, 1], got another value at flat position ", bad,
            "; apply sigmoid first or use binary_cross_entropy_with_logits");
  }
  const double count = static_cast<double>(k.n);
  if (reduction != Reduction::none) {
    out = sum(partial, {}, false);
    if (reduction == Reduction::mean) out = div(out, number(count));
    out = to_dtype(out, dtype);
  }
  if (!any_requires_grad(x, t)) return out;

  record(name, out, {&x, &t},
         [op, name, param, count, mean = reduction == Reduction::mean, sizes, dtype, device, acc, x = save(x),
          t = save(t)](Backward& bw) {
           const Tensor x0 = x.get(bw), t0 = t.get(bw);
           Tensor g = bw.grad();
           if (mean) g = div(g, number(count));
           if (bw.create_graph) {
             const Tensor xw = to_dtype(x0, dtype), tw = to_dtype(t0, dtype);
             if (bw.needs(0))
               bw.set(0, to_dtype(sum_to(mul(g, composed_dx(op, xw, tw, param)), x0.sizes()), x0.dtype()));
             if (bw.needs(1))
               bw.set(1, to_dtype(sum_to(mul(g, composed_dt(op, xw, tw, param)), t0.sizes()), t0.dtype()));
             return;
           }
           const Tensor xc = prepared(x0, sizes, dtype, device), tc = prepared(t0, sizes, dtype, device),
                        gc = contiguous(to_dtype(g, acc));
           Tensor dx, dt;
           if (bw.needs(0)) dx = empty(sizes, dtype, device);
           if (bw.needs(1)) dt = empty(sizes, dtype, device);
           PairLoss k;
           k.x = xc.data();
           k.t = tc.data();
           k.n = xc.numel();
           k.param = param;
           k.grad = gc.data();
           k.grad_stride = gc.ndim() == 0 && !sizes.empty() ? 0 : 1;
           k.dx = data_or_null(dx);
           k.dt = data_or_null(dt);
           if (k.n > 0)
             kernel_or_fail(kernels<PairLossKernels>(device).backward[static_cast<int>(op)][static_cast<int>(dtype)],
                            name, device, dtype)(k);
           const auto gradient = [](const Tensor& d, const Tensor& of) {
             return to_device(to_dtype(sum_to(d, of.sizes()), of.dtype()), of.device());
           };
           if (bw.needs(0)) bw.set(0, gradient(dx, x0));
           if (bw.needs(1)) bw.set(1, gradient(dt, t0));
         });
  return out;
}

namespace {
void same_shape(const char* name, const Tensor& x, const Tensor& t) {
  require(x.sizes() == t.sizes(), name, "target", ErrorKind::Shape, "expected shape ", x.sizes(),
          " like the input, got ", t.sizes());
}
}  // namespace

Tensor binary_cross_entropy(const Tensor& x, const Tensor& t, const Tensor& weight, Reduction reduction) {
  const char* name = "binary_cross_entropy";
  same_shape(name, x, t);
  if (!weight.defined()) return pair_loss(PairLossOp::bce, name, x, t, reduction);
  return reduced(mul(pair_loss(PairLossOp::bce, name, x, t, Reduction::none), weight), reduction);
}

Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& t, const Tensor& weight,
                                        const Tensor& pos_weight, Reduction reduction) {
  const char* name = "binary_cross_entropy_with_logits";
  same_shape(name, x, t);
  if (!weight.defined() && !pos_weight.defined()) return pair_loss(PairLossOp::bce_logits, name, x, t, reduction);
  Tensor loss;
  if (pos_weight.defined()) {  // pos t softplus(-x) + (1 - t) softplus(x); the loss at target 0 is softplus
    const Tensor zero = zeros_like(x);
    const Tensor up = pair_loss(PairLossOp::bce_logits, name, neg(x), zero, Reduction::none);
    const Tensor down = pair_loss(PairLossOp::bce_logits, name, x, zero, Reduction::none);
    loss = add(mul(mul(pos_weight, t), up), mul(sub(number(1), t), down));
  } else {
    loss = pair_loss(PairLossOp::bce_logits, name, x, t, Reduction::none);
  }
  return reduced(weight.defined() ? mul(loss, weight) : loss, reduction);
}

}  // namespace pydlx::ops
