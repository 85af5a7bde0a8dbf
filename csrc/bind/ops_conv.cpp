// Rows of the convolutions.
#include "bind/rows.h"
#include "ops/conv.h"

namespace pydlx::bind {

namespace {

template <int axes>
Tensor conv_row(const Tensor& x, const Tensor& w, const Tensor& b, const Dims& stride, const Dims& padding,
                const Dims& dilation, std::int64_t groups) {
  return ops::conv(axes, x, w, b, stride, padding, dilation, groups);
}
template <int axes>
Tensor conv_named_row(const Tensor& x, const Tensor& w, const Tensor& b, const Dims& stride, const std::string& padding,
                      const Dims& dilation, std::int64_t groups) {
  return ops::conv_named(axes, x, w, b, stride, padding, dilation, groups);
}
template <int axes>
Tensor transpose_row(const Tensor& x, const Tensor& w, const Tensor& b, const Dims& stride, const Dims& padding,
                     const Dims& output_padding, std::int64_t groups, const Dims& dilation) {
  return ops::conv_transpose(axes, x, w, b, stride, padding, output_padding, groups, dilation);
}

constexpr const char* kConvDoc =
    "Convolution (cross-correlation). input (N, C, spatial...) or (C, spatial...), weight (K, C / groups, kernel...), "
    "bias (K,). "
    "Output size floor((n + 2 padding - dilation (kernel - 1) - 1) / stride) + 1. padding may be 'valid' or 'same' "
    "(stride 1). "
    "ShapeError when shapes do not fit or the kernel exceeds the padded input, ValueError for bad stride, dilation or "
    "groups.";
constexpr const char* kFusedDoc =
    "activation(scale * convolution + bias) in one pass over the output, for 1 to 3 spatial axes (those of the "
    "weight). "
    "input (N, C, spatial...) or (C, spatial...), weight (K, C / groups, kernel...), bias and scale (K,), one value "
    "per "
    "output channel: y[n, k, o] = activation(scale[k] sum over c, t of weight[k, c, t] input[n, c, o stride + t "
    "dilation "
    "- padding] + bias[k]); no scale means 1. activation 'none' or 'relu'. padding may be 'valid' or 'same' (stride "
    "1). "
    "Evaluates a batch normalisation after a convolution with scale = gamma / sqrt(var + eps) and bias = beta + scale "
    "(convolution's bias - mean). Differentiable; with a scale and gradients wanted it is composed of convolution, "
    "product, sum and activation. ShapeError when shapes do not fit, DTypeError for a scale or bias of another dtype "
    "than the input, ValueError for other activations and bad stride, padding, dilation or groups.";
constexpr const char* kTransposeDoc =
    "Transposed convolution, the adjoint of convolution. input (N, C, spatial...) or (C, spatial...), weight (C, K / "
    "groups, kernel...). "
    "Output size (n - 1) stride - 2 padding + dilation (kernel - 1) + output_padding + 1.";

}  // namespace

void bind_conv(OpRegistry& r) {
  r.add({
      {"conv1d(Tensor input, Tensor weight, Tensor? bias=None, int[1] stride=1, int[1] padding=0, int[1] dilation=1, "
       "int groups=1) -> Tensor",
       call<&conv_row<1>>, kFunction, kConvDoc},
      {"conv1d(Tensor input, Tensor weight, Tensor? bias=None, int[1] stride=1, str padding='valid', int[1] "
       "dilation=1, int groups=1) -> Tensor",
       call<&conv_named_row<1>>, kFunction, kConvDoc},
      {"conv2d(Tensor input, Tensor weight, Tensor? bias=None, int[2] stride=1, int[2] padding=0, int[2] dilation=1, "
       "int groups=1) -> Tensor",
       call<&conv_row<2>>, kFunction, kConvDoc},
      {"conv2d(Tensor input, Tensor weight, Tensor? bias=None, int[2] stride=1, str padding='valid', int[2] "
       "dilation=1, int groups=1) -> Tensor",
       call<&conv_named_row<2>>, kFunction, kConvDoc},
      {"conv3d(Tensor input, Tensor weight, Tensor? bias=None, int[3] stride=1, int[3] padding=0, int[3] dilation=1, "
       "int groups=1) -> Tensor",
       call<&conv_row<3>>, kFunction, kConvDoc},
      {"conv3d(Tensor input, Tensor weight, Tensor? bias=None, int[3] stride=1, str padding='valid', int[3] "
       "dilation=1, int groups=1) -> Tensor",
       call<&conv_named_row<3>>, kFunction, kConvDoc},
      {"conv_transpose1d(Tensor input, Tensor weight, Tensor? bias=None, int[1] stride=1, int[1] padding=0, int[1] "
       "output_padding=0, "
       "int groups=1, int[1] dilation=1) -> Tensor",
       call<&transpose_row<1>>, kFunction, kTransposeDoc},
      {"conv_transpose2d(Tensor input, Tensor weight, Tensor? bias=None, int[2] stride=1, int[2] padding=0, int[2] "
       "output_padding=0, "
       "int groups=1, int[2] dilation=1) -> Tensor",
       call<&transpose_row<2>>, kFunction, kTransposeDoc},
      {"conv_transpose3d(Tensor input, Tensor weight, Tensor? bias=None, int[3] stride=1, int[3] padding=0, int[3] "
       "output_padding=0, "
       "int groups=1, int[3] dilation=1) -> Tensor",
       call<&transpose_row<3>>, kFunction, kTransposeDoc},
      {"conv_activation(Tensor input, Tensor weight, Tensor? bias=None, int[+] stride=1, int[+] padding=0, int[+] "
       "dilation=1, int groups=1, *, Tensor? scale=None, str activation='none') -> Tensor",
       call<&ops::conv_activation>, kHidden, kFusedDoc},
      {"conv_activation(Tensor input, Tensor weight, Tensor? bias=None, int[+] stride=1, str padding='valid', int[+] "
       "dilation=1, int groups=1, *, Tensor? scale=None, str activation='none') -> Tensor",
       call<&ops::conv_activation_named>, kHidden, kFusedDoc},
      {"convolution(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] dilation, bool "
       "transposed, "
       "int[] output_padding, int groups) -> Tensor",
       call<&ops::convolution>, kFunction,
       "Convolution or its transpose with 1 to 3 spatial axes, taken from the weight."},
  });
}

}  // namespace pydlx::bind
