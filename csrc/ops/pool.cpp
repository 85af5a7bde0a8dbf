#include "ops/pool.h"

#include <algorithm>
#include <optional>

#include "autograd/node.h"
#include "kernels/pool.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/math.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/views.h"

namespace pydlx::ops {

namespace {

constexpr const char* kName[][4] = {
    {"", "max_pool1d", "max_pool2d", "max_pool3d"},
    {"", "avg_pool1d", "avg_pool2d", "avg_pool3d"},
    {"", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"},
    {"", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"},
    {"", "max_unpool1d", "max_unpool2d", "max_unpool3d"},
};

constexpr std::int64_t kLargestWindow = std::int64_t{1} << 40;  // positions are then far from overflowing

void check_input(const char* op, int axes, const Tensor& x) {
  require(x.ndim() == axes + 1 || x.ndim() == axes + 2, op, "input", ErrorKind::Shape, "expected ", axes + 1,
          " axes (C, spatial) or ", axes + 2, " (N, C, spatial), got shape ", x.sizes());
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert with .float()");
  for (int i = x.ndim() - axes; i < x.ndim(); ++i)
    require(x.sizes()[i] > 0, op, "input", ErrorKind::Shape, "expected spatial sizes above 0, got shape ", x.sizes());
}

void check_list(const char* op, const char* name, const Dims& v, int axes, std::int64_t least) {
  require(v.ndim() == axes, op, name, ErrorKind::Value, "expected one integer or ", axes, ", got ", v);
  for (auto n : v) require(n >= least, op, name, ErrorKind::Value, "expected values of at least ", least, ", got ", v);
}

Pool base_geometry(int axes, const Tensor& x) {
  Pool p;
  p.planes = 1;
  for (int i = 0; i < x.ndim() - axes; ++i) p.planes *= x.sizes()[i];
  for (int i = 0; i < axes; ++i) p.in[3 - axes + i] = x.sizes()[x.ndim() - axes + i];
  return p;
}

Dims output_sizes(int axes, const Tensor& x, const Pool& p) {
  Dims s = x.sizes();
  for (int i = 0; i < axes; ++i) s[x.ndim() - axes + i] = p.out[3 - axes + i];
  return s;
}

// Sliding windows, with all checks. Output size floor((n + 2 pad - dilation (kernel - 1) - 1) / stride) + 1; ceil mode
// rounds up, but a last window must start inside the input or the padding in front of it.
Pool sliding(const char* op, int axes, const Tensor& x, const Dims& kernel, const Dims& stride0, const Dims& padding,
             const Dims& dilation, bool ceil_mode) {
  check_input(op, axes, x);
  const Dims& stride = stride0.empty() ? kernel : stride0;
  check_list(op, "kernel_size", kernel, axes, 1);
  check_list(op, "stride", stride, axes, 1);
  check_list(op, "padding", padding, axes, 0);
  check_list(op, "dilation", dilation, axes, 1);
  Pool p = base_geometry(axes, x);
  for (int i = 0; i < axes; ++i) {
    const int a = 3 - axes + i;
    const std::int64_t extent = checked_add(checked_mul(dilation[i], kernel[i] - 1, op), 1, op);
    require(extent <= kLargestWindow, op, "kernel_size", ErrorKind::Value, "expected a window of at most ",
            kLargestWindow, " positions, got ", extent, " along axis ", i);
    require(padding[i] <= extent / 2, op, "padding", ErrorKind::Value, "expected at most half of the kernel's extent ",
            extent, ", got ", padding[i]);
    const std::int64_t padded = checked_add(p.in[a], checked_mul(2, padding[i], op), op);
    require(padded >= extent || (ceil_mode && checked_add(padded, stride[i], op) > extent), op, "kernel_size",
            ErrorKind::Shape, "expected a window no larger than the padded input (", padded, " along axis ", i,
            "), got ", extent, " from kernel ", kernel[i], " with dilation ", dilation[i]);
    p.kernel[a] = kernel[i];
    p.stride[a] = stride[i];
    p.pad[a] = padding[i];
    p.dilation[a] = dilation[i];
    const std::int64_t room = padded - extent;  // may be negative in ceil mode
    p.out[a] = (ceil_mode ? (room > 0 ? (room - 1) / stride[i] + 1 : 0) : room / stride[i]) + 1;
    if (ceil_mode && checked_mul(p.out[a] - 1, stride[i], op) >= checked_add(p.in[a], padding[i], op)) --p.out[a];
    require(p.out[a] > 0, op, "kernel_size", ErrorKind::Shape, "expected an output size above 0, got 0 along axis ", i);
    // Steps that are never taken may be of any length; the kernels want to add to them.
    if (p.out[a] == 1) p.stride[a] = 1;
    if (p.kernel[a] == 1) p.dilation[a] = 1;
  }
  return p;
}

// How the kernels see a tensor of images (N, C, H, W) whose channels are last in memory: as volumes (H, W, C) whose
// windows are one channel deep. What they compute is then in the same format. Others are reordered.
struct Seen {
  MemoryFormat format;  // of the operands
  bool behind;          // the channels are an axis of the windows
  MemoryFormat result;  // asked for
};
Seen seen_as(int axes, const Tensor& x) {
  const MemoryFormat f = x.ndim() == axes + 2 ? format_of(x) : MemoryFormat::contiguous;
  // With few channels the rows of an image are the longer vectors.
  const bool behind = f == MemoryFormat::channels_last && axes == 2 && x.sizes()[1] >= 16;
  return {behind ? f : MemoryFormat::contiguous, behind, f};
}

Pool adaptive(const char* op, int axes, const Tensor& x, const Dims& size) {
  check_input(op, axes, x);
  check_list(op, "output_size", size, axes, -1);
  Pool p = base_geometry(axes, x);
  p.adaptive = true;
  for (int i = 0; i < axes; ++i) {
    const int a = 3 - axes + i;
    p.out[a] = size[i] < 0 ? p.in[a] : size[i];
    checked_mul(p.out[a] + 1, p.in[a], op);
  }
  checked_numel(output_sizes(axes, x, p), op);
  // Windows that divide the plane evenly are those of plain pooling, whose kernels know that they are all alike and
  // step from output to output: rows of few outputs with long windows are better off with one window at a time, unless
  // the channels are what lies next to each other.
  for (int a = 0; a < 3; ++a)
    if (p.out[a] < 1 || p.in[a] < 1 || p.in[a] % p.out[a] != 0 || p.in[a] / p.out[a] > kLargestWindow) return p;
  if (!seen_as(axes, x).behind && p.out[2] < p.in[2] / p.out[2]) return p;
  p.adaptive = false;
  for (int a = 0; a < 3; ++a) {
    p.kernel[a] = p.in[a] / p.out[a];
    p.stride[a] = p.out[a] == 1 ? 1 : p.kernel[a];  // as above
  }
  return p;
}

Pool turned(const Pool& p, std::int64_t channels) {
  Pool t = p;
  t.planes = channels > 0 ? p.planes / channels : 0;
  for (int i = 0; i < 2; ++i) {
    t.in[i] = p.in[i + 1];
    t.out[i] = p.out[i + 1];
    t.kernel[i] = p.kernel[i + 1];
    t.stride[i] = p.stride[i + 1];
    t.pad[i] = p.pad[i + 1];
    t.dilation[i] = p.dilation[i + 1];
  }
  t.in[2] = t.out[2] = channels;
  t.kernel[2] = t.stride[2] = t.dilation[2] = 1;
  t.pad[2] = 0;
  return t;
}

// ---- values by position: the linear maps behind max pooling
// ------------------------------------------------------------------------

struct Link {
  int axes;
  Tensor index;  // int64, of the narrow side's shape
  Dims wide;     // sizes of the wide side
  bool trusted;  // the index comes from our own max pooling and was never handed out
  // Both sides are channels-last and positions count all channels of a sample.
  bool behind = false;
  MemoryFormat result = MemoryFormat::contiguous;  // of the wide side
  std::optional<Pool> windows = {};                // that the index was made by
  MemoryFormat format() const { return behind ? MemoryFormat::channels_last : MemoryFormat::contiguous; }
};

// 16-bit floats are widened where there is no kernel of theirs.
using PoolFn = void (*)(const Pool&);
Tensor operand(const PoolFn (&table)[kDTypeCount], const Tensor& x, MemoryFormat format) {
  return table[static_cast<int>(x.dtype())] ? contiguous(detach(x), format) : wide_operand(x, format);
}

using PlaneFn = std::int64_t (*)(const PlaneIndex&);

void run_planes(const char* op, PlaneFn fn, const Link& l, const Tensor& wide, const Tensor& narrow) {
  PlaneIndex p;
  p.planes = p.wide_size = p.narrow_size = 1;
  const int lead = l.behind ? 1 : wide.ndim() - l.axes;
  for (int i = 0; i < lead; ++i) p.planes *= wide.sizes()[i];
  for (int i = lead; i < wide.ndim(); ++i) {
    p.wide_size *= wide.sizes()[i];
    p.narrow_size *= narrow.sizes()[i];
  }
  p.wide = wide.data();
  p.narrow = narrow.data();
  p.index = l.index.data_as<std::int64_t>();
  p.trusted = l.trusted;
  const std::int64_t bad = kernel_or_fail(fn, op, wide.device(), wide.dtype())(p);
  require(bad < 0, op, "indices", ErrorKind::Index, "expected positions in [0, ", p.wide_size,
          "), got one outside at flat position ", bad);
}

enum class Spread : std::uint8_t { add, place };
Tensor spread(const char* op, Spread how, const Tensor& g, const Link& l);

// out[i] = wide[index[i]], plane by plane.
Tensor collect(const Tensor& wide, const Link& l) {
  Tensor out;
  {
    const GradModeGuard off(false);
    const Tensor w = wide_operand(wide, l.format());
    Tensor narrow = empty(l.index.sizes(), w.dtype(), w.device(), l.format());
    if (narrow.numel() > 0)
      run_planes("pool_gather", kernels<PoolKernels>(w.device()).gather[static_cast<int>(w.dtype())], l, w, narrow);
    out = to_dtype(narrow, wide.dtype());
  }
  if (any_requires_grad(wide))
    record("pool_gather", out, {&wide},
           [l](Backward& bw) { bw.set(0, spread("pool_scatter", Spread::add, bw.grad(), l)); });
  return out;
}

Tensor spread(const char* op, Spread how, const Tensor& g, const Link& l) {
  Tensor out;
  {
    const GradModeGuard off(false);
    const auto& k = kernels<PoolKernels>(g.device());
    const PoolFn grad = l.windows ? k.max_grad[static_cast<int>(g.dtype())] : nullptr;
    const Tensor n = grad ? contiguous(detach(g), l.format()) : wide_operand(g, l.format());
    Tensor wide = empty(l.wide, n.dtype(), n.device(), l.format());
    const int t = static_cast<int>(n.dtype());
    if (wide.numel() > 0 && grad) {
      Pool p = *l.windows;
      p.x = wide.data();
      p.y = n.data();
      p.index = l.index.data_as<std::int64_t>();
      grad(p);
    } else if (wide.numel() > 0)
      run_planes(op, how == Spread::add ? k.scatter_add[t] : k.place[t], l, wide, n);
    out = to_dtype(wide, g.dtype());
    if (l.result != l.format()) out = to_format(out, l.result);
  }
  if (any_requires_grad(g)) record(op, out, {&g}, [l](Backward& bw) { bw.set(0, collect(bw.grad(), l)); });
  return out;
}

std::pair<Tensor, Tensor> run_max(const char* op, int axes, const Tensor& x, Pool p, bool want_index) {
  const Dims sizes = output_sizes(axes, x, p);
  const bool grad = any_requires_grad(x);
  const Seen seen = seen_as(axes, x);
  Tensor y, index, place;  // `place` as the kernel counts, `index` within a channel
  {
    const GradModeGuard off(false);
    const Tensor in = operand(kernels<PoolKernels>(x.device()).max, x, seen.format);
    Tensor out = empty(sizes, in.dtype(), in.device(), seen.format);
    const bool within = want_index && seen.behind;
    if (grad || (want_index && !within)) place = empty(sizes, DType::Int64, in.device(), seen.format);
    if (within) index = empty(sizes, DType::Int64, in.device(), seen.format);
    if (out.numel() > 0) {
      if (seen.behind) p = turned(p, x.sizes()[1]);
      p.x = in.data();
      p.y = out.data();
      p.index = place.defined() ? place.data_as<std::int64_t>() : nullptr;
      p.pixel = within ? index.data_as<std::int64_t>() : nullptr;
      kernel_or_fail(kernels<PoolKernels>(in.device()).max[static_cast<int>(in.dtype())], op, in.device(),
                     x.dtype())(p);
    }
    y = to_dtype(out, x.dtype());
    if (want_index) {
      if (!within) index = place;
      if (seen.result != seen.format) index = to_format(index, seen.result);
    }
    if (seen.result != seen.format) y = to_format(y, seen.result);
  }
  if (grad)
    record(op, y, {&x},
           [made = Link{axes, {}, x.sizes(), !want_index || !index.is_same(place), seen.behind, seen.result, p},
            place = save(place)](Backward& bw) {
             Link l = made;
             l.index = contiguous(place.get(bw), l.format());
             if (place.in_other_hands()) {  // which may give back any positions
               l.trusted = false;
               l.windows.reset();
             }
             bw.set(0, spread("max_pool_backward", Spread::add, bw.grad(), l));
           });
  return {y, index};
}

// ---- averages: one linear map and its adjoint
// --------------------------------------------------------------------------------------

Tensor average_grad(const char* op, const Tensor& g, const Pool& p, const Dims& in_sizes, const Seen& seen);

Tensor average(const char* op, const Tensor& x, const Pool& p0, const Dims& sizes, const Seen& seen) {
  Tensor y;
  {
    const GradModeGuard off(false);
    const Tensor in = operand(kernels<PoolKernels>(x.device()).average, x, seen.format);
    Tensor out = empty(sizes, in.dtype(), in.device(), seen.format);
    Pool p = seen.behind ? turned(p0, sizes[1]) : p0;
    p.x = in.data();
    p.y = out.data();
    if (out.numel() > 0)
      kernel_or_fail(kernels<PoolKernels>(in.device()).average[static_cast<int>(in.dtype())], op, in.device(),
                     x.dtype())(p);
    y = to_dtype(out, x.dtype());
    if (seen.result != seen.format) y = to_format(y, seen.result);
  }
  if (any_requires_grad(x))
    record(op, y, {&x},
           [op, p0, is = x.sizes(), seen](Backward& bw) { bw.set(0, average_grad(op, bw.grad(), p0, is, seen)); });
  return y;
}

Tensor average_grad(const char* op, const Tensor& g, const Pool& p0, const Dims& in_sizes, const Seen& seen) {
  Tensor x;
  {
    const GradModeGuard off(false);
    const Tensor in = operand(kernels<PoolKernels>(g.device()).average_grad, g, seen.format);
    Tensor out = empty(in_sizes, in.dtype(), in.device(), seen.format);
    Pool p = seen.behind ? turned(p0, in_sizes[1]) : p0;
    p.y = in.data();
    p.x = out.data();
    if (out.numel() > 0)
      kernel_or_fail(kernels<PoolKernels>(in.device()).average_grad[static_cast<int>(in.dtype())], op, in.device(),
                     g.dtype())(p);
    x = to_dtype(out, g.dtype());
    if (seen.result != seen.format) x = to_format(x, seen.result);
  }
  if (any_requires_grad(g))
    record("avg_pool_backward", x, {&g},
           [op, p0, os = g.sizes(), seen](Backward& bw) { bw.set(0, average(op, bw.grad(), p0, os, seen)); });
  return x;
}

}  // namespace

std::pair<Tensor, Tensor> max_pool_with_indices(int axes, const Tensor& x, const Dims& kernel, const Dims& stride,
                                                const Dims& padding, const Dims& dilation, bool ceil_mode) {
  const char* op = kName[0][axes];
  return run_max(op, axes, x, sliding(op, axes, x, kernel, stride, padding, dilation, ceil_mode), true);
}

Tensor max_pool(int axes, const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding,
                const Dims& dilation, bool ceil_mode) {
  const char* op = kName[0][axes];
  return run_max(op, axes, x, sliding(op, axes, x, kernel, stride, padding, dilation, ceil_mode), false).first;
}

Tensor avg_pool(int axes, const Tensor& x, const Dims& kernel, const Dims& stride, const Dims& padding, bool ceil_mode,
                bool count_include_pad, std::int64_t divisor) {
  const char* op = kName[1][axes];
  Pool p = sliding(op, axes, x, kernel, stride, padding, Dims::filled(axes, 1), ceil_mode);
  p.count_include_pad = count_include_pad;
  p.divisor = divisor;
  return average(op, x, p, output_sizes(axes, x, p), seen_as(axes, x));
}

Tensor adaptive_avg_pool(int axes, const Tensor& x, const Dims& size) {
  const char* op = kName[2][axes];
  const Pool p = adaptive(op, axes, x, size);
  if (std::all_of(size.begin(), size.end(), [](auto n) { return n == 1; })) {
    // Global pooling is a reduction, several times faster than one window per plane.
    Dims spatial;
    for (int i = x.ndim() - axes; i < x.ndim(); ++i) spatial.push_back(i);
    const Tensor y = mean(x, spatial, true);
    const MemoryFormat f = x.ndim() == axes + 2 ? format_of(x) : MemoryFormat::contiguous;
    return f == MemoryFormat::contiguous ? y : to_format(y, f);
  }
  return average(op, x, p, output_sizes(axes, x, p), seen_as(axes, x));
}

std::pair<Tensor, Tensor> adaptive_max_pool(int axes, const Tensor& x, const Dims& size) {
  const char* op = kName[3][axes];
  return run_max(op, axes, x, adaptive(op, axes, x, size), true);
}

Dims unpool_size(int axes, const Tensor& x, const Dims& kernel, const Dims& stride0, const Dims& padding) {
  const char* op = kName[4][axes];
  const Dims& stride = stride0.empty() ? kernel : stride0;
  check_input(op, axes, x);
  check_list(op, "kernel_size", kernel, axes, 1);
  check_list(op, "stride", stride, axes, 1);
  check_list(op, "padding", padding, axes, 0);
  Dims size;
  for (int i = 0; i < axes; ++i) {
    const std::int64_t n = checked_mul(x.sizes()[x.ndim() - axes + i] - 1, stride[i], op);
    size.push_back(checked_add(checked_add(n, kernel[i], op), checked_mul(-2, padding[i], op), op));
  }
  return size;
}

Tensor max_unpool(int axes, const Tensor& x, const Tensor& indices, const Dims& size) {
  const char* op = kName[4][axes];
  check_input(op, axes, x);
  require(indices.dtype() == DType::Int64, op, "indices", ErrorKind::DType, "expected int64, got ", indices.dtype());
  require(indices.sizes() == x.sizes(), op, "indices", ErrorKind::Shape, "expected shape ", x.sizes(),
          " like the input, got ", indices.sizes());
  common_device(op, {&x, &indices});
  check_list(op, "output_size", size, axes, 1);
  Dims wide = x.sizes();
  for (int i = 0; i < axes; ++i) wide[x.ndim() - axes + i] = size[i];
  checked_numel(wide, op);
  return spread(op, Spread::place, x, Link{axes, contiguous(indices), wide, false});
}

}  // namespace pydlx::ops
