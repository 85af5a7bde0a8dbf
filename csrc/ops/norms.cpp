#include "ops/norms.h"

#include "autograd/node.h"
#include "kernels/norm.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

DType stat_dtype(DType t) { return t == DType::Float64 ? DType::Float64 : DType::Float32; }

void check_input(const char* op, const Tensor& x) {
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  require(x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least 2 axes (sample, channel, ...), got shape ",
          x.sizes());
}
void check_vector(const char* op, const char* name, const Tensor& v, const Tensor& x) {
  if (!v.defined()) return;
  require(v.ndim() == 1 && v.numel() == x.sizes()[1], op, name, ErrorKind::Shape, "expected shape (", x.sizes()[1],
          ",), one value per channel of the input, got ", v.sizes());
  require(is_floating(v.dtype()), op, name, ErrorKind::DType, "expected a floating point tensor, got ", v.dtype());
  require(v.device() == x.device(), op, name, ErrorKind::Device, "expected ", x.device(), " like the input, got ",
          v.device());
}

// A parameter vector as the kernels read it.
Tensor vector_for(const Tensor& v, DType dtype) {
  return v.defined() ? contiguous(to_dtype(detach(v), dtype)) : Tensor();
}
// Of a tensor in the given format; pixels of channels-last tensors are samples of one value per channel.
ChannelNorm describe(const Tensor& x, MemoryFormat format = MemoryFormat::contiguous) {
  ChannelNorm k;
  k.x = x.data();
  k.batch = x.sizes()[0];
  k.channels = x.sizes()[1];
  k.spatial = 1;
  for (int i = 2; i < x.ndim(); ++i) (format == MemoryFormat::contiguous ? k.spatial : k.batch) *= x.sizes()[i];
  return k;
}

// v of shape (channels) as (1, channels, 1, ...).
Tensor per_channel(const Tensor& v, int ndim) {
  Dims sizes = Dims::filled(static_cast<std::size_t>(ndim), 1);
  sizes[1] = v.numel();
  return reshape(v, sizes);
}
Dims all_but_channels(int ndim) {
  Dims axes = {0};
  for (int i = 2; i < ndim; ++i) axes.push_back(i);
  return axes;
}
Tensor mean_over(const Tensor& x, const Dims& axes) {
  double n = 1;
  for (auto a : axes) n *= static_cast<double>(x.sizes()[a]);
  return div(sum(x, axes, true), wrap_scalar(n));
}

struct Gradients {
  Tensor dx, dweight, dbias;
};
void set_gradients(Backward& bw, const Gradients& g, DType x, DType weight, DType bias) {
  if (bw.needs(0)) bw.set(0, to_dtype(g.dx, x));
  if (bw.needs(1)) bw.set(1, to_dtype(g.dweight, weight));
  if (bw.needs(2)) bw.set(2, to_dtype(g.dbias, bias));
}

// The gradient of y = (x - mean) rstd weight + bias in differentiable ops, used when gradients of gradients are
// recorded. `axes` are those the statistics run over; they are constants when `fixed_mean` is given.
//   dx = rstd (h - mean(h) - xhat mean(h xhat)),  h = dy weight
Gradients composed(const Tensor& g, const Tensor& x, const Tensor& weight, const Dims& axes, const Dims& parameter_axes,
                   double eps, const Tensor& fixed_mean = {}, const Tensor& fixed_rstd = {}) {
  const bool fixed = fixed_mean.defined();
  const Tensor centred = sub(x, fixed ? fixed_mean : mean_over(x, axes));
  const Tensor rstd =
      fixed ? fixed_rstd : div(wrap_scalar(1.0), sqrt(add(mean_over(mul(centred, centred), axes), wrap_scalar(eps))));
  const Tensor xhat = mul(centred, rstd), h = weight.defined() ? mul(g, weight) : g;
  const Tensor dx =
      fixed ? mul(rstd, h) : mul(rstd, sub(sub(h, mean_over(h, axes)), mul(xhat, mean_over(mul(h, xhat), axes))));
  return {dx, sum(mul(g, xhat), parameter_axes, false), sum(g, parameter_axes, false)};
}

