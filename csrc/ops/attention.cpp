#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/node.h"
#include "core/generator.h"
#include "core/verbose.h"
#include "kernels/attention.h"
#include "ops/creation.h"
#include "ops/dispatch.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/extrema.h"
#include "ops/logic.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr const char* kName = "scaled_dot_product_attention";

// Operands as (batch, heads, length, features); key and value with their own number of heads.
struct Inputs {
  Tensor q, k, v, mask;                                          // mask (batch, heads, q_len, k_len) or undefined
  Tensor slopes;                                                 // (batch, heads) or undefined
  std::int64_t before = kUnlimitedKeys, after = kUnlimitedKeys;  // query i sees keys i - before .. i + after
  double scale = 1;
  double dropout_p = 0;
  PhiloxState stream;  // of the dropped weights
  bool banded() const { return before < kUnlimitedKeys || after < kUnlimitedKeys; }
  std::int64_t group() const { return k.size(1) > 0 ? q.size(1) / k.size(1) : 1; }
};

Tensor swap(const Tensor& t) { return transpose(t, -1, -2); }

// (batch, kv_heads, group, length, features): query heads beside the key head they share.
Tensor split_heads(const Tensor& x, std::int64_t group) {
  return reshape(x, {x.size(0), x.size(1) / group, group, x.size(2), x.size(3)});
}
Tensor join_heads(const Tensor& x) { return reshape(x, {x.size(0), x.size(1) * x.size(2), x.size(3), x.size(4)}); }

// j - i for query i and key j.
Tensor distance(const Inputs& in) {
  auto positions = [&](std::int64_t n) {
    return arange(Scalar(std::int64_t{0}), Scalar(n), Scalar(std::int64_t{1}), DType::Int32, in.q.device());
  };
  return sub(positions(in.k.size(2)), unsqueeze(positions(in.q.size(2)), 1));
}

// True where query i sees key j.
Tensor band(const Inputs& in) {
  const GradModeGuard off(false);
  const Tensor d = distance(in);
  auto bound = [&](std::int64_t n) {  // further than any distance is no limit, and fits 32 bits
    return wrap_scalar(std::min(n, in.q.size(2) + in.k.size(2)));
  };
  return logical_and(le(d, bound(in.after)), le(neg(d), bound(in.before)));
}

Tensor drop(const Inputs& in, const Tensor& weights) {
  return in.dropout_p > 0 ? dropout_at(weights, in.dropout_p, in.stream) : weights;
}

// Attention weights in differentiable ops, (batch, kv_heads, group, q_len, k_len).
Tensor composed_weights(const Inputs& in) {
  const std::int64_t group = in.group();
  const Tensor infinity = wrap_scalar(-std::numeric_limits<double>::infinity()), zero = wrap_scalar(0.0),
               one = wrap_scalar(1.0);
  Tensor s = mul(matmul(split_heads(in.q, group), swap(unsqueeze(in.k, 2))), wrap_scalar(in.scale));
  if (in.mask.defined()) {
    const Tensor mask = split_heads(in.mask, group);
    s = mask.dtype() == DType::Bool ? where(mask, s, infinity)
                                    : where(eq(detach(mask), infinity), infinity, add(s, mask));
  }
  if (in.slopes.defined()) {
    const Tensor steps = to_dtype(abs(distance(in)), in.q.dtype());
    s = sub(s, mul(reshape(in.slopes, {in.q.size(0), in.k.size(1), group, 1, 1}), steps));
  }
  if (in.banded()) s = where(band(in), s, infinity);
  Tensor top;
  {
    const GradModeGuard off(false);
    top = amax(detach(s), {-1}, true);
    top = where(eq(top, infinity), zero, top);
  }
  const Tensor e = exp(sub(s, top));
  const Tensor total = sum(e, {-1}, true);
  return div(e, where(eq(total, zero), one, total));
}

Tensor composed(const Inputs& in) {
  if (in.k.size(2) == 0 || in.q.numel() == 0)  // no weights; the products still give the result its shape and history
    return join_heads(matmul(matmul(split_heads(in.q, in.group()), swap(unsqueeze(in.k, 2))), unsqueeze(in.v, 2)));
  return join_heads(matmul(drop(in, composed_weights(in)), unsqueeze(in.v, 2)));
}

