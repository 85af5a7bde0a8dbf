#include "ops/layer_norm.h"

#include <tuple>

#include "autograd/node.h"
#include "kernels/norm.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

enum Input : std::size_t { kX, kResidual, kWeight, kBias };

// Gradient of the normalisation in differentiable ops, on x and g of shape [rows, cols]:
//   dx = rstd (h - mean(h) - xhat mean(h xhat)),  h = g * weight,  xhat = (x - mean) rstd
// Used when gradients of gradients are recorded, and as the oracle of the fused kernel in the tests.
struct Composed {
  Tensor dx, dweight, dbias;
};
// Without the two means of `centred`, RMS normalisation.
Composed composed_backward(const Tensor& g, const Tensor& x, const Tensor& weight, double eps, bool centre) {
  const Tensor n = wrap_scalar(static_cast<double>(x.size(1)));
  const Tensor centred = centre ? sub(x, div(sum(x, {1}, true), n)) : x;
  const Tensor variance = div(sum(mul(centred, centred), {1}, true), n);
  const Tensor rstd = div(wrap_scalar(1.0), sqrt(add(variance, wrap_scalar(eps))));
  const Tensor xhat = mul(centred, rstd);
  const Tensor h = weight.defined() ? mul(g, weight) : g;
  const Tensor mean_hx = div(sum(mul(h, xhat), {1}, true), n);
  return {mul(rstd, sub(centre ? sub(h, div(sum(h, {1}, true), n)) : h, mul(xhat, mean_hx))),
          sum(mul(g, xhat), {0}, false), sum(g, {0}, false)};
}

// Gradients of the normalised rows from that of the result; `dsum` is added to that of the rows when it is defined.
Composed fused_backward(const Backward& bw, const Tensor& grad, const Tensor& dsum, const Tensor& x,
                        const Tensor& weight, const Tensor& mean, const Tensor& rstd, const Dims& shape,
                        std::int64_t rows, std::int64_t cols) {
  const Tensor g = contiguous(grad), xc = contiguous(x), wc = weight.defined() ? contiguous(weight) : Tensor(),
               ds = dsum.defined() ? contiguous(dsum) : Tensor();
  Composed out;
  Tensor scratch;
  LayerNormBackward k;
  if (bw.needs(kX) || bw.needs(kResidual)) out.dx = empty(xc.sizes(), xc.dtype(), xc.device());
  if (bw.needs(kWeight)) out.dweight = empty(shape, xc.dtype(), xc.device());
  if (bw.needs(kBias)) out.dbias = empty(shape, xc.dtype(), xc.device());
  if (bw.needs(kWeight) || bw.needs(kBias)) {
    scratch = empty({layer_norm_scratch(rows, cols)}, rstd.dtype(), xc.device());
    k.scratch = scratch.data();
  }
  k.dy = g.data();
  k.x = xc.data();
  k.weight = data_or_null(wc);
  k.mean = data_or_null(mean);
  k.rstd = rstd.data();
  k.dsum = data_or_null(ds);
  k.dx = data_or_null(out.dx);
  k.dweight = data_or_null(out.dweight);
  k.dbias = data_or_null(out.dbias);
  k.rows = rows;
  k.cols = cols;
  kernel_or_fail(kernels<NormKernels>(xc.device()).layer_norm_backward[static_cast<int>(xc.dtype())],
                 "layer_norm_backward", xc.device(), xc.dtype())(k);
  return out;
}

