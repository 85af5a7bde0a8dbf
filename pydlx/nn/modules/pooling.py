"""Pooling as modules. Each class names the function it calls; arguments and printing are in the base of its family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from ..._C import Tensor
from .. import functional as F
from .module import Module
from .utils import _ntuple

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


class _Pool(Module):
    """What all pooling modules share: the function, and the attributes that are printed and passed on."""

    _function: ClassVar[Callable[..., Any]]
    _printed: ClassVar[tuple[str, ...]] = ("kernel_size", "stride", "padding")

    def extra_repr(self) -> str:
        """Sizes."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._printed)


class _MaxPoolNd(_Pool):
    """Maximum over windows.

    Args:
        kernel_size: window size, one number or one per axis.
        stride: step between windows. Default: ``kernel_size``.
        padding: minus infinity added on both sides, at most half a window. Default: 0.
        dilation: step inside a window. Default: 1.
        return_indices: also return where the maxima were. Default: ``False``.
        ceil_mode: round the output size up. Default: ``False``.
    """

    _printed = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

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

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return self._function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )


class MaxPool1d(_MaxPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_MaxPoolNd.__doc__}"
    _function = staticmethod(F.max_pool1d)


class MaxPool2d(_MaxPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_MaxPoolNd.__doc__}"
    _function = staticmethod(F.max_pool2d)


class MaxPool3d(_MaxPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_MaxPoolNd.__doc__}"
    _function = staticmethod(F.max_pool3d)


class _MaxUnpoolNd(_Pool):
    """Puts maxima back where max pooling found them; zero elsewhere.

    Args:
        kernel_size, stride, padding: those of the pooling. ``stride`` defaults to ``kernel_size``.
    """

    _axes: ClassVar[int]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        super().__init__()
        self.kernel_size = _ntuple(self._axes)(kernel_size)
        self.stride = _ntuple(self._axes)(stride if stride is not None else kernel_size)
        self.padding = _ntuple(self._axes)(padding)

    def forward(self, input: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Maxima and their indices to the larger tensor."""
        return self._function(  # type: ignore[no-any-return]
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )


class MaxUnpool1d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool1d`.\n{_MaxUnpoolNd.__doc__}"
    _function, _axes = staticmethod(F.max_unpool1d), 1


class MaxUnpool2d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool2d`.\n{_MaxUnpoolNd.__doc__}"
    _function, _axes = staticmethod(F.max_unpool2d), 2


class MaxUnpool3d(_MaxUnpoolNd):
    __doc__ = f"The inverse of :class:`MaxPool3d`.\n{_MaxUnpoolNd.__doc__}"
    _function, _axes = staticmethod(F.max_unpool3d), 3


class _AvgPoolNd(_Pool):
    """Mean over windows.

    Args:
        kernel_size: window size, one number or one per axis.
        stride: step between windows. Default: ``kernel_size``.
        padding: zeros added on both sides. Default: 0.
        ceil_mode: round the output size up. Default: ``False``.
        count_include_pad: count the padding in the mean. Default: ``True``.
        divisor_override: replaces the window's size (2-d and 3-d pooling). Default: none.
    """

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

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        sizes = (self.kernel_size, self.stride, self.padding)
        return self._function(  # type: ignore[no-any-return]
            input, *sizes, self.ceil_mode, self.count_include_pad, self.divisor_override
        )


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
        one = _ntuple(1)
        stride = stride if stride is not None else kernel_size
        super().__init__(one(kernel_size), one(stride), one(padding), ceil_mode, count_include_pad)

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


class AvgPool2d(_AvgPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_AvgPoolNd.__doc__}"
    _function = staticmethod(F.avg_pool2d)


class AvgPool3d(_AvgPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_AvgPoolNd.__doc__}"
    _function = staticmethod(F.avg_pool3d)


class _LPPoolNd(_Pool):
    """``(sum of x ** p) ** (1 / p)`` over windows.

    Args:
        norm_type: p. kernel_size: window size. stride: step. Default: ``kernel_size``.
        ceil_mode: round the output size up. Default: ``False``.
    """

    _printed = ("norm_type", "kernel_size", "stride", "ceil_mode")

    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> None:
        super().__init__()
        self.norm_type = norm_type
        self.kernel_size = kernel_size
        self.stride = stride
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Tensor:
        """Norms of the windows."""
        return self._function(  # type: ignore[no-any-return]
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )


class LPPool1d(_LPPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_LPPoolNd.__doc__}"
    _function = staticmethod(F.lp_pool1d)


class LPPool2d(_LPPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_LPPoolNd.__doc__}"
    _function = staticmethod(F.lp_pool2d)


class LPPool3d(_LPPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_LPPoolNd.__doc__}"
    _function = staticmethod(F.lp_pool3d)


class _AdaptiveAvgPoolNd(_Pool):
    """Mean over windows chosen so that the output has ``output_size``.

    Args:
        output_size: one number or one per axis; None keeps the input's size.
    """

    _printed = ("output_size",)

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, input: Tensor) -> Tensor:
        """Means."""
        return self._function(input, self.output_size)  # type: ignore[no-any-return]


class AdaptiveAvgPool1d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_AdaptiveAvgPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_AdaptiveAvgPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_avg_pool2d)


class AdaptiveAvgPool3d(_AdaptiveAvgPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_AdaptiveAvgPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_avg_pool3d)


class _AdaptiveMaxPoolNd(_AdaptiveAvgPoolNd):
    """Maximum over windows chosen so that the output has ``output_size``.

    Args:
        output_size: one number or one per axis; None keeps the input's size.
        return_indices: also return where the maxima were. Default: ``False``.
    """

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices

    def forward(self, input: Tensor) -> Any:
        """Maxima, and indices if asked for."""
        return self._function(input, self.output_size, self.return_indices)


class AdaptiveMaxPool1d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, L)`` or ``(C, L)``.\n{_AdaptiveMaxPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_max_pool1d)


class AdaptiveMaxPool2d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, H, W)`` or ``(C, H, W)``.\n{_AdaptiveMaxPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_max_pool2d)


class AdaptiveMaxPool3d(_AdaptiveMaxPoolNd):
    __doc__ = f"``(N, C, D, H, W)`` or ``(C, D, H, W)``.\n{_AdaptiveMaxPoolNd.__doc__}"
    _function = staticmethod(F.adaptive_max_pool3d)
