#include "ops/random.h"

#include <cmath>

#include "autograd/node.h"
#include "core/backend.h"
#include "core/philox.h"
#include "kernels/pointwise.h"
#include "kernels/random.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"

namespace pydlx::ops {

namespace {

// Known answers of the reference implementation (Random123's kat_vectors).
constexpr bool same(PhiloxWords a, PhiloxWords b) {
  return a.w[0] == b.w[0] && a.w[1] == b.w[1] && a.w[2] == b.w[2] && a.w[3] == b.w[3];
}
static_assert(same(philox(0, 0, 0), {{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}}));
static_assert(same(philox(~0ull, ~0ull, ~0ull), {{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}}));
static_assert(same(philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
                   {{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}}));

PhiloxState reserve(Generator* g, Device device, std::int64_t elements, std::int64_t per_block) {
  const auto blocks = static_cast<std::uint64_t>((elements + per_block - 1) / per_block);
  Generator& d = default_generator(device);
  require(!g || g == &d || device.is_cpu() || !require_backend(device).is_capturing(), "cuda.graph", "generator",
          ErrorKind::Runtime, "expected the default generator while a graph is recorded; leave out generator=");
  return (g ? *g : d).reserve(blocks);
}

RandomFill describe(const Tensor& out, Generator* g, std::int64_t per_block) {
  RandomFill k;
  const PhiloxState s = reserve(g, out.device(), out.numel(), per_block);
  k.out = out.data();
  k.n = out.numel();
  k.seed = s.seed;
  k.offset = s.offset;
  k.base = s.base;
  return k;
}

// Draws into `out` through a row-major buffer of a dtype that has kernels. Element order is the logical one.
template <class F>
void through_buffer(const Tensor& out, DType compute, const F& run) {
  if (out.numel() == 0) return;
  const bool direct = out.contiguous_layout() && out.dtype() == compute;
  const Tensor buffer = direct ? out : empty(out.sizes(), compute, out.device());
  run(buffer);
  if (!direct) copy_raw(out, buffer);
}

void draw(const char* name, const Tensor& out, RandomOp op, double a, double b, Generator* g) {
  const DType compute = out.dtype() == DType::Float64 ? DType::Float64 : DType::Float32;
  through_buffer(out, compute, [&](const Tensor& buffer) {
    RandomFill k = describe(buffer, g, compute == DType::Float64 ? 2 : 4);
    k.a = a;
    k.b = b;
    k.bits = out.dtype() == DType::Float16 ? 11 : out.dtype() == DType::BFloat16 ? 8 : 24;
    kernel_or_fail(kernels<RandomKernels>(out.device()).fill[static_cast<int>(op)][static_cast<int>(compute)], name,
                   out.device(), out.dtype())(k);
  });
}

void draw_integers(const char* name, const Tensor& out, std::int64_t low, std::uint64_t range, Generator* g) {
  through_buffer(out, DType::Int64, [&](const Tensor& buffer) {
    RandomFill k = describe(buffer, g, 2);
    k.low = low;
    k.range = range;
    kernel_or_fail(kernels<RandomKernels>(out.device()).integers, name, out.device(), out.dtype())(k);
  });
}

Tensor fresh(const char* name, const Dims& size, const RandomOptions& o, DType fallback) {
  checked_numel(size, name);
  return empty(size, o.dtype.value_or(fallback), o.device.value_or(default_device()));
}
Tensor fresh_float(const char* name, const Dims& size, const RandomOptions& o) {
  Tensor t = fresh(name, size, o, default_dtype());
  require(is_floating(t.dtype()), name, "dtype", ErrorKind::DType, "expected a floating point dtype, got ", t.dtype());
  return t;
}
Tensor finished(Tensor t, const RandomOptions& o) {
  if (o.requires_grad) set_requires_grad(t, true);
  return t;
}
RandomOptions like(const Tensor& x, RandomOptions o) {
  if (!o.dtype) o.dtype = x.dtype();
  if (!o.device) o.device = x.device();
  return o;
}

// The value does not depend on what was there, so nothing flows back.
template <class F>
Tensor& fill_in_place(const char* name, Tensor& x, const F& run) {
  check_inplace(x, name);
  Ref<Node> node;
  if (any_requires_grad(x)) node = make_node(name, {&x}, [](Backward& bw) { bw.set(0, zeros_like(bw.grad())); });
  require(!x.impl()->storage->read_only, name, "input", ErrorKind::Runtime,
          "expected a writable tensor, got one that shares read-only memory; use clone() first");
  run();
  bump_version(x, name);
  if (node) set_history_inplace(x, node);
  return x;
}

void require_float(const char* name, const Tensor& x) {
  require(is_floating(x.dtype()), name, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype());
}
void require_std(const char* name, double std) {
  require(std >= 0, name, "std", ErrorKind::Value, "expected a value >= 0, got ", std);
}
void require_probability(const char* name, double p) {
  require(p >= 0 && p <= 1, name, "p", ErrorKind::Value, "expected a probability in [0, 1], got ", p);
}

// Largest value of random_() without bounds: every integer up to it is exact in the dtype.
std::int64_t random_limit(DType t) {
  switch (t) {
    case DType::Bool:
      return 1;
    case DType::UInt8:
      return 255;
    case DType::Int8:
      return 127;
    case DType::Int16:
      return 32767;
    case DType::Int32:
      return INT32_MAX;
    case DType::Int64:
      return INT64_MAX;
    case DType::Float16:
      return 1 << 11;
    case DType::BFloat16:
      return 1 << 8;
    case DType::Float32:
      return 1 << 24;
    case DType::Float64:
      return std::int64_t{1} << 53;
  }
  return 0;
}
void require_representable(const char* name, DType t, std::int64_t low, std::int64_t last) {
  std::int64_t lo = INT64_MIN, hi = INT64_MAX;
  if (!is_floating(t)) {
    hi = random_limit(t);
    lo = t == DType::Bool || t == DType::UInt8 ? 0 : -hi - 1;
  } else if (t == DType::Float16) {
    hi = 65504, lo = -65504;
  }
  require(low >= lo && last <= hi, name, "low", ErrorKind::Value, "expected bounds that ", t, " can hold (", lo, " to ",
          hi, "), got ", low, " to ", last);
}

// Coin flips into a row-major bool tensor; p undefined: probability `a`.
void flip(const char* name, const Tensor& out, const Tensor& p, double a, Generator* g) {
  if (out.numel() == 0) return;
  RandomFill k = describe(out, g, 4);
  k.a = a;
  const Tensor pc = p.defined() ? contiguous(detach(p)) : Tensor();
  if (p.defined()) k.input = pc.data();
  const DType dtype = p.defined() ? p.dtype() : DType::Float32;
  const std::int64_t bad = kernel_or_fail(kernels<RandomKernels>(out.device()).bernoulli[static_cast<int>(dtype)], name,
                                          out.device(), dtype)(k);
  require(bad < 0, name, "p", ErrorKind::Value, "expected probabilities in [0, 1], got another value at flat position ",
          bad);
}

}  // namespace

Tensor rand(const Dims& size, const RandomOptions& o) {
  Tensor t = fresh_float("rand", size, o);
  draw("rand", t, RandomOp::uniform, 0, 1, o.generator);
  return finished(t, o);
}
Tensor randn(const Dims& size, const RandomOptions& o) {
  Tensor t = fresh_float("randn", size, o);
  draw("randn", t, RandomOp::normal, 0, 1, o.generator);
  return finished(t, o);
}
Tensor randint(std::int64_t low, std::int64_t high, const Dims& size, const RandomOptions& o) {
  require(low < high, "randint", "high", ErrorKind::Value, "expected low < high, got low ", low, " and high ", high);
  Tensor t = fresh("randint", size, o, DType::Int64);
  require_representable("randint", t.dtype(), low, high - 1);
  draw_integers("randint", t, low, static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low), o.generator);
  return finished(t, o);
}
Tensor randperm(std::int64_t n, const RandomOptions& o) {
  require(n >= 0, "randperm", "n", ErrorKind::Value, "expected a value >= 0, got ", n);
  Tensor t = fresh("randperm", {n}, o, DType::Int64);
  if (n > 0) require_representable("randperm", t.dtype(), 0, n - 1);
  through_buffer(t, DType::Int64, [&](const Tensor& buffer) {
    const RandomFill k = describe(buffer, o.generator, 2);
    kernel_or_fail(kernels<RandomKernels>(t.device()).permutation, "randperm", t.device(), t.dtype())(k);
  });
  return finished(t, o);
}
Tensor rand_like(const Tensor& x, const RandomOptions& o) { return rand(x.sizes(), like(x, o)); }
Tensor randn_like(const Tensor& x, const RandomOptions& o) { return randn(x.sizes(), like(x, o)); }
Tensor randint_like(const Tensor& x, std::int64_t low, std::int64_t high, const RandomOptions& o) {
  return randint(low, high, x.sizes(), like(x, o));
}