struct Gradients {
  Tensor dq, dk, dv, dmask;
};

// With P the weights and G the gradient of the result: dV = P^T G, dS = P * (G V^T - rowsum(P * G V^T)), dQ = s dS K,
// dK = s dS^T Q, and dS is the gradient of an additive mask. With dropout the mask applies to P in dV and to G V^T.
Gradients composed_backward(const Inputs& in, const Tensor& grad) {
  const std::int64_t group = in.group();
  const Tensor p = composed_weights(in), g = split_heads(grad, group);
  const Tensor dp = drop(in, matmul(g, swap(unsqueeze(in.v, 2))));
  const Tensor ds = mul(p, sub(dp, sum(mul(p, dp), {-1}, true))), scaled = mul(ds, wrap_scalar(in.scale));
  return {join_heads(matmul(scaled, unsqueeze(in.k, 2))),
          sum(matmul(swap(scaled), split_heads(in.q, group)), {2}, false),
          sum(matmul(swap(drop(in, p)), g), {2}, false), join_heads(ds)};
}

HeadRows rows_of(const Tensor& t) { return {t.data(), t.stride(0), t.stride(1), t.stride(2)}; }
// Contiguous features; for 16-bit operands also rows at multiples of 16 bytes, which their kernels load at once.
Tensor feature_major(const Tensor& t) {
  bool fits = t.stride(3) == 1 || t.size(3) == 1;
  if (fits && itemsize(t.dtype()) == 2) {
    fits = reinterpret_cast<std::uintptr_t>(t.data()) % 16 == 0;
    for (int axis = 0; axis < 3; ++axis) fits = fits && (t.size(axis) == 1 || t.stride(axis) % 8 == 0);
  }
  return fits ? t : t.contiguous_layout() ? clone(t) : contiguous(t);
}

DType statistics_dtype(DType operands) { return itemsize(operands) == 2 ? DType::Float32 : operands; }

// (batch, heads, length, features) whose memory has the axis order of `like`, so that splitting and merging heads needs
// no copy.
Tensor empty_like_heads(const Tensor& like, std::int64_t features) {
  const std::int64_t batch = like.size(0), heads = like.size(1), length = like.size(2);
  if (heads == 1 || like.stride(1) >= like.stride(2))
    return empty({batch, heads, length, features}, like.dtype(), like.device());
  const Tensor memory = empty({batch, length, heads, features}, like.dtype(), like.device());
  return alias(memory, {batch, heads, length, features}, {memory.stride(0), memory.stride(2), memory.stride(1), 1}, 0);
}

// stats: (2, batch, heads, q_len), see Attention::top.
Attention describe(const Inputs& in, const Tensor& out, const Tensor& stats) {
  Attention a;
  a.batch = in.q.size(0);
  a.heads = in.q.size(1);
  a.kv_heads = in.k.size(1);
  a.q_len = in.q.size(2);
  a.k_len = in.k.size(2);
  a.head_dim = in.q.size(3);
  a.value_dim = in.v.size(3);
  a.q = rows_of(in.q);
  a.k = rows_of(in.k);
  a.v = rows_of(in.v);
  a.out = rows_of(out);
  a.top = stats.data();
  a.inverse = static_cast<char*>(stats.data()) + stats.stride(0) * static_cast<std::int64_t>(itemsize(stats.dtype()));
  if (in.mask.defined()) {
    a.mask = in.mask.data();
    a.mask_is_bool = in.mask.dtype() == DType::Bool;
    a.mask_batch = in.mask.stride(0);
    a.mask_head = in.mask.stride(1);
    a.mask_row = in.mask.stride(2);
    a.mask_col = in.mask.stride(3);
  }
  if (in.slopes.defined()) {
    a.slopes = in.slopes.data();
    a.slope_batch = in.slopes.stride(0);
    a.slope_head = in.slopes.stride(1);
  }
  a.before = in.before;
  a.after = in.after;
  a.scale = in.scale;
  a.threshold = static_cast<std::uint32_t>(dropout_threshold(in.dropout_p));
  a.seed = in.stream.seed;
  a.offset = in.stream.offset;
  a.base = in.stream.base;
  a.keep_scale = 1 / (1 - in.dropout_p);
  return a;
}

