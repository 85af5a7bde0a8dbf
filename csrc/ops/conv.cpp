#include "ops/conv.h"

#include <algorithm>

#include "autograd/node.h"
#include "core/parallel.h"
#include "core/precision.h"
#include "core/verbose.h"
#include "kernels/conv.h"
#include "ops/conv_weights.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

// One convolution's geometry, seen from its three tensors: x (the wide side), w, and y (the strided side).
struct Geometry {
  ConvShape shape;
  Dims x_sizes, w_sizes, y_sizes;
  bool inference = false;  // a call without gradients, so that weights rarely change until the next one
  MemoryFormat format = MemoryFormat::contiguous;  // of everything that is computed
};

Geometry make_geometry(const Dims& x, const Dims& w, const Dims& y, const Dims& stride, const Dims& front,
                       const Dims& dilation, std::int64_t groups) {
  Geometry g{{}, x, w, y};
  ConvShape& s = g.shape;
  s.batch = x[0];
  s.groups = groups;
  s.cin = w[1];
  s.cout = w[0] / groups;
  s.exact = matmul_precision() == MatmulPrecision::highest;
  s.rounded = conv_rounds_operands();
  const int axes = x.ndim() - 2, lead = 3 - axes;
  for (int i = 0; i < axes; ++i) {
    s.in[lead + i] = x[2 + i];
    s.out[lead + i] = y[2 + i];
    s.kernel[lead + i] = w[2 + i];
    // A step that is never taken may be of any length; kernels leave room for one.
    s.stride[lead + i] = y[2 + i] == 1 ? std::min(stride[i], x[2 + i] + 1) : stride[i];
    s.pad[lead + i] = front[i];
    s.dilation[lead + i] = dilation[i];
  }
  return g;
}

// What becomes of the sums of a forward pass; see Conv::scale.
struct End {
  Tensor scale;
  Activation activation = Activation::none;
};

constexpr const char* kPassName[] = {"forward", "input gradient", "weight gradient"};

ConvShape shape_of(ConvPass pass, const Geometry& g) {
  ConvShape shape = g.shape;
  shape.weights_kept = g.inference && pass == ConvPass::forward;
  return shape;
}

// How a pass takes its operands: 16-bit floats as they are, which kernels for some shapes do, and images with the
// channels last where there are such images and the kernels can read them, or where the kernels are worth the copies.
struct Taken {
  bool as_given;
  MemoryFormat images;
};
Taken taken_by(ConvPass pass, const Geometry& g, const Tensor& a) {
  const auto& table = kernels<ConvKernels>(a.device());
  const int p = static_cast<int>(pass), t = static_cast<int>(a.dtype());
  const ConvShape shape = shape_of(pass, g);
  const auto size = table.scratch_size[p][t];
  const bool as_given = size && size(shape) >= 0;
  const bool first = g.format == MemoryFormat::contiguous;
  const auto takes =
      (first ? table.prefers_last : table.channels_last)[p][as_given ? t : static_cast<int>(DType::Float32)];
  const int axes = g.x_sizes.ndim();
  if (axes < 4 || !takes || !takes(shape)) return {as_given, MemoryFormat::contiguous};
  return {as_given, !first ? g.format : axes == 4 ? MemoryFormat::channels_last : MemoryFormat::channels_last_3d};
}

