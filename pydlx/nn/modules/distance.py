"""Similarities and distances as modules."""

from __future__ import annotations

from ..._C import Tensor
from .. import functional as F
from .module import Module

__all__ = ["CosineSimilarity", "PairwiseDistance"]


class CosineSimilarity(Module):
    """``x1 . x2 / (max(||x1||, eps) * max(||x2||, eps))``.

    Args:
        dim: the axis of the vectors. Default: 1.
        eps: bound on the lengths. Default: 1e-8.
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """The cosine along ``dim``, which disappears."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """``||x1 - x2 + eps||_p`` along the last axis.

    Args:
        p: the norm's degree. Default: 2.
        eps: added to the difference, so that the gradient at equal points stays finite. Default: 1e-6.
        keepdim: keep the last axis with size 1. Default: ``False``.
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        super().__init__()
        self.norm = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """``(N, D)`` twice to ``(N,)``."""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)
