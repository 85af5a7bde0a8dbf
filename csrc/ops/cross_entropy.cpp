#include "ops/cross_entropy.h"

#include <algorithm>

#include "autograd/autocast.h"
#include "autograd/node.h"
#include "kernels/loss.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

DType acc_dtype(DType t) { return t == DType::Float64 ? DType::Float64 : DType::Float32; }
// x as [outer, classes, inner] and the shape of one value per row.
struct Rows {
  std::int64_t outer = 1, classes = 1, inner = 1;
  Dims sizes;
};

Rows rows_of(const char* op, const Tensor& x) {
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  require(x.ndim() >= 1, op, "input", ErrorKind::Shape, "expected (C), (N, C) or (N, C, d1, ...), got a 0-d tensor");
  Rows r;
  const int axis = x.ndim() == 1 ? 0 : 1;
  r.sizes = x.sizes();
  r.sizes.erase(static_cast<std::size_t>(axis));
  r.classes = x.sizes()[static_cast<std::size_t>(axis)];
  if (axis == 1) r.outer = x.sizes()[0];
  for (int i = 2; i < x.ndim(); ++i) r.inner *= x.sizes()[static_cast<std::size_t>(i)];
  return r;
}

Tensor checked_weight(const char* op, const Tensor& weight, const Tensor& x, const Rows& r) {
  if (!weight.defined()) return {};
  require(weight.ndim() == 1 && weight.numel() == r.classes, op, "weight", ErrorKind::Shape, "expected shape (",
          r.classes, ",), one value per class, got ", weight.sizes());
  require(is_floating(weight.dtype()), op, "weight", ErrorKind::DType, "expected a floating point tensor, got ",
          weight.dtype());
  require(weight.device() == x.device(), op, "weight", ErrorKind::Device, "expected ", x.device(),
          " like the input, got ", weight.device());
  return contiguous(to_dtype(detach(weight), acc_dtype(x.dtype())));
}

Tensor checked_target(const char* op, const Tensor& target, const Tensor& x, const Dims& sizes) {
  require(is_integral(target.dtype()), op, "target", ErrorKind::DType, "expected integer class indices, got ",
          target.dtype());
  require(target.sizes() == sizes, op, "target", ErrorKind::Shape, "expected shape ", sizes, " for input ", x.sizes(),
          ", got ", target.sizes());
  require(target.device() == x.device(), op, "target", ErrorKind::Device, "expected ", x.device(),
          " like the input, got ", target.device());
  return contiguous(to_dtype(target, DType::Int64));
}

void check_position(const char* op, std::int64_t bad, std::int64_t classes, std::int64_t ignore_index) {
  require(bad < 0, op, "target", ErrorKind::Index, "expected class indices in [0, ", classes, ") or ignore_index ",
          ignore_index, ", got another value at flat position ", bad);
}

// ---- negative log-likelihood
// -----------------------------------------------------------------------------------------------------

// What the look-up and its gradient share.
struct Lookup {
  Rows rows;
  Tensor target, weight;
  std::int64_t ignore_index;
  Dims x_sizes;
};
NllLoss describe(const Lookup& l) {
  NllLoss k;
  k.target = l.target.data_as<std::int64_t>();
  k.weight = data_or_null(l.weight);
  k.outer = l.rows.outer;
  k.classes = l.rows.classes;
  k.inner = l.rows.inner;
  k.ignore_index = l.ignore_index;
  return k;
}

Tensor scatter_rows(const Lookup& l, const Tensor& g);

