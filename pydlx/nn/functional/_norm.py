"""Normalisation across channels and of vectors."""

from __future__ import annotations

from ..._C import Tensor, pad
from ._distance import _vector_norm

__all__ = ["local_response_norm", "normalize"]


def local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """``x / (k + alpha / size * sum of squares over size neighbouring channels) ** beta`` (Krizhevsky et al., 2012).

    Args:
        input: shape ``(N, C, ...)`` with at least 3 axes.
        size: number of neighbouring channels.
    """
    if input.ndim < 3:
        raise ValueError(f"[local_response_norm] input: expected at least 3 axes, got {input.ndim}")
    if input.numel() == 0:
        return input
    n, c = input.shape[:2]
    squares = pad((input * input).reshape(n, c, -1), [0, 0, size // 2, (size - 1) // 2])
    energy = squares.unfold(1, size, 1).mean(-1).reshape(input.shape)
    return input / (energy * alpha + k) ** beta


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    """``x / max(||x||_p, eps)`` along ``dim``."""
    result = input / _vector_norm(input, p, dim, keepdim=True).clamp_min(eps)
    return result if out is None else out.copy_(result)