// Runs one pass; the tensor it writes is made here and returned in the dtype of the operands.
Tensor run_pass(const char* op, ConvPass pass, const Geometry& g, const Tensor& a0, const Tensor& b0,
                const Tensor& bias0, const End& end = {}) {
  const GradModeGuard off(false);
  const FixedThreads fixed;  // scratch memory has a part per thread
  const auto& table = kernels<ConvKernels>(a0.device());
  const int p = static_cast<int>(pass);
  const auto [as_given, images] = taken_by(pass, g, a0);
  const auto ready = [&, given = as_given](const Tensor& t, MemoryFormat format) {
    return !t.defined() ? t : given ? contiguous(detach(t), format) : wide_operand(t, format);
  };
  ConvShape shape = shape_of(pass, g);
  shape.channels_last = images != MemoryFormat::contiguous;
  const bool weights = pass != ConvPass::weight_grad;  // the second operand
  shape.weights_last = shape.channels_last && (!weights || (has_format(b0, images) && !b0.contiguous_layout()));
  const Tensor a = ready(a0, images), bias = ready(bias0, MemoryFormat::contiguous),
               scale = ready(end.scale, MemoryFormat::contiguous),
               b = ready(b0, weights && !shape.weights_last ? MemoryFormat::contiguous : images);
  const Dims& sizes = pass == ConvPass::forward ? g.y_sizes : pass == ConvPass::input_grad ? g.x_sizes : g.w_sizes;
  Tensor out = empty(sizes, a.dtype(), a.device(), images);
  if (out.numel() > 0) {
    const VerboseCall call(op);
    if (verbose_on)
      verbose_note(" %s x %s w %s y %s (%s): pass %s", dtype_name(a.dtype()), to_text(g.x_sizes).c_str(),
                   to_text(g.w_sizes).c_str(), to_text(g.y_sizes).c_str(), kernels_for(a.device()).name,
                   kPassName[static_cast<int>(pass)]);
    if (verbose_on && shape.channels_last && g.format == MemoryFormat::contiguous) verbose_note("; copied");
    const int t = static_cast<int>(a.dtype());
    const auto run = kernel_or_fail(table.run[p][t], op, a.device(), a0.dtype());
    const Tensor scratch = empty({table.scratch_size[p][t](shape)}, DType::UInt8, a.device());
    Conv c;
    c.shape = shape;
    c.scratch = scratch.data();
    switch (pass) {
      case ConvPass::forward:
        c.x = a.data();
        c.w = b.data();
        c.y = out.data();
        break;
      case ConvPass::input_grad:
        c.y = a.data();
        c.w = b.data();
        c.x = out.data();
        break;
      default:
        c.y = a.data();
        c.x = b.data();
        c.w = out.data();
    }
    c.bias = data_or_null(bias);
    c.scale = data_or_null(scale);
    c.activation = end.activation;
    const bool keep = shape.weights_kept && table.prepared_size[t];
    ConvWeights::Key key{b0.data(), &table, b.sizes(), g.shape.groups};  // b may be a copy, of this call alone
    key.bytes = keep ? table.prepared_size[t](shape) : 0;
    key.stride = shape.stride[2];
    key.last = shape.weights_last;
    Tensor kept;
    if (key.bytes > 0) {
      kept = ConvWeights::instance().take(key);
      c.prepared_filled = kept.defined();
      if (!kept.defined()) kept = empty({key.bytes}, DType::UInt8, a.device());
      c.prepared = kept.data();
    }
    run(c);
    if (kept.defined()) ConvWeights::instance().put(key, std::move(kept));
  }
  out = to_dtype(out, a0.dtype());
  return images == g.format ? out : to_format(out, g.format);
}

// The gradient that both backward passes read, reordered once for the two.
Tensor ready_for_both(const Tensor& grad, const Geometry& g) {
  const Taken x = taken_by(ConvPass::input_grad, g, grad), w = taken_by(ConvPass::weight_grad, g, grad);
  if (!x.as_given || !w.as_given || x.images != w.images) return grad;
  return contiguous(grad, x.images);
}

Tensor bias_grad(const Tensor& g) {
  Dims axes{0};
  for (int i = 2; i < g.ndim(); ++i) axes.push_back(i);
  return sum(g, axes, false);
}

// The three passes of the trilinear form <conv(x, w), y>. Each is linear in its two operands, and the derivative of
// each with respect to either is one of the other two: gradients of any order use the same kernels.
Tensor apply_forward(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Geometry& g,
                     const End& end = {});
Tensor apply_input_grad(const char* op, const Tensor& y, const Tensor& w, const Tensor& bias, const Geometry& g);
Tensor apply_weight_grad(const char* op, const Tensor& y, const Tensor& x, const Geometry& g);

Tensor apply_forward(const char* op, const Tensor& x, const Tensor& w, const Tensor& bias, const Geometry& g,
                     const End& end) {
  const bool rectified = end.activation == Activation::relu;
  // The gradient of the scale needs the sums themselves, which the fused pass does not keep.
  if (end.scale.defined() && any_requires_grad(x, w, bias, end.scale)) {
    Dims along = Dims::filled(g.y_sizes.ndim(), 1);
    along[1] = g.y_sizes[1];
    Tensor y = mul(apply_forward(op, x, w, {}, g), reshape(end.scale, along));
    if (bias.defined()) y = add(y, reshape(bias, along));
    return rectified ? relu(y) : y;
  }
  Tensor out = run_pass(op, ConvPass::forward, g, x, w, bias, end);
  if (any_requires_grad(x, w, bias))
    record(op, out, {&x, &w, &bias},
           [g, x = save_if(w.requires_grad(), x), w = save_if(x.requires_grad(), w),
            y = rectified ? Saved(out, 0) : Saved()](Backward& bw) {
             Tensor grad = y.defined() ? relu_gradient(bw.grad(), y.get(bw)) : bw.grad();
             if (bw.needs(0) && bw.needs(1)) grad = ready_for_both(grad, g);
             if (bw.needs(0)) bw.set(0, apply_input_grad("conv_input_grad", grad, w.get(bw), {}, g));
             if (bw.needs(1)) bw.set(1, apply_weight_grad("conv_weight_grad", grad, x.get(bw), g));
             if (bw.needs(2)) bw.set(2, bias_grad(grad));
           });
  return out;
}

