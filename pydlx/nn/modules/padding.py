"""Padding as modules. Sizes are given last axis first: (left, right, top, bottom, front, back)."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor
from .. import functional as F
from .module import Module
from .utils import _ntuple

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _PadNd(Module):
    """Pads the last axes.

    Args:
        padding: one number for all sides, or two per axis, last axis first.
    """

    _axes: int
    _mode: str

    def __init__(self, padding: Any) -> None:
        super().__init__()
        self.padding = _ntuple(2 * self._axes)(padding)

    def forward(self, input: Tensor) -> Tensor:
        """The input with its last axes enlarged."""
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    """Pads the last axes with a constant.

    Args:
        padding: one number for all sides, or two per axis, last axis first.
        value: what to pad with.
    """

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """The input with its last axes enlarged."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """The sizes and the value."""
        return f"padding={self.padding}, value={self.value}"


class _ZeroPadNd(_ConstantPadNd):
    """Pads the last axes with zeros.

    Args:
        padding: one number for all sides, or two per axis, last axis first.
    """

    def __init__(self, padding: Any) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"{self.padding}"


class _CircularPadNd(_PadNd):
    """Pads the last axes as if the input went around.

    Args:
        padding: one number for all sides, or two per axis, last axis first; at most the input's size.
    """

    _mode = "circular"


class _ReflectionPadNd(_PadNd):
    """Pads the last axes with the input mirrored at its border points, which are not repeated.

    Args:
        padding: one number for all sides, or two per axis, last axis first; less than the input's size.
    """

    _mode = "reflect"


class _ReplicationPadNd(_PadNd):
    """Pads the last axes with the border points.

    Args:
        padding: one number for all sides, or two per axis, last axis first.
    """

    _mode = "replicate"


class ConstantPad1d(_ConstantPadNd):
    __doc__ = f"``(N, C, L)``, batch axis optional.\n{_ConstantPadNd.__doc__}"
    _axes = 1


class ConstantPad2d(_ConstantPadNd):
    __doc__ = f"``(N, C, H, W)``, batch axis optional.\n{_ConstantPadNd.__doc__}"
    _axes = 2


class ConstantPad3d(_ConstantPadNd):
    __doc__ = f"``(N, C, D, H, W)``, batch axis optional.\n{_ConstantPadNd.__doc__}"
    _axes = 3


class ZeroPad1d(_ZeroPadNd):
    __doc__ = f"``(N, C, L)``, batch axis optional.\n{_ZeroPadNd.__doc__}"
    _axes = 1


class ZeroPad2d(_ZeroPadNd):
    __doc__ = f"``(N, C, H, W)``, batch axis optional.\n{_ZeroPadNd.__doc__}"
    _axes = 2


class ZeroPad3d(_ZeroPadNd):
    __doc__ = f"``(N, C, D, H, W)``, batch axis optional.\n{_ZeroPadNd.__doc__}"
    _axes = 3


class CircularPad1d(_CircularPadNd):
    __doc__ = f"``(N, C, L)``, batch axis optional.\n{_CircularPadNd.__doc__}"
    _axes = 1


class CircularPad2d(_CircularPadNd):
    __doc__ = f"``(N, C, H, W)``, batch axis optional.\n{_CircularPadNd.__doc__}"
    _axes = 2


class CircularPad3d(_CircularPadNd):
    __doc__ = f"``(N, C, D, H, W)``, batch axis optional.\n{_CircularPadNd.__doc__}"
    _axes = 3


class ReflectionPad1d(_ReflectionPadNd):
    __doc__ = f"``(N, C, L)``, batch axis optional.\n{_ReflectionPadNd.__doc__}"
    _axes = 1


class ReflectionPad2d(_ReflectionPadNd):
    __doc__ = f"``(N, C, H, W)``, batch axis optional.\n{_ReflectionPadNd.__doc__}"
    _axes = 2


class ReflectionPad3d(_ReflectionPadNd):
    __doc__ = f"``(N, C, D, H, W)``, batch axis optional.\n{_ReflectionPadNd.__doc__}"
    _axes = 3


class ReplicationPad1d(_ReplicationPadNd):
    __doc__ = f"``(N, C, L)``, batch axis optional.\n{_ReplicationPadNd.__doc__}"
    _axes = 1


class ReplicationPad2d(_ReplicationPadNd):
    __doc__ = f"``(N, C, H, W)``, batch axis optional.\n{_ReplicationPadNd.__doc__}"
    _axes = 2


class ReplicationPad3d(_ReplicationPadNd):
    __doc__ = f"``(N, C, D, H, W)``, batch axis optional.\n{_ReplicationPadNd.__doc__}"
    _axes = 3