Tensor normal(const Tensor& mean, const Tensor& std, Generator* g) {
  const Dims sizes = broadcast_sizes("normal", {&mean, &std});
  const DType dtype = result_type({&mean, &std});
  require(is_floating(dtype), "normal", "mean", ErrorKind::DType, "expected floating point tensors, got ", dtype);
  const Device device = common_device("normal", {&mean, &std});
  const Tensor m = detach(mean), s = detach(std);
  const Tensor negative = lt(s, wrap_scalar(0.0));
  require(negative.numel() == 0 || !has_nan(div(wrap_scalar(0.0), to_dtype(ge(s, wrap_scalar(0.0)), DType::Float32))),
          "normal", "std", ErrorKind::Value, "expected values >= 0, got a negative or NaN one");
  const Tensor z = randn(sizes, {g, dtype, device, false});
  return detach(add(mul(z, s), m));
}
Tensor normal(double mean, double std, const Dims& size, const RandomOptions& o) {
  require_std("normal", std);
  Tensor t = fresh_float("normal", size, o);
  draw("normal", t, RandomOp::normal, mean, std, o.generator);
  return finished(t, o);
}

Tensor bernoulli(const Tensor& p, Generator* g) {
  require_float("bernoulli", p);
  Tensor coins = empty(p.sizes(), DType::Bool, p.device());
  flip("bernoulli", coins, p, 0, g);
  return to_dtype(coins, p.dtype());
}