[[noreturn]] void out_of_scratch(const Attention& a) {
  fail(kName, "query", ErrorKind::OutOfMemory, "no scratch memory for sequences of ", a.q_len, " and ", a.k_len);
}

// The tiled kernels. Operands are read where they stand, and the result's memory has the query's axis
// order.
Tensor native(const Inputs& given) {
  const Device device = given.q.device();
  const DType dtype = given.q.dtype();
  Inputs in = given;
  in.q = feature_major(detach(given.q));
  in.k = feature_major(detach(given.k));
  in.v = feature_major(detach(given.v));
  Tensor out = empty_like_heads(in.q, in.v.size(3));
  const Tensor stats = empty({2, in.q.size(0), in.q.size(1), in.q.size(2)}, statistics_dtype(dtype), device);
  const Attention a = describe(in, out, stats);
  if (!kernel_or_fail(kernels<AttentionKernels>(device).forward[static_cast<int>(dtype)], kName, device, dtype)(a))
    out_of_scratch(a);
  if (!any_requires_grad(given.q, given.k, given.v, given.mask)) return out;
  Inputs rest = given;  // the operands are kept with their versions
  rest.q = rest.k = rest.v = rest.mask = rest.slopes = Tensor();
  record(kName, out, {&given.q, &given.k, &given.v, &given.mask},
         [q = save(given.q), k = save(given.k), v = save(given.v), mask = save(given.mask), slopes = save(given.slopes),
          y = Saved(out, 0), stats = save(stats), rest](Backward& bw) {
           Inputs saved = rest;
           saved.q = q.get(bw);
           saved.k = k.get(bw);
           saved.v = v.get(bw);
           if (mask.defined()) saved.mask = mask.get(bw);
           if (slopes.defined()) saved.slopes = slopes.get(bw);
           Gradients r;
           if (bw.create_graph) {
             const DType dtype = saved.q.dtype(), working = statistics_dtype(dtype);
             for (Tensor* t : {&saved.q, &saved.k, &saved.v}) *t = to_dtype(*t, working);
             r = composed_backward(saved, to_dtype(bw.grad(), working));
             for (Tensor* t : {&r.dq, &r.dk, &r.dv}) *t = to_dtype(*t, dtype);
           } else {
             saved.q = feature_major(saved.q);
             saved.k = feature_major(saved.k);
             saved.v = feature_major(saved.v);
             const Tensor result = feature_major(y.get(bw)), g = feature_major(bw.grad());
             const Tensor sums = contiguous(stats.get(bw));
             AttentionBackward w;
             w.forward = describe(saved, result, sums);
             w.dout = rows_of(g);
             r.dq = empty_like_heads(saved.q, saved.q.size(3));
             r.dk = empty_like_heads(saved.k, saved.k.size(3));
             r.dv = empty_like_heads(saved.v, saved.v.size(3));
             w.dq = rows_of(r.dq);
             w.dk = rows_of(r.dk);
             w.dv = rows_of(r.dv);
             w.slices = attention_slices(w.forward.batch * w.forward.kv_heads, w.forward.k_len);
             if (bw.needs(3)) {
               r.dmask = full(saved.mask.sizes(), 0.0, saved.mask.dtype(), g.device());
               w.dmask = r.dmask.data();
             }
             Tensor slices;
             if (w.slices > 1) {
               slices = empty({w.slices, r.dq.numel()}, g.dtype(), g.device());
               w.dq_slices = slices.data();
             }
             const VerboseCall call("scaled_dot_product_attention backward");
             if (verbose_on)
               verbose_note(" %s q %s k %s (%s): tiled kernel", dtype_name(g.dtype()), to_text(saved.q.sizes()).c_str(),
                            to_text(saved.k.sizes()).c_str(), kernels_for(g.device()).name);
             const auto fn = kernels<AttentionKernels>(g.device()).backward[static_cast<int>(g.dtype())];
             if (!kernel_or_fail(fn, kName, g.device(), g.dtype())(w)) out_of_scratch(w.forward);
           }
           if (bw.needs(0)) bw.set(0, r.dq);
           if (bw.needs(1)) bw.set(1, r.dk);
           if (bw.needs(2)) bw.set(2, r.dv);
           if (bw.needs(3)) bw.set(3, r.dmask);
         });
  return out;
}