using NormFn = void (*const (&)[kDTypeCount])(const ChannelNorm&);
void launch(const char* op, NormFn table, const Tensor& x, const ChannelNorm& k) {
  kernel_or_fail(table[static_cast<int>(x.dtype())], op, x.device(), x.dtype())(k);
}
const NormKernels& norm(const Tensor& x) { return kernels<NormKernels>(x.device()); }

// Allocates what backward was asked for and points the kernel at it.
Gradients prepare(ChannelNorm& k, const Backward& bw, const Tensor& x, MemoryFormat format = MemoryFormat::contiguous) {
  Gradients g;
  const DType stat = stat_dtype(x.dtype());
  if (bw.needs(0)) g.dx = empty(x.sizes(), x.dtype(), x.device(), format);
  if (bw.needs(1)) g.dweight = empty({k.channels}, stat, x.device());
  if (bw.needs(2)) g.dbias = empty({k.channels}, stat, x.device());
  k.out = data_or_null(g.dx);
  k.dweight = data_or_null(g.dweight);
  k.dbias = data_or_null(g.dbias);
  return g;
}

// A running statistic that kernels can move: one as they write it.
bool is_statistic(const Tensor& running, DType stat) {
  return running.defined() && running.dtype() == stat && running.contiguous_layout();
}
// Others: running = (1 - momentum) running + momentum value, in place and outside the graph.
void move_running(const Tensor& running, const Tensor& value, double momentum) {
  const GradModeGuard off(false);
  Tensor r = running;
  copy_(r, add(mul(r, wrap_scalar(1 - momentum)), mul(value, wrap_scalar(momentum))));
}

}  // namespace