Tensor apply_input_grad(const char* op, const Tensor& y, const Tensor& w, const Tensor& bias, const Geometry& g) {
  Tensor out = run_pass(op, ConvPass::input_grad, g, y, w, bias);
  if (any_requires_grad(y, w, bias))
    record(op, out, {&y, &w, &bias},
           [g, y = save_if(w.requires_grad(), y), w = save_if(y.requires_grad(), w)](Backward& bw) {
             if (bw.needs(0)) bw.set(0, apply_forward("convolution", bw.grad(), w.get(bw), {}, g));
             if (bw.needs(1)) bw.set(1, apply_weight_grad("conv_weight_grad", y.get(bw), bw.grad(), g));
             if (bw.needs(2)) bw.set(2, bias_grad(bw.grad()));
           });
  return out;
}

Tensor apply_weight_grad(const char* op, const Tensor& y, const Tensor& x, const Geometry& g) {
  Tensor out = run_pass(op, ConvPass::weight_grad, g, y, x, {});
  if (any_requires_grad(y, x))
    record(op, out, {&y, &x}, [g, y = save_if(x.requires_grad(), y), x = save_if(y.requires_grad(), x)](Backward& bw) {
      if (bw.needs(0)) bw.set(0, apply_forward("convolution", x.get(bw), bw.grad(), {}, g));
      if (bw.needs(1)) bw.set(1, apply_input_grad("conv_input_grad", y.get(bw), bw.grad(), {}, g));
    });
  return out;
}

// ---- checks
// ----------------------------------------------------------------------------------------------------------------------

void check_list(const char* op, const char* name, const Dims& v, int axes, std::int64_t least) {
  require(v.ndim() == axes, op, name, ErrorKind::Value, "expected one integer or ", axes, ", got ", v);
  for (auto n : v) require(n >= least, op, name, ErrorKind::Value, "expected values of at least ", least, ", got ", v);
}

// Everything but the spatial sizes. `in_channels` is what the weight and groups ask of the input, `out_channels` the
// size of the bias.
void check_operands(const char* op, int axes, const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride,
                    const Dims& padding, const Dims& dilation, std::int64_t groups, bool transposed) {
  require(x.ndim() == axes + 1 || x.ndim() == axes + 2, op, "input", ErrorKind::Shape, "expected ", axes + 1,
          " axes (unbatched) or ", axes + 2, ", got shape ", x.sizes());
  require(w.ndim() == axes + 2, op, "weight", ErrorKind::Shape, "expected ", axes + 2, " axes, got shape ", w.sizes());
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert with .float()");
  require(w.dtype() == x.dtype(), op, "weight", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
          w.dtype());
  check_list(op, "stride", stride, axes, 1);
  check_list(op, "padding", padding, axes, 0);
  check_list(op, "dilation", dilation, axes, 1);
  require(groups >= 1, op, "groups", ErrorKind::Value, "expected at least 1, got ", groups);
  for (int i = 2; i < w.ndim(); ++i)
    require(w.sizes()[i] > 0, op, "weight", ErrorKind::Shape, "expected kernel sizes above 0, got shape ", w.sizes());
  require(w.sizes()[0] > 0 && w.sizes()[0] % groups == 0, op, "weight", ErrorKind::Shape,
          "expected a first size that is a multiple of groups ", groups, ", got shape ", w.sizes());
  const std::int64_t channels = x.sizes()[x.ndim() - axes - 1];
  const std::int64_t expected = transposed ? w.sizes()[0] : checked_mul(w.sizes()[1], groups, op);
  require(channels == expected, op, "input", ErrorKind::Shape, "expected ", expected, " channels for weight ",
          w.sizes(), " and groups ", groups, ", got ", channels, " in shape ", x.sizes());
  for (int i = x.ndim() - axes; i < x.ndim(); ++i)
    require(x.sizes()[i] > 0, op, "input", ErrorKind::Shape, "expected spatial sizes above 0, got shape ", x.sizes());
  if (bias.defined()) {
    const std::int64_t n = transposed ? checked_mul(w.sizes()[1], groups, op) : w.sizes()[0];
    require(bias.ndim() == 1 && bias.sizes()[0] == n, op, "bias", ErrorKind::Shape, "expected shape (", n, ",), got ",
            bias.sizes());
    require(bias.dtype() == x.dtype(), op, "bias", ErrorKind::DType, "expected ", x.dtype(), " like the input, got ",
            bias.dtype());
  }
  common_device(op, {&x, &w, &bias});
}