// Why the tiled kernel cannot serve, or null when it can.
const char* tiled_refusal(const Tensor& q, const Tensor& v, const Tensor& mask, const Tensor& slopes,
                          double dropout_p) {
  if (dropout_threshold(dropout_p) > 0xffffffffu) return "dropout of every weight";
  if (q.numel() == 0 || v.numel() == 0) return "empty operands";
  if (any_requires_grad(slopes)) return "the slopes need a gradient";
  const AttentionKernels& table = kernels<AttentionKernels>(q.device());
  const int dtype = static_cast<int>(q.dtype());
  if (!table.forward[dtype]) return "not written for this dtype";
  if (any_requires_grad(mask) && !table.gives_dmask[dtype]) return "the mask needs a gradient";
  if (table.fits[dtype] && !table.fits[dtype](q.size(-1), v.size(-1))) return "not written for this number of features";
  return nullptr;
}

// Leading axes as exactly two: missing ones are added, surplus ones merged into the first.
Tensor to_four(const Tensor& t, const Dims& lead, std::int64_t heads) {
  Dims full = lead;
  if (!full.empty()) full.back() = heads;
  full.push_back(t.size(-2));
  full.push_back(t.size(-1));
  const Tensor e = t.sizes() == full ? t : expand(t, full);
  if (e.ndim() == 4) return e;
  if (e.ndim() == 3) return unsqueeze(e, 0);
  if (e.ndim() == 2) return unsqueeze(unsqueeze(e, 0), 0);
  std::int64_t batch = 1;
  for (int i = 0; i + 3 < e.ndim(); ++i) batch *= e.sizes()[i];
  return reshape(e, {batch, heads, e.size(-2), e.size(-1)});
}

}  // namespace