// -weight[t] x[t] per row. Linear in x, and scatter_rows is its transpose: each is the other's gradient.
Tensor gather_rows(const char* op, const Lookup& l, const Tensor& x, Tensor* row_weight = nullptr) {
  const Tensor xc = contiguous(detach(x));
  Tensor out = empty(l.rows.sizes, x.dtype(), x.device());
  const Tensor weights = empty(l.rows.sizes, acc_dtype(x.dtype()), x.device());
  NllLoss k = describe(l);
  k.x = xc.data();
  k.loss = out.data();
  k.row_weight = weights.data();
  if (out.numel() > 0) {
    const auto fn = kernel_or_fail(kernels<LossKernels>(x.device()).nll_loss[static_cast<int>(x.dtype())], op,
                                   x.device(), x.dtype());
    check_position(op, fn(k), l.rows.classes, l.ignore_index);
  }
  if (row_weight) *row_weight = weights;
  if (any_requires_grad(x))
    record("nll_loss", out, {&x}, [l, target = save(l.target), weight = save(l.weight)](Backward& bw) {
      target.get(bw);  // refuses targets and weights that were changed in place
      weight.get(bw);
      bw.set(0, scatter_rows(l, bw.grad()));
    });
  return out;
}

Tensor scatter_rows(const Lookup& l, const Tensor& g) {
  const Tensor gc = contiguous(detach(g));
  Tensor out = empty(l.x_sizes, g.dtype(), g.device());
  NllLoss k = describe(l);
  k.grad = gc.data();
  k.dx = out.data();
  if (out.numel() > 0)
    kernel_or_fail(kernels<LossKernels>(g.device()).nll_loss_backward[static_cast<int>(g.dtype())], "nll_loss_backward",
                   g.device(), g.dtype())(k);
  if (any_requires_grad(g))
    record("nll_loss_backward", out, {&g}, [l, target = save(l.target), weight = save(l.weight)](Backward& bw) {
      target.get(bw);
      weight.get(bw);
      bw.set(0, gather_rows("nll_loss_backward", l, bw.grad()));
    });
  return out;
}

// ---- cross-entropy with class indices
// --------------------------------------------------------------------------------------------

struct Problem {
  Rows rows;
  Tensor target, weight;
  std::int64_t ignore_index = -100;
  double smoothing = 0;
};
CrossEntropy describe(const Problem& p) {
  CrossEntropy k;
  k.target = p.target.data_as<std::int64_t>();
  k.weight = data_or_null(p.weight);
  k.outer = p.rows.outer;
  k.classes = p.rows.classes;
  k.inner = p.rows.inner;
  k.ignore_index = p.ignore_index;
  k.smoothing = p.smoothing;
  return k;
}

struct Forward {
  Tensor loss, row_weight, lse;  // one per row, in the accumulation dtype
};
Forward run_forward(const char* op, const Problem& p, const Tensor& x) {
  const DType acc = acc_dtype(x.dtype());
  Forward f = {empty(p.rows.sizes, acc, x.device()), empty(p.rows.sizes, acc, x.device()),
               empty(p.rows.sizes, acc, x.device())};
  CrossEntropy k = describe(p);
  k.x = x.data();
  k.loss = f.loss.data();
  k.row_weight = f.row_weight.data();
  k.lse = f.lse.data();
  if (f.loss.numel() > 0) {
    require(p.rows.classes > 0, op, "input", ErrorKind::Shape, "expected at least one class, got shape ", x.sizes());
    const auto fn = kernel_or_fail(kernels<LossKernels>(x.device()).cross_entropy[static_cast<int>(x.dtype())], op,
                                   x.device(), x.dtype());
    check_position(op, fn(k), p.rows.classes, p.ignore_index);
  }
  return f;
}

// dx for gradients g of the rows' losses (one per row, or 0-d), in the accumulation dtype; `dx` may be x.
void run_backward(const Problem& p, const Tensor& x, const Tensor& lse, const Tensor& g, const Tensor& dx) {
  CrossEntropy k = describe(p);
  k.x = x.data();
  k.lse = lse.data();
  k.grad = g.data();
  k.grad_stride = g.ndim() == 0 && lse.ndim() != 0 ? 0 : 1;
  k.dx = dx.data();
  if (x.numel() > 0)
    kernel_or_fail(kernels<LossKernels>(x.device()).cross_entropy_backward[static_cast<int>(x.dtype())],
                   "cross_entropy_backward", x.device(), x.dtype())(k);
}