Tensor poisson(const Tensor& rate, Generator* g) {
  require_float("poisson", rate);
  const DType compute = rate.dtype() == DType::Float64 ? DType::Float64 : DType::Float32;
  const Tensor r = contiguous(to_dtype(detach(rate), compute));
  Tensor out = empty(r.sizes(), compute, r.device());
  if (out.numel() > 0) {
    RandomFill k = describe(out, g, 1);
    k.input = r.data();
    const std::int64_t bad = kernel_or_fail(kernels<RandomKernels>(r.device()).poisson[static_cast<int>(compute)],
                                            "poisson", r.device(), rate.dtype())(k);
    require(bad < 0, "poisson", "input", ErrorKind::Value,
            "expected finite rates >= 0, got another value at flat position ", bad);
  }
  return to_dtype(out, rate.dtype());
}

Tensor multinomial(const Tensor& weights, std::int64_t samples, bool replacement, Generator* g) {
  const char* op = "multinomial";
  require_float(op, weights);
  require(weights.ndim() == 1 || weights.ndim() == 2, op, "input", ErrorKind::Shape,
          "expected one or two axes, got shape ", weights.sizes());
  require(samples > 0, op, "num_samples", ErrorKind::Value, "expected a value > 0, got ", samples);
  Multinomial k;
  k.cols = weights.sizes().back();
  k.rows = weights.ndim() == 2 ? weights.sizes()[0] : 1;
  require(k.cols > 0, op, "input", ErrorKind::Shape, "expected at least one weight per row, got shape ",
          weights.sizes());
  require(replacement || samples <= k.cols, op, "num_samples", ErrorKind::Value, "expected at most ", k.cols,
          " samples without replacement, got ", samples, "; pass replacement=True");
  const Tensor w = contiguous(to_dtype(detach(weights), DType::Float64));
  Tensor out = empty(weights.ndim() == 2 ? Dims{k.rows, samples} : Dims{samples}, DType::Int64, w.device());
  if (out.numel() == 0) return out;
  const Tensor scratch = empty(w.sizes(), DType::Float64, w.device());
  const Tensor order = replacement ? Tensor() : empty(w.sizes(), DType::Int64, w.device());
  const PhiloxState s = reserve(g, out.device(), replacement ? out.numel() : w.numel(), 2);
  k.weights = w.data_as<double>();
  k.out = out.data_as<std::int64_t>();
  k.samples = samples;
  k.replacement = replacement;
  k.seed = s.seed;
  k.offset = s.offset;
  k.base = s.base;
  k.scratch = scratch.data_as<double>();
  k.order = order.defined() ? order.data_as<std::int64_t>() : nullptr;
  const std::int64_t bad =
      kernel_or_fail(kernels<RandomKernels>(w.device()).multinomial, op, w.device(), weights.dtype())(k);
  require(bad < 0, op, "input", ErrorKind::Value, "expected finite weights >= 0, got another value at flat position ",
          bad);
  require(bad == -1, op, "input", ErrorKind::Value, "expected at least ", replacement ? 1 : samples,
          " positive weights in every row, row ", -2 - bad, " has fewer");
  return out;
}

