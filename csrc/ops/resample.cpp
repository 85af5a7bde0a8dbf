#include "ops/resample.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "autograd/node.h"
#include "kernels/indexing.h"
#include "kernels/resample.h"
#include "ops/dispatch.h"
#include "ops/elementwise.h"
#include "ops/pad.h"
#include "ops/pointwise.h"
#include "ops/pool.h"

namespace pydlx::ops {

namespace {

// A sparse matrix by rows: output j is the weighted sum of the inputs index[start[j] .. start[j + 1]).
struct SparseMap {
  std::int64_t in = 0, out = 0;
  std::vector<std::int64_t> start, index;
  std::vector<double> weight;

  explicit SparseMap(std::int64_t inputs) : in(inputs) { start.push_back(0); }
  void add(std::int64_t i, double w) {
    index.push_back(i);
    weight.push_back(w);
  }
  void end_row() {
    start.push_back(static_cast<std::int64_t>(index.size()));
    ++out;
  }
};
using MapRef = std::shared_ptr<const SparseMap>;

MapRef transposed(const SparseMap& m) {
  auto t = std::make_shared<SparseMap>(m.out);
  t->out = m.in;
  t->start.assign(static_cast<std::size_t>(m.in) + 1, 0);
  for (auto i : m.index) ++t->start[static_cast<std::size_t>(i) + 1];
  for (std::size_t i = 1; i < t->start.size(); ++i) t->start[i] += t->start[i - 1];
  t->index.resize(m.index.size());
  t->weight.resize(m.index.size());
  std::vector<std::int64_t> next(t->start.begin(), t->start.end() - 1);
  for (std::int64_t j = 0; j < m.out; ++j)
    for (std::int64_t k = m.start[j]; k < m.start[j + 1]; ++k) {
      const std::int64_t at = next[m.index[k]]++;
      t->index[at] = j;
      t->weight[at] = m.weight[k];
    }
  return t;
}

// The map along one axis; its gradient is the transposed map.
Tensor apply_map(const char* op, const Tensor& x, int axis, const MapRef& m) {
  Tensor y;
  {
    const GradModeGuard off(false);
    const MemoryFormat format = format_of(x);
    const Tensor in = wide_operand(x, format);
    Dims sizes = x.sizes();
    sizes[axis] = m->out;
    Tensor out = empty(sizes, in.dtype(), in.device(), format);
    const auto fn = kernel_or_fail(kernels<ResampleKernels>(in.device()).axis_map[static_cast<int>(in.dtype())], op,
                                   in.device(), x.dtype());
    if (out.numel() > 0) {
      AxisMap k;
      k.outer = k.inner = 1;
      for (int i = 0; i < x.ndim(); ++i) {
        const bool behind = format != MemoryFormat::contiguous && (i == 1) != (axis == 1) ? i == 1 : i > axis;
        if (i != axis) (behind ? k.inner : k.outer) *= sizes[i];
      }
      k.in = m->in;
      k.out = m->out;
      k.start = m->start.data();
      k.index = m->index.data();
      k.weight = m->weight.data();
      k.x = in.data();
      k.y = out.data();
      fn(k);
    }
    y = to_dtype(out, x.dtype());
  }
  if (any_requires_grad(x))
    record(op, y, {&x}, [op, axis, m](Backward& bw) { bw.set(0, apply_map(op, bw.grad(), axis, transposed(*m))); });
  return y;
}

// Maps that copy single inputs, along the last `maps.size()` <= 3 axes (null: that axis stays), in one pass; axis by
// axis where the device has no kernel for it.
Tensor apply_copies(const char* op, const Tensor& x0, const std::vector<MapRef>& maps) {
  const int axes = static_cast<int>(maps.size()), lead = x0.ndim() - axes;
  const auto fn = kernels<ResampleKernels>(x0.device()).plane_map[width_index(x0.dtype())];
  const auto axis_by_axis = [op, lead, axes](Tensor t, const std::vector<MapRef>& m, bool backwards) {
    for (int i = axes - 1; i >= 0; --i)
      if (m[i]) t = apply_map(op, t, lead + i, backwards ? transposed(*m[i]) : m[i]);
    return t;
  };
  if (!fn) return axis_by_axis(x0, maps, false);
  Tensor y;
  {
    const GradModeGuard off(false);
    // Channels-last images are volumes (H, W, C) whose last axis stays.
    const MemoryFormat format = format_of(x0);
    const bool behind = format == MemoryFormat::channels_last && axes == 2;
    const MemoryFormat planes = behind ? format : MemoryFormat::contiguous;
    const Tensor x = contiguous(detach(x0), planes);
    Dims sizes = x.sizes();
    PlaneMap k;
    std::vector<std::int64_t> identity[3];
    k.outer = 1;
    for (int i = 0; i < lead; ++i) (behind && i == 1 ? k.in[2] : k.outer) *= sizes[i];
    k.out[2] = k.in[2];
    for (int i = 0; i < axes; ++i) {
      const int at = behind ? i : 3 - axes + i;
      k.in[at] = sizes[lead + i];
      if (maps[i]) {
        sizes[lead + i] = maps[i]->out;
        k.index[at] = maps[i]->index.data();
      }
      k.out[at] = sizes[lead + i];
    }
    for (int at = 0; at < 3; ++at)
      if (!k.index[at]) {
        for (std::int64_t i = 0; i < k.out[at]; ++i) identity[at].push_back(i);
        k.index[at] = identity[at].data();
      }
    y = empty(sizes, x.dtype(), x.device(), planes);
    k.x = x.data();
    k.y = y.data();
    if (y.numel() > 0) fn(k);
    if (format != planes) y = to_format(y, format);
  }
  if (any_requires_grad(x0))
    record(op, y, {&x0}, [maps, axis_by_axis](Backward& bw) { bw.set(0, axis_by_axis(bw.grad(), maps, true)); });
  return y;
}

std::int64_t clamped(std::int64_t i, std::int64_t n) { return std::clamp<std::int64_t>(i, 0, n - 1); }

// ---- padding
// ---------------------------------------------------------------------------------------------------------------------

MapRef padding_map(std::int64_t n, std::int64_t front, std::int64_t back, const std::string& mode) {
  auto m = std::make_shared<SparseMap>(n);
  // A circle goes around what negative amounts leave of the axis.
  const std::int64_t first = std::max<std::int64_t>(0, -front), last = n + std::min<std::int64_t>(0, back);
  for (std::int64_t p = -front; p < n + back; ++p) {
    std::int64_t i = p;
    if (mode == "reflect")
      i = p < 0 ? -p : p >= n ? 2 * (n - 1) - p : p;
    else if (mode == "circular")
      i = p < first ? p + (last - first) : p >= last ? p - (last - first) : p;
    m->add(clamped(i, n), 1.0);
    m->end_row();
  }
  return m;
}

// ---- interpolation
// -----------------------------------------------------------------------------------------------------------------

// Keys' cubic convolution kernel at distance d in [0, 2).
double cubic(double d, double a) {
  return d <= 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

// Input positions per output step.
double step_of(std::int64_t in, std::int64_t out, double scale, bool align_corners) {
  if (align_corners) return out > 1 ? static_cast<double>(in - 1) / static_cast<double>(out - 1) : 0;
  return scale > 0 ? 1 / scale : static_cast<double>(in) / static_cast<double>(out);
}

// Positions are computed in float: the choice of a neighbour must not depend on the tensor's dtype, and PyTorch's does
// it so.
MapRef nearest_map(std::int64_t in, std::int64_t out, double scale, double shift) {
  auto m = std::make_shared<SparseMap>(in);
  const float step = scale > 0 ? static_cast<float>(1 / scale) : static_cast<float>(in) / static_cast<float>(out);
  for (std::int64_t j = 0; j < out; ++j) {
    const float at = (static_cast<float>(j) + static_cast<float>(shift)) * step;
    m->add(in == out && scale <= 0 ? j : clamped(static_cast<std::int64_t>(std::floor(at)), in), 1.0);
    m->end_row();
  }
  return m;
}

MapRef linear_map(std::int64_t in, std::int64_t out, double scale, bool align_corners) {
  auto m = std::make_shared<SparseMap>(in);
  const double step = step_of(in, out, scale, align_corners);
  for (std::int64_t j = 0; j < out; ++j) {
    const double d = static_cast<double>(j);
    const double at = align_corners ? step * d : std::max(0.0, step * (d + 0.5) - 0.5);
    const std::int64_t i = clamped(static_cast<std::int64_t>(at), in);
    const double t = std::clamp(at - static_cast<double>(i), 0.0, 1.0);
    const bool inside = i + 1 < in;  // past the last point there is only the last point
    m->add(i, inside ? 1 - t : 1.0);
    if (inside && t > 0) m->add(i + 1, t);
    m->end_row();
  }
  return m;
}

MapRef cubic_map(std::int64_t in, std::int64_t out, double scale, bool align_corners) {
  constexpr double a = -0.75;
  auto m = std::make_shared<SparseMap>(in);
  const double step = step_of(in, out, scale, align_corners);
  for (std::int64_t j = 0; j < out; ++j) {
    const double d = static_cast<double>(j), at = align_corners ? step * d : step * (d + 0.5) - 0.5;
    const double base = std::floor(at), t = at - base;
    const auto i = static_cast<std::int64_t>(base);
    m->add(clamped(i - 1, in), cubic(t + 1, a));
    m->add(clamped(i, in), cubic(t, a));
    m->add(clamped(i + 1, in), cubic(1 - t, a));
    m->add(clamped(i + 2, in), cubic(2 - t, a));
    m->end_row();
  }
  return m;
}

// A filter as wide as the output pixel when shrinking, normalised at the borders (as in Pillow).
MapRef antialias_map(std::int64_t in, std::int64_t out, double scale, bool align_corners, bool bicubic) {
  auto m = std::make_shared<SparseMap>(in);
  const double step = step_of(in, out, scale, align_corners), widen = std::max(step, 1.0),
               support = (bicubic ? 2.0 : 1.0) * widen;
  for (std::int64_t j = 0; j < out; ++j) {
    const double centre = step * (static_cast<double>(j) + 0.5);
    const auto lo = std::max<std::int64_t>(static_cast<std::int64_t>(centre - support + 0.5), 0);
    const auto hi = std::min<std::int64_t>(static_cast<std::int64_t>(centre + support + 0.5), in);
    const std::size_t first = m->weight.size();
    double total = 0;
    for (std::int64_t i = lo; i < hi; ++i) {
      const double d = std::abs((static_cast<double>(i) - centre + 0.5) / widen);
      const double w = bicubic ? cubic(d, -0.5) : std::max(0.0, 1 - d);
      m->add(i, w);
      total += w;
    }
    if (total != 0)
      for (std::size_t k = first; k < m->weight.size(); ++k) m->weight[k] /= total;
    m->end_row();
  }
  return m;
}

}  // namespace

Tensor pad(const Tensor& x0, const Dims& amounts, const std::string& mode, std::optional<Scalar> value) {
  const char* op = "pad";
  if (mode == "constant") return constant_pad(x0, amounts, value.value_or(Scalar(0)));
  require(mode == "reflect" || mode == "replicate" || mode == "circular", op, "mode", ErrorKind::Value,
          "expected 'constant', 'reflect', 'replicate' or 'circular', got '", mode, "'");
  require(!value || value->to_double() == 0, op, "value", ErrorKind::Value, "expected no value with mode '", mode, "'");
  const int axes = amounts.ndim() / 2;
  require(amounts.ndim() % 2 == 0 && axes >= 1 && axes <= 3 && (x0.ndim() == axes + 1 || x0.ndim() == axes + 2), op,
          "pad", ErrorKind::Value,
          "expected (front, back) pairs for all axes of (N, C, spatial...) or (C, spatial...), got ", amounts,
          " for shape ", x0.sizes());
  const Tensor& x = x0;
  std::vector<MapRef> maps(static_cast<std::size_t>(axes));
  Dims sizes = x.sizes();
  for (int i = 0; i < axes; ++i) {
    const int a = x.ndim() - 1 - i;
    const std::int64_t n = x0.sizes()[a], front = amounts[2 * i], back = amounts[2 * i + 1];
    if (front == 0 && back == 0) continue;
    const std::int64_t most = mode == "reflect" ? n - 1 : mode == "circular" ? n : INT64_MAX;
    require(n > 0 && front <= most && back <= most, op, "pad", ErrorKind::Value, "expected at most ",
            std::max<std::int64_t>(most, 0), " for mode '", mode, "' on an axis of size ", n, ", got ", front, " and ",
            back);
    const std::int64_t size = checked_add(checked_add(n, front, op), back, op);
    require(size > 0 && front > -n && back > -n, op, "pad", ErrorKind::Shape, "expected an output size above 0, got ",
            size, " from ", n, " with ", front, " and ", back);
    sizes[a] = size;
    checked_mul(checked_numel(sizes, op), 8, op);
    // Large amounts must run out of memory here, not while the table grows.
    const Tensor room = empty({size, 2}, DType::Float64);
    maps[axes - 1 - i] = padding_map(n, front, back, mode);
  }
  return sizes == x.sizes() && std::none_of(maps.begin(), maps.end(), [](const MapRef& m) { return m != nullptr; })
             ? clone(x)
             : apply_copies(op, x, maps);
}

Tensor interpolate(const Tensor& x, const Dims& size, const std::vector<double>& scale, const std::string& mode,
                   bool align_corners, bool antialias) {
  const char* op = "interpolate";
  const int axes = x.ndim() - 2;
  require(axes >= 1 && axes <= 3, op, "input", ErrorKind::Shape, "expected 3 to 5 axes (N, C, spatial...), got shape ",
          x.sizes());
  require(is_floating(x.dtype()), op, "input", ErrorKind::DType, "expected a floating point tensor, got ", x.dtype(),
          "; convert with .float()");
  const bool linear =
      (mode == "linear" && axes == 1) || (mode == "bilinear" && axes == 2) || (mode == "trilinear" && axes == 3);
  const bool bicubic = mode == "bicubic" && axes == 2;
  require(linear || bicubic || mode == "nearest" || mode == "nearest-exact" || mode == "area", op, "mode",
          ErrorKind::Value,
          "expected nearest, nearest-exact, area, linear (3 axes), bilinear or bicubic (4 axes) or trilinear (5 axes), "
          "got '",
          mode, "' for shape ", x.sizes());
  require(!antialias || bicubic || mode == "bilinear", op, "antialias", ErrorKind::Value,
          "expected mode bilinear or bicubic, got '", mode, "'");
  require(size.ndim() == axes, op, "size", ErrorKind::Value, "expected ", axes, " sizes, got ", size);
  Dims sizes = x.sizes();
  for (int i = 0; i < axes; ++i) {
    require(size[i] > 0, op, "size", ErrorKind::Value, "expected sizes above 0, got ", size);
    require(x.sizes()[2 + i] > 0, op, "input", ErrorKind::Shape, "expected spatial sizes above 0, got shape ",
            x.sizes());
    sizes[2 + i] = size[i];
  }
  checked_mul(checked_numel(sizes, op), 8, op);
  if (mode == "area") return adaptive_avg_pool(axes, x, size);
  Tensor y = x;
  std::vector<MapRef> copies(static_cast<std::size_t>(axes));
  for (int i = 0; i < axes; ++i) {
    const std::int64_t in = x.sizes()[2 + i], out = size[i];
    const double s = scale.empty() ? 0 : scale[i];
    // The table's memory is asked for in one piece first, so that absurd sizes fail cleanly.
    const Tensor room = empty({out, 2}, DType::Float64);
    if (!linear && !bicubic) {
      copies[i] = nearest_map(in, out, s, mode == "nearest" ? 0 : 0.5);
      continue;
    }
    MapRef m = antialias ? antialias_map(in, out, s, align_corners, bicubic)
               : bicubic ? cubic_map(in, out, s, align_corners)
                         : linear_map(in, out, s, align_corners);
    y = apply_map(op, y, 2 + i, m);
  }
  return linear || bicubic ? y : apply_copies(op, x, copies);
}

}  // namespace pydlx::ops