// The loss, and for a mean what the sum was divided by.
std::pair<Tensor, Tensor> reduce_rows(const Forward& f, Reduction reduction) {
  if (reduction == Reduction::none) return {f.loss, {}};
  const Device device = f.loss.device();
  const auto kernel = device.is_cpu() ? nullptr : kernels<LossKernels>(device).mean[static_cast<int>(f.loss.dtype())];
  if (reduction == Reduction::mean && kernel && f.loss.numel() > 0 && f.loss.numel() <= kMostMeanRows) {
    const Tensor mean = empty({}, f.loss.dtype(), device), total = empty({}, f.loss.dtype(), device);
    kernel({f.loss.numel(), f.loss.data(), f.row_weight.data(), mean.data(), total.data()});
    return {mean, total};
  }
  const Tensor sum_of_losses = sum(f.loss, {}, false);
  if (reduction == Reduction::sum) return {sum_of_losses, {}};
  const Tensor total = sum(f.row_weight, {}, false);
  return {div(sum_of_losses, total), total};
}

// The same in differentiable ops:  g ((1 - s) w_t (p - onehot) + valid s / C (W p - w)).
Tensor composed_backward(const Problem& p, const Tensor& x, const Forward& f, const Tensor& g) {
  const DType acc = f.lse.dtype();
  const Dims shape = {p.rows.outer, p.rows.classes, p.rows.inner}, per_row = {p.rows.outer, 1, p.rows.inner};
  const Tensor e = exp(
      sub(reshape(to_dtype(x, acc), shape), reshape(f.lse, per_row)));  // lse is a constant: dividing makes it exact
  const Tensor probability = div(e, sum(e, {1}, true));
  const Tensor ones = full(p.rows.sizes, 1, acc, x.device());
  const Tensor onehot = reshape(neg(scatter_rows({p.rows, p.target, {}, p.ignore_index, shape}, ones)), shape);
  const Tensor hard = mul(reshape(f.row_weight, per_row), wrap_scalar(1 - p.smoothing));
  Tensor d = mul(hard, sub(probability, onehot));
  if (p.smoothing > 0) {
    const Tensor valid = reshape(to_dtype(ne(p.target, wrap_scalar(p.ignore_index)), acc), per_row);
    const Tensor w = p.weight.defined() ? reshape(p.weight, {1, p.rows.classes, 1})
                                        : full({1, p.rows.classes, 1}, 1, acc, x.device());
    const Tensor soft = sub(mul(probability, sum(w, {}, false)), w);
    d = add(d, mul(mul(valid, soft), wrap_scalar(p.smoothing / static_cast<double>(p.rows.classes))));
  }
  const Tensor gr = g.numel() == 1 && g.ndim() == 0 ? g : reshape(g, per_row);
  return to_dtype(reshape(mul(d, gr), x.sizes()), x.dtype());
}

Tensor reduced(const Tensor& rows, const Tensor& row_weight, Reduction reduction) {
  if (reduction == Reduction::none) return rows;
  const Tensor total = sum(rows, {}, false);
  return reduction == Reduction::sum ? total : div(total, sum(to_dtype(row_weight, rows.dtype()), {}, false));
}

void check_smoothing(const char* op, double s) {
  require(s >= 0 && s <= 1, op, "label_smoothing", ErrorKind::Value, "expected a value in [0, 1], got ", s);
}

// log sum exp over the classes, with that axis kept at size 1. Its gradient exp(x - lse) is written on the output, so
// that every order of differentiation works.
Tensor log_sum_exp(const Tensor& x, int axis, const Rows& r) {
  const Problem p = {r, full(r.sizes, std::int64_t{-100}, DType::Int64, x.device()), {}, -100, 0};
  Dims sizes = x.sizes();
  sizes[static_cast<std::size_t>(axis)] = 1;
  const Tensor rows = run_forward("cross_entropy", p, contiguous(detach(x))).lse;
  Tensor lse = alias(rows, sizes, contiguous_strides(sizes), 0);
  if (any_requires_grad(x))
    record("logsumexp", lse, {&x}, [x = save(x), lse = Saved(lse, 0)](Backward& bw) {
      bw.set(0, mul(bw.grad(), exp(sub(x.get(bw), lse.get(bw)))));
    });
  return lse;
}

