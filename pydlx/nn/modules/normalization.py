"""Layer, group, RMS and local response normalisation."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor, empty
from .. import functional as F
from .. import init
from ..parameter import Parameter
from ._affine import Affine
from ._checks import require_integers
from .module import Module

__all__ = ["GroupNorm", "LayerNorm", "LocalResponseNorm", "RMSNorm"]


def _shape_of(owner: Module, normalized_shape: Any) -> tuple[int, ...]:
    if not isinstance(normalized_shape, (list, tuple)):
        require_integers(owner, normalized_shape=normalized_shape)
        return (int(normalized_shape),)
    for i, size in enumerate(normalized_shape):
        require_integers(owner, **{f"normalized_shape[{i}]": size})
    return tuple(normalized_shape)


class LayerNorm(Affine):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axes (Ba et al., 2016).

    Args:
        normalized_shape: sizes of the axes to normalise, at the end of the input's shape.
        eps: added to the variance. Default: 1e-5.
        elementwise_affine: learn ``weight`` (from one) and ``bias`` (from zero). Default: ``True``.
        bias: learn ``bias``. Default: ``True``.
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape_of(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self._register_affine(self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class GroupNorm(Affine):
    """Normalises each of ``num_groups`` groups of channels of each sample (Wu and He, 2018).

    Args:
        num_groups: groups; must divide ``num_channels``.
        num_channels: channels C of the ``(N, C, ...)`` input.
        eps: added to the variance. Default: 1e-5.
        affine: learn a scale (from one) and a shift (from zero) per channel. Default: ``True``.
        bias: learn the shift. Default: ``True``.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        require_integers(self, num_groups=num_groups, num_channels=num_channels)
        if num_groups <= 0 or num_channels % num_groups:
            raise ValueError(
                f"[GroupNorm] num_channels: expected a multiple of num_groups = {num_groups}, got {num_channels}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        self._register_affine(num_channels, affine, affine and bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """``x / sqrt(mean(x ** 2) + eps) * weight`` over the last axes (Zhang and Sennrich, 2019).

    Args:
        normalized_shape: sizes of the axes to normalise, at the end of the input's shape.
        eps: added to the mean square. Default: None, the machine epsilon of the input's dtype.
        elementwise_affine: learn ``weight`` (from one). Default: ``True``.
    """

    weight: Tensor | None

    def __init__(
        self,
        normalized_shape: Any,
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape_of(self, normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        value = Parameter(empty(self.normalized_shape, device=device, dtype=dtype)) if elementwise_affine else None
        self.register_parameter("weight", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Scale 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Sizes and settings."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Module):
    """``x / (k + alpha / size * sum of squares over size neighbouring channels) ** beta`` (Krizhevsky et al., 2012).

    Args:
        size: number of neighbouring channels. alpha: 1e-4. beta: 0.75. k: 1.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the ``(N, C, ...)`` input."""
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Settings."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