Tensor& uniform_(Tensor& x, double from, double to, Generator* g) {
  require_float("uniform_", x);
  require(from <= to && std::isfinite(to - from), "uniform_", "from", ErrorKind::Value,
          "expected finite bounds with from <= to, got ", from, " and ", to);
  return fill_in_place("uniform_", x, [&] { draw("uniform_", x, RandomOp::uniform, from, to, g); });
}
Tensor& normal_(Tensor& x, double mean, double std, Generator* g) {
  require_float("normal_", x);
  require_std("normal_", std);
  return fill_in_place("normal_", x, [&] { draw("normal_", x, RandomOp::normal, mean, std, g); });
}
Tensor& exponential_(Tensor& x, double rate, Generator* g) {
  require_float("exponential_", x);
  require(rate > 0, "exponential_", "lambd", ErrorKind::Value, "expected a value > 0, got ", rate);
  return fill_in_place("exponential_", x, [&] { draw("exponential_", x, RandomOp::exponential, rate, 0, g); });
}
Tensor& geometric_(Tensor& x, double p, Generator* g) {
  require(p > 0 && p < 1, "geometric_", "p", ErrorKind::Value, "expected a probability in (0, 1), got ", p);
  return fill_in_place("geometric_", x, [&] {
    through_buffer(
        x, is_floating(x.dtype()) && x.dtype() != DType::Float64 ? DType::Float32 : DType::Float64,
        [&](const Tensor& buffer) { draw("geometric_", buffer, RandomOp::geometric, p, 1 / std::log1p(-p), g); });
  });
}
Tensor& cauchy_(Tensor& x, double median, double scale, Generator* g) {
  require_float("cauchy_", x);
  require(scale > 0, "cauchy_", "sigma", ErrorKind::Value, "expected a value > 0, got ", scale);
  return fill_in_place("cauchy_", x, [&] { draw("cauchy_", x, RandomOp::cauchy, median, scale, g); });
}
Tensor& log_normal_(Tensor& x, double mean, double std, Generator* g) {
  require_float("log_normal_", x);
  require_std("log_normal_", std);
  return fill_in_place("log_normal_", x, [&] {
    const Tensor z = empty(x.sizes(), x.dtype(), x.device());
    draw("log_normal_", z, RandomOp::normal, mean, std, g);
    copy_raw(x, run_unary(UnaryOp::exp, "log_normal_", z, true));
  });
}

Tensor& random_(Tensor& x, std::optional<std::int64_t> low, std::optional<std::int64_t> high, Generator* g) {
  const std::int64_t first = low.value_or(0);
  std::uint64_t range;
  if (high) {
    require(first < *high, "random_", "to", ErrorKind::Value, "expected from < to, got from ", first, " and to ",
            *high);
    require_representable("random_", x.dtype(), first, *high - 1);
    range = static_cast<std::uint64_t>(*high) - static_cast<std::uint64_t>(first);
  } else {
    const std::int64_t last = random_limit(x.dtype());
    require(first <= last, "random_", "from", ErrorKind::Value, "expected at most ", last, " for ", x.dtype(), ", got ",
            first);
    range = static_cast<std::uint64_t>(last) - static_cast<std::uint64_t>(first) + 1;  // 0 stands for all of them
  }
  return fill_in_place("random_", x, [&] { draw_integers("random_", x, first, range, g); });
}

Tensor& bernoulli_(Tensor& x, double p, Generator* g) {
  require_probability("bernoulli_", p);
  return fill_in_place("bernoulli_", x, [&] {
    through_buffer(x, DType::Bool, [&](const Tensor& coins) { flip("bernoulli_", coins, {}, p, g); });
  });
}
Tensor& bernoulli_(Tensor& x, const Tensor& p, Generator* g) {
  require_float("bernoulli_", p);
  require(broadcast_sizes("bernoulli_", x.sizes(), p.sizes()) == x.sizes(), "bernoulli_", "p", ErrorKind::Shape,
          "expected a shape that broadcasts to ", x.sizes(), ", got ", p.sizes());
  Tensor full_p = empty(x.sizes(), p.dtype(), x.device());
  copy_raw(full_p, p);
  const Tensor coins = empty(x.sizes(), DType::Bool, x.device());
  flip("bernoulli_", coins, full_p, 0, g);  // before x changes, so that a bad p leaves it alone
  return fill_in_place("bernoulli_", x, [&] { copy_raw(x, coins); });
}

}  // namespace pydlx::ops