// {normalised x}, or with a residual {x + residual, that sum normalised}.
TensorList normalise_rows(const char* op, const Tensor& x, const Tensor& residual, const Dims& shape,
                          const Tensor& weight, const Tensor& bias, double eps, bool centre) {
  require(!shape.empty(), op, "normalized_shape", ErrorKind::Shape, "expected at least one size");
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  const int lead = x.ndim() - shape.ndim();
  require(lead >= 0 && Dims(x.sizes().begin() + std::max(lead, 0), shape.size()) == shape, op, "input",
          ErrorKind::Shape, "expected trailing sizes ", shape, ", got ", x.sizes());
  for (const auto& [p, name, sizes] : {std::tuple(&residual, "residual", &x.sizes()),
                                       std::tuple(&weight, "weight", &shape), std::tuple(&bias, "bias", &shape)}) {
    if (!p->defined()) continue;
    require(p->sizes() == *sizes, op, name, ErrorKind::Shape, "expected shape ", *sizes, ", got ", p->sizes());
    require(p->dtype() == x.dtype(), op, name, ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
            p->dtype());
  }
  common_device(op, {&x, &residual, &weight, &bias});

  const auto plain = [](const Tensor& t) { return t.defined() ? contiguous(detach(t)) : Tensor(); };
  const Tensor xc = plain(x), rc = plain(residual), w = plain(weight), b = plain(bias);
  std::int64_t cols = 1;
  for (auto s : shape) cols *= s;
  const std::int64_t rows = cols == 0 ? 0 : x.numel() / cols;
  const DType stat = x.dtype() == DType::Float64 ? DType::Float64 : DType::Float32;
  const bool pair = residual.defined();
  TensorList out;
  if (pair) out.push_back(empty(x.sizes(), x.dtype(), x.device()));
  out.push_back(empty(x.sizes(), x.dtype(), x.device()));
  const Tensor mean = centre ? empty({rows}, stat, x.device()) : Tensor(), rstd = empty({rows}, stat, x.device());
  if (rows > 0) {
    LayerNormForward k;
    k.x = xc.data();
    k.residual = pair ? rc.data() : nullptr;
    k.sum = pair ? out[0].data() : nullptr;
    k.weight = data_or_null(w);
    k.bias = data_or_null(b);
    k.y = out.back().data();
    k.mean = data_or_null(mean);
    k.rstd = rstd.data();
    k.rows = rows;
    k.cols = cols;
    k.eps = eps;
    kernel_or_fail(kernels<NormKernels>(x.device()).layer_norm[static_cast<int>(x.dtype())], op, x.device(),
                   x.dtype())(k);
  }
  if (!any_requires_grad(x, residual, weight, bias)) return out;

  record_many(op, out, {&x, &residual, &weight, &bias},
              [x = pair ? Saved(out[0], 0) : save(x), weight = save(weight), mean, rstd, rows, cols, eps, shape, centre,
               pair](Backward& bw) {
                const std::size_t result = pair ? 1 : 0;
                const Tensor dsum = pair && bw.has_grad(0) ? bw.grad(0) : Tensor();
                Composed c;
                if (bw.has_grad(result)) {
                  const Tensor x0 = x.get(bw), w0 = weight.get(bw), &g = bw.grad(result);
                  if (bw.create_graph || rows == 0) {
                    c = composed_backward(reshape(g, {rows, cols}), reshape(x0, {rows, cols}),
                                          w0.defined() ? reshape(w0, {cols}) : Tensor(), eps, centre);
                    c = {reshape(c.dx, x0.sizes()), reshape(c.dweight, shape), reshape(c.dbias, shape)};
                    if (dsum.defined()) c.dx = add(c.dx, dsum);
                  } else {
                    c = fused_backward(bw, g, dsum, x0, w0, mean, rstd, shape, rows, cols);
                  }
                } else {
                  c.dx = dsum;
                }
                if (bw.needs(kX)) bw.set(kX, c.dx);
                if (bw.needs(kResidual)) bw.set(kResidual, c.dx);
                if (bw.needs(kWeight)) bw.set(kWeight, c.dweight);
                if (bw.needs(kBias)) bw.set(kBias, c.dbias);
              });
  return out;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Dims& shape, const Tensor& weight, const Tensor& bias, double eps) {
  return normalise_rows("layer_norm", x, {}, shape, weight, bias, eps, true).back();
}

std::pair<Tensor, Tensor> add_layer_norm(const Tensor& x, const Tensor& residual, const Dims& shape,
                                         const Tensor& weight, const Tensor& bias, double eps) {
  const TensorList out = normalise_rows("add_layer_norm", x, residual, shape, weight, bias, eps, true);
  return {out[0], out[1]};
}

namespace {

double default_eps(const char* op, const Tensor& x, std::optional<double> eps) {
  const double machine[] = {0x1p-10, 0x1p-7, 0x1p-23, 0x1p-52};  // float16, bfloat16, float32, float64
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  return eps.value_or(machine[static_cast<int>(x.dtype()) - static_cast<int>(DType::Float16)]);
}

}  // namespace

Tensor rms_norm(const Tensor& x, const Dims& shape, const Tensor& weight, std::optional<double> eps) {
  return normalise_rows("rms_norm", x, {}, shape, weight, {}, default_eps("rms_norm", x, eps), false).back();
}

std::pair<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Dims& shape, const Tensor& weight,
                                       std::optional<double> eps) {
  const TensorList out =
      normalise_rows("add_rms_norm", x, residual, shape, weight, {}, default_eps("add_rms_norm", x, eps), false);
  return {out[0], out[1]};
}

}  // namespace pydlx::ops