Tensor batch_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight,
                  const Tensor& bias, bool training, double momentum, double eps) {
  const char* op = "batch_norm";
  check_input(op, x);
  check_vector(op, "running_mean", running_mean, x);
  check_vector(op, "running_var", running_var, x);
  check_vector(op, "weight", weight, x);
  check_vector(op, "bias", bias, x);
  require(training || (running_mean.defined() && running_var.defined()), op, "running_mean", ErrorKind::Value,
          "expected running statistics when training=False, got None");
  const DType stat = stat_dtype(x.dtype());
  const MemoryFormat format = format_of(x);
  const Tensor xc = contiguous(detach(x), format);
  ChannelNorm k = describe(xc, format);
  const std::int64_t count = k.batch * k.spatial;
  require(!training || count != 1, op, "input", ErrorKind::Value,
          "expected more than one value per channel when training, got shape ", x.sizes());

  const Tensor w = vector_for(weight, stat), b = vector_for(bias, stat);
  Tensor y = empty(xc.sizes(), xc.dtype(), xc.device(), format);
  k.weight = data_or_null(w);
  k.bias = data_or_null(b);
  k.out = y.data();
  Tensor mean, rstd;
  bool applied = count == 0;
  if (training) {
    mean = empty({k.channels}, stat, x.device());
    rstd = empty({k.channels}, stat, x.device());
    Tensor var = empty({k.channels}, stat, x.device());
    k.mean = mean.data();
    k.rstd = rstd.data();
    k.var = var.data();
    k.eps = eps;
    if (count > 0) {
      for (const Tensor* running : {&running_mean, &running_var})
        if (running->defined()) check_inplace(*running, op);
      const bool moves_mean = is_statistic(running_mean, stat), moves_var = is_statistic(running_var, stat);
      k.running_mean = moves_mean ? running_mean.data() : nullptr;
      k.running_var = moves_var ? running_var.data() : nullptr;
      k.momentum = momentum;
      applied = norm(x).batch_norm_train[static_cast<int>(x.dtype())] != nullptr;
      launch(op, applied ? norm(x).batch_norm_train : norm(x).batch_norm_stats, xc, k);
      if (moves_mean) bump_version(running_mean, op);
      if (moves_var) bump_version(running_var, op);
      if (running_mean.defined() && !moves_mean) move_running(running_mean, mean, momentum);
      if (running_var.defined() && !moves_var)
        move_running(running_var, mul(var, wrap_scalar(static_cast<double>(count) / static_cast<double>(count - 1))),
                     momentum);
    }
  } else {
    const GradModeGuard off(false);
    // Copies: later training steps must not disturb a pending backward.
    mean = empty({k.channels}, stat, x.device());
    rstd = empty({k.channels}, stat, x.device());
    const Tensor m = vector_for(running_mean, stat), v = vector_for(running_var, stat);
    k.mean = mean.data();
    k.rstd = rstd.data();
    k.running_mean = m.data();
    k.running_var = v.data();
    k.eps = eps;
    if (k.channels > 0) launch(op, norm(x).batch_norm_fixed, xc, k);
  }
  if (!applied && y.numel() > 0) launch(op, norm(x).batch_norm_apply, xc, k);
  if (!any_requires_grad(x, weight, bias)) return y;

  record(op, y, {&x, &weight, &bias},
         [x = save(x), weight = save(weight), mean, rstd, eps, training, format,
          wd = weight.defined() ? weight.dtype() : stat, bd = bias.defined() ? bias.dtype() : stat](Backward& bw) {
           const Tensor x0 = x.get(bw), w0 = weight.get(bw);
           const int ndim = x0.ndim();
           if (bw.create_graph || x0.numel() == 0) {
             const Dims axes = all_but_channels(ndim);
             const Tensor wb = w0.defined() ? per_channel(w0, ndim) : Tensor();
             set_gradients(bw,
                           training ? composed(bw.grad(), x0, wb, axes, axes, eps)
                                    : composed(bw.grad(), x0, wb, axes, axes, eps, per_channel(mean, ndim),
                                               per_channel(rstd, ndim)),
                           x0.dtype(), wd, bd);
             return;
           }
           const DType acc = mean.dtype();
           const Tensor xd = contiguous(x0, format), g = contiguous(bw.grad(), format), wv = vector_for(w0, acc);
           ChannelNorm k = describe(xd, format);
           k.dy = g.data();
           k.weight = data_or_null(wv);
           k.mean = mean.data();
           k.rstd = rstd.data();
           k.training = training;
           const Gradients r = prepare(k, bw, xd, format);
           launch("batch_norm_backward", norm(xd).batch_norm_backward, xd, k);
           set_gradients(bw, r, x0.dtype(), wd, bd);
         });
  return y;
}