// Targets given as probabilities: -sum_c w_c t_c log softmax(x)_c, mean over rows.
Tensor with_probabilities(const Tensor& x, const Tensor& target, const Tensor& weight, Reduction reduction,
                          double smoothing, const Rows& r) {
  const char* op = "cross_entropy";
  require(target.sizes() == x.sizes(), op, "target", ErrorKind::Shape, "expected class probabilities of shape ",
          x.sizes(), ", got ", target.sizes());
  const int axis = x.ndim() == 1 ? 0 : 1;
  Tensor t = target;
  if (smoothing > 0)
    t = add(mul(t, wrap_scalar(1 - smoothing)), wrap_scalar(smoothing / static_cast<double>(r.classes)));
  const Tensor wide = to_dtype(x, acc_dtype(x.dtype()));
  Tensor terms = mul(sub(wide, log_sum_exp(wide, axis, r)), t);
  if (weight.defined()) {
    Dims sizes = Dims::filled(x.sizes().size(), 1);
    sizes[static_cast<std::size_t>(axis)] = r.classes;
    terms = mul(terms, reshape(weight, sizes));
  }
  const Tensor rows = neg(sum(terms, {axis}, false));
  if (reduction == Reduction::none) return to_dtype(rows, x.dtype());
  const Tensor total = sum(rows, {}, false);
  return to_dtype(reduction == Reduction::sum ? total : div(total, wrap_scalar(static_cast<double>(rows.numel()))),
                  x.dtype());
}

}  // namespace

Reduction parse_reduction(const char* op, const std::string& text) {
  if (text == "mean") return Reduction::mean;
  if (text == "sum") return Reduction::sum;
  if (text == "none") return Reduction::none;
  fail(op, "reduction", ErrorKind::Value, "expected 'none', 'mean' or 'sum', got '", text, "'");
}

Tensor nll_loss(const Tensor& x, const Tensor& target, const Tensor& weight, std::int64_t ignore_index,
                Reduction reduction) {
  const char* op = "nll_loss";
  const Rows r = rows_of(op, x);
  const Tensor w = checked_weight(op, weight, x, r);
  const Lookup l = {r, checked_target(op, target, x, r.sizes), w, ignore_index, x.sizes()};
  Tensor row_weight;
  const Tensor rows = gather_rows(op, l, x, &row_weight);
  return reduced(rows, row_weight, reduction);
}

Tensor cross_entropy(const Tensor& x, const Tensor& target, const Tensor& weight, std::int64_t ignore_index,
                     Reduction reduction, double label_smoothing) {
  const char* op = "cross_entropy";
  const Rows r = rows_of(op, x);
  check_smoothing(op, label_smoothing);
  // Mixed precision wants what float32 logits give. The kernel computes in float32 anyway: converting would only cost
  // memory, the largest tensor of many models twice.
  const bool widened = x.dtype() != acc_dtype(x.dtype()) && autocast_state().enabled[static_cast<int>(x.device().type)];
  if (widened && is_floating(target.dtype()))
    return cross_entropy(to_dtype(x, DType::Float32), to_dtype(target, DType::Float32), weight, ignore_index, reduction,
                         label_smoothing);
  const Tensor w = checked_weight(op, weight, x, r);
  if (is_floating(target.dtype())) return with_probabilities(x, target, w, reduction, label_smoothing, r);
  const Problem p = {r, checked_target(op, target, x, r.sizes), w, ignore_index, label_smoothing};
  const Forward f = run_forward(op, p, contiguous(detach(x)));
  const auto [out_acc, total_weight] = reduce_rows(f, reduction);
  Tensor out = out_acc;
  if (!widened) out = to_dtype(out, x.dtype());
  if (!any_requires_grad(x)) return out;

  record(op, out, {&x},
         [x = save(x), target = save(p.target), weight = save(p.weight), p, f = Forward{{}, f.row_weight, f.lse},
          total_weight = total_weight](Backward& bw) {
           const Tensor x0 = x.get(bw);
           target.get(bw);
           weight.get(bw);
           Tensor g = to_dtype(bw.grad(), f.lse.dtype());
           if (total_weight.defined()) g = div(g, total_weight);
           if (bw.create_graph) {
             bw.set(0, composed_backward(p, x0, f, g));
             return;
           }
           const Tensor xc = contiguous(x0), gc = contiguous(g);
           const Tensor dx = empty(xc.sizes(), xc.dtype(), xc.device());
           run_backward(p, xc, f.lse, gc, dx);
           bw.set(0, dx);
         });
  return out;
}

