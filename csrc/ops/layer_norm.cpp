#include "ops/layer_norm.h"

#include "autograd/node.h"
#include "kernels/norm.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

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

Tensor normalise_rows(const char* op, const Tensor& x, const Dims& shape, const Tensor& weight, const Tensor& bias,
                      double eps, bool centre) {
  require(!shape.empty(), op, "normalized_shape", ErrorKind::Shape, "expected at least one size");
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
  const int lead = x.ndim() - shape.ndim();
  require(lead >= 0 && Dims(x.sizes().begin() + std::max(lead, 0), shape.size()) == shape, op, "input",
          ErrorKind::Shape, "expected trailing sizes ", shape, ", got ", x.sizes());
  for (const auto& [p, name] : {std::pair(&weight, "weight"), std::pair(&bias, "bias")}) {
    if (!p->defined()) continue;
    require(p->sizes() == shape, op, name, ErrorKind::Shape, "expected shape ", shape, ", got ", p->sizes());
    require(p->dtype() == x.dtype(), op, name, ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
            p->dtype());
  }
  common_device(op, {&x, &weight, &bias});

  const Tensor xc = contiguous(detach(x));
  const Tensor w = weight.defined() ? contiguous(detach(weight)) : Tensor(),
               b = bias.defined() ? contiguous(detach(bias)) : Tensor();
  std::int64_t cols = 1;
  for (auto s : shape) cols *= s;
  const std::int64_t rows = cols == 0 ? 0 : x.numel() / cols;
  const DType stat = x.dtype() == DType::Float64 ? DType::Float64 : DType::Float32;
  Tensor y = empty(x.sizes(), x.dtype(), x.device());
  const Tensor mean = centre ? empty({rows}, stat, x.device()) : Tensor(), rstd = empty({rows}, stat, x.device());
  if (rows > 0) {
    LayerNormForward k;
    k.x = xc.data();
    k.weight = w.defined() ? w.data() : nullptr;
    k.bias = b.defined() ? b.data() : nullptr;
    k.y = y.data();
    k.mean = mean.defined() ? mean.data() : nullptr;
    k.rstd = rstd.data();
    k.rows = rows;
    k.cols = cols;
    k.eps = eps;
    kernel_or_fail(kernels<NormKernels>(x.device()).layer_norm[static_cast<int>(x.dtype())], op, x.device(),
                   x.dtype())(k);
  }
  if (!any_requires_grad(x, weight, bias)) return y;

  record(op, y, {&x, &weight, &bias},
         [x = save(x), weight = save(weight), mean, rstd, rows, cols, eps, shape, centre](Backward& bw) {
           const Tensor x0 = x.get(bw), w0 = weight.get(bw);
           if (bw.create_graph || rows == 0) {
             const Tensor flat_w = w0.defined() ? reshape(w0, {cols}) : Tensor();
             Composed c =
                 composed_backward(reshape(bw.grad(), {rows, cols}), reshape(x0, {rows, cols}), flat_w, eps, centre);
             if (bw.needs(0)) bw.set(0, reshape(c.dx, x0.sizes()));
             if (bw.needs(1)) bw.set(1, reshape(c.dweight, shape));
             if (bw.needs(2)) bw.set(2, reshape(c.dbias, shape));
             return;
           }
           const Tensor g = contiguous(bw.grad()), xc = contiguous(x0), wc = w0.defined() ? contiguous(w0) : Tensor();
           Tensor dx, dweight, dbias, scratch;
           LayerNormBackward k;
           if (bw.needs(0)) dx = empty(xc.sizes(), xc.dtype(), xc.device());
           if (bw.needs(1)) dweight = empty(shape, xc.dtype(), xc.device());
           if (bw.needs(2)) dbias = empty(shape, xc.dtype(), xc.device());
           if (bw.needs(1) || bw.needs(2)) {
             scratch = empty({layer_norm_scratch(rows, cols)}, rstd.dtype(), xc.device());
             k.scratch = scratch.data();
           }
           k.dy = g.data();
           k.x = xc.data();
           k.weight = wc.defined() ? wc.data() : nullptr;
           k.mean = mean.defined() ? mean.data() : nullptr;
           k.rstd = rstd.data();
           k.dx = dx.defined() ? dx.data() : nullptr;
           k.dweight = dweight.defined() ? dweight.data() : nullptr;
           k.dbias = dbias.defined() ? dbias.data() : nullptr;
           k.rows = rows;
           k.cols = cols;
           kernel_or_fail(kernels<NormKernels>(xc.device()).layer_norm_backward[static_cast<int>(xc.dtype())],
                          "layer_norm_backward", xc.device(), xc.dtype())(k);
           if (bw.needs(0)) bw.set(0, dx);
           if (bw.needs(1)) bw.set(1, dweight);
           if (bw.needs(2)) bw.set(2, dbias);
         });
  return y;
}

}  // namespace

Tensor layer_norm(const Tensor& x, const Dims& shape, const Tensor& weight, const Tensor& bias, double eps) {
  return normalise_rows("layer_norm", x, shape, weight, bias, eps, true);
}

Tensor rms_norm(const Tensor& x, const Dims& shape, const Tensor& weight, std::optional<double> eps) {
  const double machine[] = {0x1p-10, 0x1p-7, 0x1p-23, 0x1p-52};  // float16, bfloat16, float32, float64
  require(is_floating(x.dtype()), "rms_norm", "input", ErrorKind::DType, "expected a floating point tensor, got ",
          x.dtype());
  return normalise_rows("rms_norm", x, shape, weight, {},
                        eps.value_or(machine[static_cast<int>(x.dtype()) - static_cast<int>(DType::Float16)]), false);
}

}  // namespace pydlx::ops
