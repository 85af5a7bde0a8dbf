"""Pooling as modules."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor
from .. import functional as F
from .module import Module
from .utils import _pair, _single, _triple

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _MaxPoolNd(Module):
    """Maximum over windows.

    Args:
        kernel_size: window size, one number or one per axis.
        stride: step between windows. Default: ``kernel_size``.
        padding: minus infinity added on both sides, at most half a window. Default: 0.
        dilation: step inside a window. Default: 1.
        return_indices: also return where the maxima were. Default: ``False``.
        ceil_mode: round the output size up. Default: ``False``.
    """

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def _arguments(self) -> tuple[Any, ...]:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        """Sizes."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_MaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.max_pool1d(input, *self._arguments())


class MaxPool2d(_MaxPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_MaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.max_pool2d(input, *self._arguments())


class MaxPool3d(_MaxPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_MaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.max_pool3d(input, *self._arguments())


class _MaxUnpoolNd(Module):
    """Puts maxima back where max pooling found them; zero elsewhere.

    Args:
        kernel_size, stride, padding: those of the pooling. ``stride`` defaults to ``kernel_size``.
    """

    kernel_size: Any
    stride: Any
    padding: Any

    def extra_repr(self) -> str:
        """Sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool1d`.\n{_MaxUnpoolNd.__doc__}"

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size = _single(kernel_size)
        self.stride = _single(stride if stride is not None else kernel_size)
        self.padding = _single(padding)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Maxima and their indices to the larger tensor."""
        return F.max_unpool1d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool2d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool2d`.\n{_MaxUnpoolNd.__doc__}"

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride if stride is not None else kernel_size)
        self.padding = _pair(padding)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Maxima and their indices to the larger tensor."""
        return F.max_unpool2d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class MaxUnpool3d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool3d`.\n{_MaxUnpoolNd.__doc__}"

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size = _triple(kernel_size)
        self.stride = _triple(stride if stride is not None else kernel_size)
        self.padding = _triple(padding)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Maxima and their indices to the larger tensor."""
        return F.max_unpool3d(input, indices, self.kernel_size, self.stride, self.padding, output_size)


class _AvgPoolNd(Module):
    """Mean over windows.

    Args:
        kernel_size: window size, one number or one per axis.
        stride: step between windows. Default: ``kernel_size``.
        padding: zeros added on both sides. Default: 0.
        ceil_mode: round the output size up. Default: ``False``.
        count_include_pad: count the padding in the mean. Default: ``True``.
    """

    kernel_size: Any
    stride: Any
    padding: Any

    def extra_repr(self) -> str:
        """Sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_AvgPoolNd.__doc__}"

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = _single(kernel_size)
        self.stride = _single(stride if stride is not None else kernel_size)
        self.padding = _single(padding)
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class _AvgPoolWithDivisor(_AvgPoolNd):
    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride if stride is not None else kernel_size
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _arguments(self) -> tuple[Any, ...]:
        return (
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AvgPool2d(_AvgPoolWithDivisor):
    __doc__ = (
        f"``(N, C, H, W)`` or ``(C, H, W)``; ``divisor_override`` replaces the window's size.\n{_AvgPoolNd.__doc__}"
    )

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.avg_pool2d(input, *self._arguments())


class AvgPool3d(_AvgPoolWithDivisor):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``; see :class:`AvgPool2d`.\n{_AvgPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.avg_pool3d(input, *self._arguments())


class _LPPoolNd(Module):
    """``(sum of x ** p) ** (1 / p)`` over windows.

    Args:
        norm_type: p. kernel_size: window size. stride: step. Default: ``kernel_size``.
        ceil_mode: round the output size up. Default: ``False``.
    """

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def extra_repr(self) -> str:
        """Sizes."""
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_LPPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Norms of the windows."""
        return F.lp_pool1d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(_LPPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_LPPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Norms of the windows."""
        return F.lp_pool2d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool3d(_LPPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_LPPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Norms of the windows."""
        return F.lp_pool3d(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class _AdaptiveAvgPoolNd(Module):
    """Mean over windows chosen so that the output has ``output_size``.

    Args:
        output_size: one number or one per axis; None keeps the input's size.
    """

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        """The output size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_AdaptiveAvgPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_AdaptiveAvgPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_AdaptiveAvgPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.adaptive_avg_pool3d(input, self.output_size)


class _AdaptiveMaxPoolNd(_AdaptiveAvgPoolNd):
    """Maximum over windows chosen so that the output has ``output_size``.

    Args:
        output_size: one number or one per axis; None keeps the input's size.
        return_indices: also return where the maxima were. Default: ``False``.
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_AdaptiveMaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_AdaptiveMaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_AdaptiveMaxPoolNd.__doc__}"

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return F.adaptive_max_pool3d(input, self.output_size, self.return_indices)
