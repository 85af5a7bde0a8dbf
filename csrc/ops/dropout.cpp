#include "ops/dropout.h"

#include <cmath>

#include "autograd/node.h"
#include "core/generator.h"
#include "kernels/random.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/random.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr double kSeluSaturation = -1.7580993408473766;  // -scale * alpha of SELU

struct Recipe {
  double p = 0, scale = 1, shift = 0, dropped = 0;
};

Recipe plain(double p) { return {p, p < 1 ? 1 / (1 - p) : 0, 0, 0}; }
Recipe selu(double p) {
  if (p >= 1) return {p, 0, 0, 0};
  const double a = 1 / std::sqrt((kSeluSaturation * kSeluSaturation * p + 1) * (1 - p)), b = -a * kSeluSaturation * p;
  return {p, a, b, a * kSeluSaturation + b};
}

void check(const char* op, const Tensor& x, double p) {
  require(p >= 0 && p <= 1, op, "p", ErrorKind::Value, "expected a probability in [0, 1], got ", p);
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
}

void run(const char* op, const Tensor& in, const Tensor& out, const Recipe& r, PhiloxState s) {
  Dropout k;
  k.in = in.data();
  k.out = out.data();
  k.n = in.numel();
  k.seed = s.seed;
  k.offset = s.offset;
  k.base = s.base;
  k.threshold = dropout_threshold(r.p);
  k.scale = r.scale;
  k.shift = r.shift;
  k.dropped = r.dropped;
  kernel_or_fail(kernels<RandomKernels>(in.device()).dropout[static_cast<int>(in.dtype())], op, in.device(),
                 in.dtype())(k);
}

// keep ? x * scale + shift : dropped, with the mask of stream position s laid over the elements in the format's order;
// linear in x, so its gradient is itself
// without the constants.
Tensor masked(const char* op, const Tensor& x, const Recipe& r, PhiloxState s,
              MemoryFormat format = MemoryFormat::contiguous) {
  const Tensor in = contiguous(detach(x), format);
  Tensor out = empty(in.sizes(), in.dtype(), in.device(), format);
  if (in.numel() > 0) run(op, in, out, r, s);
  if (any_requires_grad(x))
    record(op, out, {&x}, [op, slope = Recipe{r.p, r.scale, 0, 0}, s, format](Backward& bw) {
      bw.set(0, masked(op, bw.grad(), slope, s, format));
    });
  return out;
}

Tensor apply(const char* op, const Tensor& x, const Recipe& r, bool inplace) {
  const PhiloxState s = default_generator(x.device()).reserve(static_cast<std::uint64_t>((x.numel() + 3) / 4));
  if (!inplace) return masked(op, x, r, s, format_of(x));
  check_inplace(x, op);
  Ref<Node> node;
  if (any_requires_grad(x))
    node = make_node(op, {&x}, [op, slope = Recipe{r.p, r.scale, 0, 0}, s](Backward& bw) {
      bw.set(0, masked(op, bw.grad(), slope, s));
    });
  Tensor target = x;
  if (x.numel() > 0) {
    if (x.contiguous_layout())
      run(op, x, x, r, s);
    else
      copy_raw(x, masked(op, detach(x), r, s));
  }
  bump_version(x, op);
  if (node) set_history_inplace(target, node);
  return target;
}

}  // namespace

std::uint64_t dropout_threshold(double p) { return static_cast<std::uint64_t>(std::llround(p * 0x1p32)); }

Tensor dropout_at(const Tensor& x, double p, PhiloxState s) { return masked("dropout", x, plain(p), s); }

Tensor dropout(const Tensor& x, double p, bool training, bool inplace) {
  check("dropout", x, p);
  if (!training || p == 0) return x;
  return apply("dropout", x, plain(p), inplace);
}

Tensor alpha_dropout(const Tensor& x, double p, bool training, bool inplace) {
  check("alpha_dropout", x, p);
  if (!training || p == 0) return x;
  return apply("alpha_dropout", x, selu(p), inplace);
}

namespace {

Tensor features(const char* op, const Tensor& x, const Recipe& r, bool inplace) {
  require(x.ndim() >= 2, op, "input", ErrorKind::Shape, "expected at least 2 axes (sample, channel, ...), got shape ",
          x.sizes());
  Dims sizes = Dims::filled(x.sizes().size(), 1);
  sizes[0] = x.sizes()[0];
  sizes[1] = x.sizes()[1];
  // One coin per channel: coins become factors, and for the SELU variant offsets.
  Tensor keep = empty(sizes, x.dtype(), x.device());
  bernoulli_(keep, 1 - r.p, nullptr);
  const Tensor factor = mul(keep, wrap_scalar(r.scale));
  const Tensor offset = r.dropped == 0 && r.shift == 0
                            ? Tensor()
                            : add(mul(keep, wrap_scalar(r.shift - r.dropped)), wrap_scalar(r.dropped));
  if (inplace) {
    Tensor target = x;
    mul_(target, factor);
    return offset.defined() ? add_(target, offset) : target;
  }
  const Tensor y = mul(x, factor);
  return offset.defined() ? add(y, offset) : y;
}

}  // namespace

Tensor feature_dropout(const char* op, const Tensor& x, double p, bool training, bool inplace) {
  check(op, x, p);
  if (!training || p == 0) return x;
  return features(op, x, plain(p), inplace);
}

Tensor feature_alpha_dropout(const Tensor& x, double p, bool training, bool inplace) {
  check("feature_alpha_dropout", x, p);
  if (!training || p == 0) return x;
  return features("feature_alpha_dropout", x, selu(p), inplace);
}

}  // namespace pydlx::ops