// ---- fused with the last linear layer
// --------------------------------------------------------------------------------------------

namespace {

// Rows per block: about 16 MiB of logits, and enough rows for the matrix products to run at full speed.
std::int64_t block_rows(const Tensor& weight) {
  const std::int64_t bytes =
      std::max<std::int64_t>(1, weight.sizes()[0]) * static_cast<std::int64_t>(itemsize(weight.dtype()));
  return std::clamp<std::int64_t>((std::int64_t{16} << 20) / bytes, 128, 4096);
}

struct HeadGradients {
  Tensor dx, dweight, dbias;
};

// Visits blocks of rows: logits, loss rows, and where wanted the gradients for row gradients g (per row or 0-d).
Tensor run_head(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias, const Problem& all,
                const Tensor& g, HeadGradients* grads) {
  const GradModeGuard off(false);
  const std::int64_t rows = x.sizes()[0], step = block_rows(weight);
  const DType acc = acc_dtype(x.dtype());
  Tensor loss = empty({rows}, acc, x.device());
  for (std::int64_t b = 0; b < rows; b += step) {
    const std::int64_t n = std::min(step, rows - b);
    const Tensor xb = narrow(x, 0, b, n);
    const Tensor logits = contiguous(linear(xb, weight, bias));
    Problem p = all;
    p.rows = {n, weight.sizes()[0], 1, {n}};
    p.target = narrow(all.target, 0, b, n);
    const Forward f = run_forward(op, p, logits);
    Tensor loss_block = narrow(loss, 0, b, n);
    copy_raw(loss_block, f.loss);
    if (!grads) continue;
    run_backward(p, logits, f.lse, g.ndim() == 0 ? g : narrow(g, 0, b, n), logits);
    if (grads->dx.defined()) copy_raw(narrow(grads->dx, 0, b, n), matmul(logits, weight));
    if (grads->dweight.defined()) add_(grads->dweight, matmul(transpose(logits, 0, 1), xb));
    if (grads->dbias.defined()) add_(grads->dbias, sum(logits, {0}, false));
  }
  return loss;
}

HeadGradients head_gradients(const Tensor& x, const Tensor& weight, const Tensor& bias, bool for_x, bool for_weight,
                             bool for_bias) {
  const DType acc = acc_dtype(x.dtype());
  HeadGradients g;
  if (for_x) g.dx = empty(x.sizes(), x.dtype(), x.device());
  if (for_weight) g.dweight = full(weight.sizes(), 0, acc, weight.device());
  if (for_bias && bias.defined()) g.dbias = full(bias.sizes(), 0, acc, bias.device());
  return g;
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& x, const Tensor& weight, const Tensor& target, const Tensor& bias,
                            std::int64_t ignore_index, Reduction reduction, double label_smoothing) {
  const char* op = "linear_cross_entropy";
  check_smoothing(op, label_smoothing);
  require(is_floating(x.dtype()) && x.ndim() >= 1, op, "input", ErrorKind::Shape,
          "expected a floating point tensor (*, H), got ", x.dtype(), " of shape ", x.sizes());
  require(weight.ndim() == 2 && weight.sizes()[1] == x.sizes().back(), op, "weight", ErrorKind::Shape,
          "expected shape (V, ", x.sizes().back(), "), got ", weight.sizes());
  require(weight.dtype() == x.dtype(), op, "weight", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
          weight.dtype());
  if (bias.defined()) {
    require(bias.ndim() == 1 && bias.numel() == weight.sizes()[0], op, "bias", ErrorKind::Shape, "expected shape (",
            weight.sizes()[0], ",), got ", bias.sizes());
    require(bias.dtype() == x.dtype(), op, "bias", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
            bias.dtype());
  }
  Dims lead = x.sizes();
  lead.resize(lead.size() - 1);
  const Tensor t = reshape(checked_target(op, target, x, lead), {target.numel()});
  const Tensor flat = reshape(x, {t.numel(), x.sizes().back()});
  const Problem p = {{}, t, {}, ignore_index, label_smoothing};
  const DType acc = acc_dtype(x.dtype());
  const Tensor count =
      reduction == Reduction::mean ? to_dtype(sum(ne(t, wrap_scalar(ignore_index)), {}, false), acc) : Tensor();

  const bool wanted = any_requires_grad(x, weight, bias);
  HeadGradients early;
  if (wanted && reduction != Reduction::none)
    early = head_gradients(detach(flat), weight, bias, x.requires_grad(), weight.requires_grad(),
                           bias.defined() && bias.requires_grad());
  const Tensor unit = count.defined() ? div(full({}, 1, acc, x.device()), count) : full({}, 1, acc, x.device());
  const bool now = wanted && reduction != Reduction::none;
  Tensor rows = run_head(op, detach(flat), detach(weight), bias.defined() ? detach(bias) : Tensor(), p, unit,
                         now ? &early : nullptr);
  Tensor out;
  if (reduction == Reduction::none)
    out = reshape(rows, lead);
  else
    out = count.defined() ? div(sum(rows, {}, false), count) : sum(rows, {}, false);
  out = to_dtype(out, x.dtype());
  if (!wanted) return out;

  record(op, out, {&x, &weight, &bias},
         [x = save(x), weight = save(weight), bias = save(bias), target = save(p.target), p, count, now, op,
          dx = save(early.dx), dweight = save(early.dweight), dbias = save(early.dbias)](Backward& bw) {
           target.get(bw);
           const Tensor x0 = x.get(bw), w0 = weight.get(bw), b0 = bias.get(bw);
           const Tensor flat = reshape(x0, {p.target.numel(), x0.sizes().back()});
           const DType acc = acc_dtype(x0.dtype());
           Tensor g = to_dtype(bw.grad(), acc);
           HeadGradients d;
           if (bw.create_graph) {
             const Tensor logits = linear(flat, w0, b0);
             Problem q = p;
             q.rows = {flat.sizes()[0], w0.sizes()[0], 1, {flat.sizes()[0]}};
             const Forward f = run_forward(op, q, contiguous(detach(logits)));
             if (count.defined()) g = div(g, count);
             if (g.ndim() > 0) g = reshape(g, {flat.sizes()[0]});
             const Tensor dl = composed_backward(q, logits, f, g);
             d = {matmul(dl, w0), matmul(transpose(dl, 0, 1), flat), sum(dl, {0}, false)};
           } else if (now) {
             if (bw.needs(0)) d.dx = mul(dx.get(bw), to_dtype(g, x0.dtype()));
             if (bw.needs(1)) d.dweight = mul(dweight.get(bw), g);
             if (bw.needs(2)) d.dbias = mul(dbias.get(bw), g);
           } else {
             d = head_gradients(flat, w0, b0, bw.needs(0), bw.needs(1), bw.needs(2));
             run_head(op, contiguous(flat), w0, b0, p, contiguous(reshape(g, {flat.sizes()[0]})), &d);
           }
           if (bw.needs(0)) bw.set(0, reshape(d.dx, x0.sizes()));
           if (bw.needs(1)) bw.set(1, to_dtype(d.dweight, w0.dtype()));
           if (bw.needs(2)) bw.set(2, to_dtype(d.dbias, b0.dtype()));
         });
  return out;
}

}  // namespace pydlx::ops
