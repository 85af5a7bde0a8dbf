"""Convolutions and transposed convolutions in one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..._C import Tensor, empty
from .. import functional as F
from .. import init
from ..parameter import Parameter
from ._checks import require_integers
from .module import Module
from .utils import _ntuple, _reverse_repeat_tuple

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _ConvNd(Module):
    """What all convolutions share: sizes, parameters and their initialisation.

    Args:
        in_channels, out_channels: channels of the input and of the output; both divisible by ``groups``.
        kernel_size: size of the filter, one number or one per axis.
        stride: step of the filter. Default: 1.
        padding: points added on both sides; for the plain convolutions also ``"valid"`` (none) or ``"same"`` (output as
            large as the input; stride 1 only). Default: 0.
        dilation: step between the filter's points. Default: 1.
        groups: number of blocks of channels that are convolved separately. Default: 1.
        bias: add a learned value per output channel. Default: ``True``.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``. Default: ``"zeros"``.

    Both parameters start from ``U(-b, b)`` with ``b = 1 / sqrt(in_channels / groups * points of the filter)``.

    Raises:
        ValueError: sizes that do not fit each other, or an unknown padding.
    """

    weight: Tensor
    bias: Tensor | None
    _axes: int
    _transposed = False
    _function: Callable[..., Tensor]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        output_padding: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: Any,
        dtype: Any,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        each = _ntuple(self._axes)
        require_integers(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if groups <= 0:
            raise ValueError(f"[{name}] groups: expected a positive number, got {groups}")
        if in_channels % groups:
            raise ValueError(f"[{name}] in_channels: expected a multiple of groups = {groups}, got {in_channels}")
        if out_channels % groups:
            raise ValueError(f"[{name}] out_channels: expected a multiple of groups = {groups}, got {out_channels}")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"[{name}] padding_mode: expected one of {_PADDING_MODES}, got {padding_mode!r}")
        if self._transposed and padding_mode != "zeros":
            raise ValueError(f"[{name}] padding_mode: expected 'zeros', got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each(kernel_size)
        self.stride = each(stride)
        self.dilation = each(dilation)
        self.transposed = self._transposed
        self.output_padding = each(output_padding)
        self.groups = groups
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"[{name}] padding: expected numbers, 'same' or 'valid', got {padding!r}")
            if padding == "same" and any(s != 1 for s in self.stride):
                raise ValueError(f"[{name}] padding: expected numbers with stride {self.stride}, got 'same'")
            self.padding: Any = padding
        else:
            self.padding = each(padding)
        for what in ("kernel_size", "stride", "dilation", "output_padding", "padding"):
            values = getattr(self, what)
            if not isinstance(values, str) and len(values) != self._axes:
                raise ValueError(f"[{name}] {what}: expected {self._axes} values, got {len(values)}")
        self._padding_both_sides = self._around()
        channels = (in_channels, out_channels // groups) if self._transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(empty((*channels, *self.kernel_size), device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _around(self) -> list[int]:
        """Padding as ``pad`` wants it: last axis first, before and after. 'same' puts the odd point after."""
        if self.padding == "valid":
            return [0] * (2 * self._axes)
        if self.padding == "same":
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [part for total in reversed(totals) for part in (total // 2, total - total // 2)]
        return list(_reverse_repeat_tuple(self.padding, 2))

    def reset_parameters(self) -> None:
        """Draws new values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # this gain makes the bound 1/sqrt(fan_in)
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in != 0:
                bound = 1 / math.sqrt(fan_in)
                init.uniform_(self.bias, -bound, bound)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function = type(self)._function
        if self.padding_mode != "zeros":
            input = F.pad(input, self._padding_both_sides, self.padding_mode)
            return function(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return function(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """Sizes, and whatever differs from its default."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0,) * self._axes:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self._axes:
            text += f", dilation={self.dilation}"
        if self.output_padding != (0,) * self._axes:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        if self.padding_mode != "zeros":
            text += f", padding_mode={self.padding_mode}"
        return text


class _Conv(_ConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            0,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, input: Tensor) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``; the batch axis may be missing."""
        return self._conv_forward(input, self.weight, self.bias)


class Conv1d(_Conv):
    __doc__ = f"Cross-correlation of ``(N, C, L)`` with ``weight`` of ``(out, in / groups, k)``.\n{_ConvNd.__doc__}"
    _axes = 1
    _function = staticmethod(F.conv1d)


class Conv2d(_Conv):
    __doc__ = (
        f"Cross-correlation of ``(N, C, H, W)`` with ``weight`` of ``(out, in / groups, kh, kw)``.\n{_ConvNd.__doc__}"
    )
    _axes = 2
    _function = staticmethod(F.conv2d)


class Conv3d(_Conv):
    __doc__ = f"Cross-correlation of ``(N, C, D, H, W)`` with a filter of three axes.\n{_ConvNd.__doc__}"
    _axes = 3
    _function = staticmethod(F.conv3d)


class _ConvTransposeNd(_ConvNd):
    _transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"[{type(self).__name__}] padding: expected numbers, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            output_padding,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def _output_padding(
        self,
        input: Tensor,
        output_size: Sequence[int] | None,
        stride: Sequence[int],
        padding: Sequence[int],
        kernel_size: Sequence[int],
        num_spatial_dims: int,
        dilation: Sequence[int] | None = None,
    ) -> Sequence[int]:
        """The points to add at the end so that the output has ``output_size``, which stride leaves ambiguous."""
        if output_size is None:
            return self.output_padding
        name = type(self).__name__
        asked = [int(n) for n in output_size]
        if len(asked) == input.ndim:
            asked = asked[-num_spatial_dims:]
        if len(asked) != num_spatial_dims:
            raise ValueError(
                f"[{name}] output_size: expected {num_spatial_dims} or {input.ndim} values, got {len(output_size)}"
            )
        extra = []
        for i, want in enumerate(asked):
            spread = dilation[i] if dilation is not None else 1
            smallest = (input.shape[i - num_spatial_dims] - 1) * stride[i] - 2 * padding[i]
            smallest += spread * (kernel_size[i] - 1) + 1
            if not smallest <= want <= smallest + stride[i] - 1:
                raise ValueError(
                    f"[{name}] output_size: expected {smallest} to {smallest + stride[i] - 1} for axis {i}, got {want}"
                )
            extra.append(want - smallest)
        return extra

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``; ``output_size`` picks among the possible sizes."""
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, self._axes, self.dilation
        )
        return type(self)._function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )


class ConvTranspose1d(_ConvTransposeNd):
    __doc__ = f"The adjoint of :class:`Conv1d`; ``weight`` is ``(in, out / groups, k)``.\n{_ConvNd.__doc__}"
    _axes = 1
    _function = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTransposeNd):
    __doc__ = f"The adjoint of :class:`Conv2d`; ``weight`` is ``(in, out / groups, kh, kw)``.\n{_ConvNd.__doc__}"
    _axes = 2
    _function = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTransposeNd):
    __doc__ = f"The adjoint of :class:`Conv3d`; ``weight`` is ``(in, out / groups, kd, kh, kw)``.\n{_ConvNd.__doc__}"
    _axes = 3
    _function = staticmethod(F.conv_transpose3d)