std::int64_t kernel_extent(const char* op, const Dims& w, const Dims& dilation, int i) {
  return checked_add(checked_mul(dilation[i], w[2 + i] - 1, op), 1, op);
}

// Padding in front of and behind every axis.
std::pair<Dims, Dims> named_padding(const char* op, int axes, const Tensor& w, const Dims& stride,
                                    const std::string& padding, const Dims& dilation) {
  Dims front = Dims::filled(axes, 0), back = front;
  require(padding == "same" || padding == "valid", op, "padding", ErrorKind::Value,
          "expected integers, 'same' or 'valid', got '", padding, "'");
  if (padding == "same")
    for (int i = 0; i < axes; ++i) {
      require(stride[i] == 1, op, "padding", ErrorKind::Value, "'same' needs stride 1, got ", stride,
              "; give the padding as integers");
      const std::int64_t total = kernel_extent(op, w.sizes(), dilation, i) - 1;
      front[i] = total / 2;
      back[i] = total - front[i];
    }
  return {front, back};
}

Tensor conv_impl(const char* op, int axes, const Tensor& x0, const Tensor& w, const Tensor& bias, const Dims& stride,
                 const Dims& front, const Dims& back, const Dims& dilation, std::int64_t groups, const End& end = {}) {
  const bool batched = x0.ndim() == axes + 2;
  const Tensor x = batched ? x0 : unsqueeze(x0, 0);
  Dims y{x.sizes()[0], w.sizes()[0]};
  for (int i = 0; i < axes; ++i) {
    const std::int64_t extent = kernel_extent(op, w.sizes(), dilation, i);
    const std::int64_t padded = checked_add(checked_add(x.sizes()[2 + i], front[i], op), back[i], op);
    require(padded >= extent, op, "weight", ErrorKind::Shape, "expected a kernel no larger than the padded input (",
            padded, " along axis ", i, "), got ", extent, " from kernel ", w.sizes()[2 + i], " with dilation ",
            dilation[i]);
    y.push_back((padded - extent) / stride[i] + 1);
  }
  checked_numel(y, op);
  Geometry g = make_geometry(x.sizes(), w.sizes(), y, stride, front, dilation, groups);
  g.inference = !GradMode::enabled();
  g.format = common_format({&x, &w});
  Tensor out = apply_forward(op, x, w, bias, g, end);
  return batched ? out : squeeze(out, {0});
}

// Of convolutions whose number of axes is that of the weight.
int axes_of(const char* op, const Tensor& w) {
  const int axes = w.ndim() - 2;
  require(axes >= 1 && axes <= 3, op, "weight", ErrorKind::Shape, "expected 3 to 5 axes, got shape ", w.sizes());
  return axes;
}
Dims fit(const Dims& v, int axes) { return v.size() == 1 ? Dims::filled(axes, v[0]) : v; }

constexpr const char* kConvName[] = {"", "conv1d", "conv2d", "conv3d"};
constexpr const char* kTransposeName[] = {"", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"};

}  // namespace

Tensor conv(int axes, const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride, const Dims& padding,
            const Dims& dilation, std::int64_t groups) {
  const char* op = kConvName[axes];
  check_operands(op, axes, x, w, bias, stride, padding, dilation, groups, false);
  return conv_impl(op, axes, x, w, bias, stride, padding, padding, dilation, groups);
}

Tensor conv_named(int axes, const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride,
                  const std::string& padding, const Dims& dilation, std::int64_t groups) {
  const char* op = kConvName[axes];
  check_operands(op, axes, x, w, bias, stride, Dims::filled(axes, 0), dilation, groups, false);
  const auto [front, back] = named_padding(op, axes, w, stride, padding, dilation);
  return conv_impl(op, axes, x, w, bias, stride, front, back, dilation, groups);
}