namespace {

Tensor group_norm_impl(const char* op, const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias,
                       double eps) {
  const DType stat = stat_dtype(x.dtype());
  const Tensor xc = contiguous(detach(x)), w = vector_for(weight, stat), b = vector_for(bias, stat);
  ChannelNorm k = describe(xc);
  k.groups = groups;
  k.eps = eps;
  k.weight = data_or_null(w);
  k.bias = data_or_null(b);
  Tensor y = empty(xc.sizes(), xc.dtype(), xc.device());
  const Tensor mean = empty({k.batch, groups}, stat, x.device()), rstd = empty({k.batch, groups}, stat, x.device());
  k.out = y.data();
  k.mean = mean.data();
  k.rstd = rstd.data();
  if (y.numel() > 0) launch(op, norm(x).group_norm, xc, k);
  y = to_format(y, format_of(x));
  if (!any_requires_grad(x, weight, bias)) return y;

  record(op, y, {&x, &weight, &bias},
         [op, x = save(x), weight = save(weight), mean, rstd, eps, groups,
          wd = weight.defined() ? weight.dtype() : stat, bd = bias.defined() ? bias.dtype() : stat](Backward& bw) {
           const Tensor x0 = x.get(bw), w0 = weight.get(bw);
           const Tensor xd = contiguous(detach(x0));
           ChannelNorm k = describe(xd);
           if (bw.create_graph || x0.numel() == 0) {
             const Dims split = {k.batch, groups, k.channels / groups, k.spatial};
             const Tensor wb = w0.defined() ? reshape(w0, {1, groups, k.channels / groups, 1}) : Tensor();
             Gradients r = composed(reshape(bw.grad(), split), reshape(x0, split), wb, {2, 3}, {0, 3}, eps);
             r = {reshape(r.dx, x0.sizes()), reshape(r.dweight, {k.channels}), reshape(r.dbias, {k.channels})};
             set_gradients(bw, r, x0.dtype(), wd, bd);
             return;
           }
           const DType acc = mean.dtype();
           const Tensor g = contiguous(bw.grad()), wv = vector_for(w0, acc),
                        scratch = empty({2, k.batch, k.channels}, acc, xd.device());
           k.dy = g.data();
           k.groups = groups;
           k.weight = data_or_null(wv);
           k.mean = mean.data();
           k.rstd = rstd.data();
           k.scratch = scratch.data();
           const Gradients r = prepare(k, bw, xd);
           launch((std::string(op) + "_backward").c_str(), norm(xd).group_norm_backward, xd, k);
           set_gradients(bw, r, x0.dtype(), wd, bd);
         });
  return y;
}

}  // namespace

Tensor group_norm(const Tensor& x, std::int64_t groups, const Tensor& weight, const Tensor& bias, double eps) {
  const char* op = "group_norm";
  check_input(op, x);
  require(groups > 0 && x.sizes()[1] % groups == 0, op, "num_groups", ErrorKind::Value, "expected a divisor of the ",
          x.sizes()[1], " channels, got ", groups);
  check_vector(op, "weight", weight, x);
  check_vector(op, "bias", bias, x);
  return group_norm_impl(op, x, groups, weight, bias, eps);
}

Tensor instance_norm(const Tensor& x, const Tensor& running_mean, const Tensor& running_var, const Tensor& weight,
                     const Tensor& bias, bool use_input_stats, double momentum, double eps) {
  const char* op = "instance_norm";
  check_input(op, x);
  check_vector(op, "running_mean", running_mean, x);
  check_vector(op, "running_var", running_var, x);
  check_vector(op, "weight", weight, x);
  check_vector(op, "bias", bias, x);
  if (!use_input_stats) return batch_norm(x, running_mean, running_var, weight, bias, false, momentum, eps);
  std::int64_t spatial = 1;
  for (int i = 2; i < x.ndim(); ++i) spatial *= x.sizes()[i];
  require(spatial != 1, op, "input", ErrorKind::Value, "expected more than one value per channel, got shape ",
          x.sizes());
  if (x.sizes()[1] == 0) return contiguous(x);
  if ((running_mean.defined() || running_var.defined()) && x.numel() > 0) {
    const GradModeGuard off(false);
    const Tensor flat = reshape(detach(x), {x.sizes()[0], x.sizes()[1], spatial});
    const Tensor m = mean_over(flat, {2}), centred = sub(flat, m);
    const Tensor var = div(sum(mul(centred, centred), {2}, true), wrap_scalar(static_cast<double>(spatial - 1)));
    const Dims sizes = {x.sizes()[1]};
    for (const Tensor* running : {&running_mean, &running_var})
      if (running->defined()) check_inplace(*running, op);
    if (running_mean.defined()) move_running(running_mean, reshape(mean_over(m, {0}), sizes), momentum);
    if (running_var.defined()) move_running(running_var, reshape(mean_over(var, {0}), sizes), momentum);
  }
  return group_norm_impl(op, x, x.sizes()[1], weight, bias, eps);
}

}  // namespace pydlx::ops
