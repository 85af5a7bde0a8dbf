"""Dropout as modules: active in training, the identity in evaluation."""

from __future__ import annotations

from ..._C import Tensor
from .. import functional as F
from ._checks import require_numbers
from .module import Module

__all__ = ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"]


class _DropoutNd(Module):
    """What the dropout modules share.

    Args:
        p: probability of dropping an element (or channel). Default: 0.5.
        inplace: overwrite the input. Default: ``False``.

    Raises:
        ValueError: ``p`` is no probability.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        require_numbers(self, p=p)
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"[{type(self).__name__}] p: expected a probability between 0 and 1, got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_DropoutNd):
    """Zeroes elements with probability ``p`` and scales the rest by ``1 / (1 - p)`` (Srivastava et al., 2014)."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_DropoutNd):
    """Drops whole channels of ``(N, C, L)`` or ``(C, L)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_DropoutNd):
    """Drops whole channels of ``(N, C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_DropoutNd):
    """Drops whole channels of ``(N, C, D, H, W)`` or ``(C, D, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_DropoutNd):
    """Dropout that keeps the mean and variance of SELU activations (Klambauer et al., 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_DropoutNd):
    """:class:`AlphaDropout` of whole channels of ``(N, C, ...)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.feature_alpha_dropout(input, self.p, self.training, self.inplace)