namespace {

constexpr const char* kFused = "conv_activation";

// The number of axes, and the arguments checked.
int check_fused(const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride, const Dims& padding,
                const Dims& dilation, std::int64_t groups, const Tensor& scale) {
  const int axes = axes_of(kFused, w);
  check_operands(kFused, axes, x, w, bias, fit(stride, axes), fit(padding, axes), fit(dilation, axes), groups, false);
  if (scale.defined()) {
    require(scale.ndim() == 1 && scale.sizes()[0] == w.sizes()[0], kFused, "scale", ErrorKind::Shape,
            "expected shape (", w.sizes()[0], ",), got ", scale.sizes());
    require(scale.dtype() == x.dtype(), kFused, "scale", ErrorKind::DType, "expected ", x.dtype(),
            " like the input, got ", scale.dtype());
    common_device(kFused, {&x, &scale});
  }
  return axes;
}
End make_end(const Tensor& scale, const std::string& activation) {
  require(activation == "none" || activation == "relu", kFused, "activation", ErrorKind::Value,
          "expected 'none' or 'relu', got '", activation, "'; apply other functions to the result");
  return {scale, activation == "relu" ? Activation::relu : Activation::none};
}

}  // namespace

Tensor conv_activation(const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride, const Dims& padding,
                       const Dims& dilation, std::int64_t groups, const Tensor& scale, const std::string& activation) {
  const End end = make_end(scale, activation);
  const int axes = check_fused(x, w, bias, stride, padding, dilation, groups, scale);
  const Dims border = fit(padding, axes);
  return conv_impl(kFused, axes, x, w, bias, fit(stride, axes), border, border, fit(dilation, axes), groups, end);
}

Tensor conv_activation_named(const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride0,
                             const std::string& padding, const Dims& dilation0, std::int64_t groups,
                             const Tensor& scale, const std::string& activation) {
  const End end = make_end(scale, activation);
  const int axes = check_fused(x, w, bias, stride0, {0}, dilation0, groups, scale);
  const Dims stride = fit(stride0, axes), dilation = fit(dilation0, axes);
  const auto [front, back] = named_padding(kFused, axes, w, stride, padding, dilation);
  return conv_impl(kFused, axes, x, w, bias, stride, front, back, dilation, groups, end);
}

Tensor conv_transpose(int axes, const Tensor& x0, const Tensor& w, const Tensor& bias, const Dims& stride,
                      const Dims& padding, const Dims& output_padding, std::int64_t groups, const Dims& dilation) {
  const char* op = kTransposeName[axes];
  check_operands(op, axes, x0, w, bias, stride, padding, dilation, groups, true);
  check_list(op, "output_padding", output_padding, axes, 0);
  const bool batched = x0.ndim() == axes + 2;
  const Tensor x = batched ? x0 : unsqueeze(x0, 0);
  Dims wide{x.sizes()[0], checked_mul(w.sizes()[1], groups, op)};
  for (int i = 0; i < axes; ++i) {
    require(output_padding[i] < std::max(stride[i], dilation[i]), op, "output_padding", ErrorKind::Value,
            "expected values below stride or dilation, got ", output_padding, " with stride ", stride, " and dilation ",
            dilation);
    std::int64_t n = checked_mul(x.sizes()[2 + i] - 1, stride[i], op);
    n = checked_add(n, checked_add(kernel_extent(op, w.sizes(), dilation, i), output_padding[i], op), op);
    n = checked_add(n, checked_mul(padding[i], -2, op), op);
    require(n > 0, op, "padding", ErrorKind::Shape, "expected an output size above 0 along axis ", i, ", got ", n,
            "; use less padding or a larger kernel");
    wide.push_back(n);
  }
  checked_numel(wide, op);
  Geometry g = make_geometry(wide, w.sizes(), x.sizes(), stride, padding, dilation, groups);
  g.format = common_format({&x, &w});
  Tensor out = apply_input_grad(op, x, w, bias, g);
  return batched ? out : squeeze(out, {0});
}

Tensor convolution(const Tensor& x, const Tensor& w, const Tensor& bias, const Dims& stride, const Dims& padding,
                   const Dims& dilation, bool transposed, const Dims& output_padding, std::int64_t groups) {
  const int axes = axes_of("convolution", w);
  if (transposed)
    return conv_transpose(axes, x, w, bias, fit(stride, axes), fit(padding, axes), fit(output_padding, axes), groups,
                          fit(dilation, axes));
  return conv(axes, x, w, bias, fit(stride, axes), fit(padding, axes), fit(dilation, axes), groups);
}

}  // namespace pydlx::ops