Tensor scaled_dot_product_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                    double dropout_p, bool causal, std::optional<double> scale, bool grouped,
                                    const Tensor& slopes, const Dims& window) {
  for (const auto& [t, name] : {std::pair(&query, "query"), std::pair(&key, "key"), std::pair(&value, "value")}) {
    require(t->ndim() >= 2, kName, name, ErrorKind::Shape, "expected at least 2 dimensions, got shape ", t->sizes());
    require(is_floating(t->dtype()), kName, name, ErrorKind::DType, "expected a floating point tensor, got ",
            t->dtype());
    require(t->dtype() == query.dtype(), kName, name, ErrorKind::DType, "expected ", query.dtype(),
            " like the query, got ", t->dtype());
  }
  common_device(kName, {&query, &key, &value, &mask, &slopes});
  require(key.size(-1) == query.size(-1), kName, "key", ErrorKind::Shape, "expected ", query.size(-1),
          " features like the query, got shape ", key.sizes());
  require(value.size(-2) == key.size(-2), kName, "value", ErrorKind::Shape, "expected ", key.size(-2),
          " positions like the key, got shape ", value.sizes());
  require(dropout_p >= 0 && dropout_p <= 1, kName, "dropout_p", ErrorKind::Value, "expected 0 to 1, got ", dropout_p);
  require(!causal || !mask.defined(), kName, "attn_mask", ErrorKind::Value,
          "expected no mask together with is_causal=True; combine them in one mask");
  const DType working = statistics_dtype(query.dtype());
  if (working != query.dtype() && tiled_refusal(query, value, mask, slopes, dropout_p)) {
    auto wide = [&](const Tensor& t) { return t.defined() && is_floating(t.dtype()) ? to_dtype(t, working) : t; };
    return to_dtype(scaled_dot_product_attention(wide(query), wide(key), wide(value), wide(mask), dropout_p, causal,
                                                 scale, grouped, wide(slopes), window),
                    query.dtype());
  }

  auto lead_of = [](const Tensor& t) { return Dims(t.sizes().data(), t.sizes().size() - 2); };
  Dims lq = lead_of(query), lk = lead_of(key), lv = lead_of(value);
  std::int64_t heads = 1, kv_heads = 1;
  if (grouped) {
    require(query.ndim() >= 3 && key.ndim() >= 3 && value.ndim() >= 3, kName, "query", ErrorKind::Shape,
            "expected a head axis (3 or more dimensions) with enable_gqa=True, got shapes ", query.sizes(), ", ",
            key.sizes(), " and ", value.sizes());
    heads = lq.back();
    kv_heads = lk.back();
    require(lv.back() == kv_heads && kv_heads > 0 && heads % kv_heads == 0, kName, "key", ErrorKind::Shape,
            "expected a number of key and value heads that divides the ", heads, " query heads, got shapes ",
            key.sizes(), " and ", value.sizes());
    lq.back() = lk.back() = lv.back() = 1;
  }
  Dims lead = broadcast_sizes(kName, broadcast_sizes(kName, lq, lk), lv);
  if (!grouped && !lead.empty()) heads = kv_heads = lead.back();
  Inputs in;
  in.q = to_four(query, lead, heads);
  in.k = to_four(key, lead, kv_heads);
  in.v = to_four(value, lead, kv_heads);
  for (int side = 0; side < static_cast<int>(window.size()); ++side) {
    const std::int64_t n = window[side];
    require(n >= -1, kName, "window_size", ErrorKind::Value, "expected numbers of keys, or -1 for no limit, got ",
            window);
    if (n >= 0) (side == 0 ? in.before : in.after) = std::min(n, kUnlimitedKeys);
  }
  if (causal) in.after = 0;
  in.scale = scale.value_or(1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(query.size(-1), 1))));
  Dims out_sizes = lead;
  if (!out_sizes.empty()) out_sizes.back() = heads;
  Dims mask_sizes = out_sizes;
  if (slopes.defined()) {
    require(is_floating(slopes.dtype()), kName, "alibi_slopes", ErrorKind::DType,
            "expected a floating point tensor, got ", slopes.dtype());
    require(!out_sizes.empty() && slopes.ndim() <= out_sizes.ndim() &&
                broadcast_sizes(kName, slopes.sizes(), out_sizes) == out_sizes,
            kName, "alibi_slopes", ErrorKind::Shape, "expected one number per head: a shape that broadcasts to ",
            out_sizes, ", got ", slopes.sizes());
    in.slopes = reshape(expand(to_device(to_dtype(slopes, working), query.device()), out_sizes), {in.q.size(0), heads});
  }
  out_sizes.push_back(query.size(-2));
  out_sizes.push_back(value.size(-1));
  if (mask.defined()) {
    mask_sizes.push_back(query.size(-2));
    mask_sizes.push_back(key.size(-2));
    require(mask.dtype() == DType::Bool || is_floating(mask.dtype()), kName, "attn_mask", ErrorKind::DType,
            "expected a bool or floating point tensor, got ", mask.dtype());
    require(mask.ndim() <= mask_sizes.ndim() && broadcast_sizes(kName, mask.sizes(), mask_sizes) == mask_sizes, kName,
            "attn_mask", ErrorKind::Shape, "expected a shape that broadcasts to ", mask_sizes, ", got ", mask.sizes());
    const Tensor m =
        expand(to_device(mask.dtype() == DType::Bool ? mask : to_dtype(mask, working), query.device()), mask_sizes);
    in.mask = to_four(m, lead, heads);
  }
  in.dropout_p = dropout_p;
  if (dropout_p > 0)
    in.stream = default_generator(query.device())
                    .reserve(static_cast<std::uint64_t>((in.q.size(0) * heads * in.q.size(2) * in.k.size(2) + 3) / 4));
  const char* refusal = tiled_refusal(in.q, in.v, mask, slopes, dropout_p);
  const VerboseCall call(kName);
  if (verbose_on)
    verbose_note(" %s q %s k %s (%s): %s%s", dtype_name(query.dtype()), to_text(in.q.sizes()).c_str(),
                 to_text(in.k.sizes()).c_str(), kernels_for(query.device()).name,
                 refusal ? "composed of products and softmax; not the tiled kernel: " : "tiled kernel",
                 refusal ? refusal : "");
  const Tensor out = refusal ? composed(in) : native(in);
  return out.sizes() == out_sizes ? out : reshape(out, out_sizes);
}

}  // namespace pydlx::ops
