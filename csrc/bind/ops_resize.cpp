// Rows of padding, interpolation, sliding blocks, pixel rearrangement and grid sampling.
#include <cmath>

#include "bind/rows.h"
#include "ops/grid_sample.h"
#include "ops/resample.h"
#include "ops/unfold.h"

namespace pydlx::bind {

namespace {

// One number or one per axis.
std::vector<double> parse_floats(const Call& c, std::size_t i, int axes) {
  PyObject* o = c.slots[i];
  std::vector<double> v;
  auto add = [&](PyObject* e) {
    const double d = PyFloat_AsDouble(e);
    if (PyErr_Occurred()) {
      PyErr_Clear();
      argument_error(c, i, "a number or one per spatial axis");
    }
    v.push_back(d);
  };
  if (PyTuple_Check(o) || PyList_Check(o))
    for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(o); ++k) add(PySequence_Fast_ITEMS(o)[k]);
  else
    add(o);
  if (v.size() == 1) v.assign(static_cast<std::size_t>(std::max(axes, 1)), v[0]);
  return v;
}

// (input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
Tensor interpolate_call(const Call& c) {
  const Tensor x = parse_tensor(c, 0);
  const std::string mode = parse_str(c, 3);
  const int axes = x.ndim() - 2;
  const char* op = "interpolate";
  const bool has_size = c.slots[1] != Py_None, has_scale = c.slots[2] != Py_None, has_align = c.slots[4] != Py_None;
  require(has_size != has_scale, op, "size", ErrorKind::Value, "expected exactly one of size and scale_factor");
  require(!has_align || mode == "linear" || mode == "bilinear" || mode == "bicubic" || mode == "trilinear", op,
          "align_corners", ErrorKind::Value, "expected None with mode '", mode, "'");
  Dims size;
  std::vector<double> scale;
  if (has_size) {
    size = parse_ints(c, 1);
    if (size.size() == 1 && axes > 0) size = Dims::filled(static_cast<std::size_t>(axes), size[0]);
  } else {
    scale = parse_floats(c, 2, axes);
    require(static_cast<int>(scale.size()) == axes, op, "scale_factor", ErrorKind::Value, "expected one factor or ",
            axes, ", got ", scale.size());
    for (int i = 0; i < axes; ++i) {
      const double n = std::floor(static_cast<double>(x.sizes()[2 + i]) * scale[i]);
      require(n >= 1 && n < 9e18, op, "scale_factor", ErrorKind::Value,
              "expected factors that leave a size above 0, got ", scale[i], " for shape ", x.sizes());
      size.push_back(static_cast<std::int64_t>(n));
    }
    if (c.slots[5] != Py_None && parse_bool(c, 5)) scale.clear();
  }
  return ops::interpolate(x, size, scale, mode, has_align && parse_bool(c, 4), parse_bool(c, 6));
}
PyObject* interpolate_row(const Call& c) { return wrap(interpolate_call(c)); }

Tensor grid_sample_row(const Tensor& x, const Tensor& grid, const std::string& mode, const std::string& padding,
                       std::optional<bool> align) {
  return ops::grid_sample(x, grid, mode, padding, align.value_or(false));
}

}  // namespace

void bind_resize(OpRegistry& r) {
  r.add({
      {"pad(Tensor input, int[] pad, str mode='constant', Number? value=None) -> Tensor", call<&ops::pad>, kHidden,
       "Pads the last axes; pad lists (front, back) pairs from the last axis on, negative amounts crop. mode "
       "'constant' (any shape), "
       "'reflect', 'replicate' or 'circular' (the spatial axes of (N, C, ...) or (C, ...))."},
      {"interpolate(Tensor input, int[]? size=None, object scale_factor=None, str mode='nearest', bool? "
       "align_corners=None, "
       "bool? recompute_scale_factor=None, bool antialias=False) -> Tensor",
       interpolate_row, kHidden,
       "Resamples (N, C, spatial...) to a size or by a factor: nearest, nearest-exact, linear, bilinear, bicubic (Keys "
       "1981, a = -0.75), "
       "trilinear, area."},
      {"im2col(Tensor input, int[2] kernel_size, int[2] dilation=1, int[2] padding=0, int[2] stride=1) -> Tensor",
       call<&ops::im2col>, kHidden, "Sliding blocks of (N, C, H, W) as columns (N, C kh kw, L); nn.functional.unfold."},
      {"col2im(Tensor input, int[2] output_size, int[2] kernel_size, int[2] dilation=1, int[2] padding=0, int[2] "
       "stride=1) -> Tensor",
       call<&ops::col2im>, kHidden,
       "Sums columns (N, C kh kw, L) into images (N, C, H, W), the adjoint of im2col; nn.functional.fold."},
      {"pixel_shuffle(Tensor input, int upscale_factor) -> Tensor", call<&ops::pixel_shuffle>, kFunction,
       "(..., C r r, H, W) to (..., C, H r, W r) (Shi et al. 2016)."},
      {"pixel_unshuffle(Tensor input, int downscale_factor) -> Tensor", call<&ops::pixel_unshuffle>, kFunction,
       "(..., C, H r, W r) to (..., C r r, H, W), the inverse of pixel_shuffle."},
      {"channel_shuffle(Tensor input, int groups) -> Tensor", call<&ops::channel_shuffle>, kFunction,
       "Interleaves groups of channels of (N, C, spatial...) (Zhang et al. 2018)."},
      {"grid_sample(Tensor input, Tensor grid, str mode='bilinear', str padding_mode='zeros', bool? "
       "align_corners=None) -> Tensor",
       call<&grid_sample_row>, kHidden,
       "Samples (N, C, H, W) or (N, C, D, H, W) at grid points (N, out..., 2 or 3), x first, -1 to 1 spanning the "
       "image (Jaderberg et al. 2015)."},
  });
}

}  // namespace pydlx::bind
