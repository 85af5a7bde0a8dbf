"""Similarities and distances between vectors."""

from __future__ import annotations

from ..._C import Tensor, triu_indices

__all__ = ["cosine_similarity", "pairwise_distance", "pdist"]


def _vector_norm(x: Tensor, p: float, dim: int, keepdim: bool = False) -> Tensor:
    """The p-norm along an axis; degrees without a kernel are composed."""
    if p in (0, 1, 2, float("inf"), float("-inf")):
        return x.norm(p, dim, keepdim=keepdim)
    return x.abs().pow(p).sum(dim, keepdim=keepdim).pow(1.0 / p)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``x1 . x2 / (max(||x1||, eps) * max(||x2||, eps))`` along ``dim``; the shapes broadcast."""
    first = x1 / x1.norm(2, dim, keepdim=True).clamp_min(eps)
    second = x2 / x2.norm(2, dim, keepdim=True).clamp_min(eps)
    return (first * second).sum(dim)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """``||x1 - x2 + eps||_p`` along the last axis; the shapes broadcast."""
    return _vector_norm(x1 - x2 + eps, p, -1, keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances between all pairs of rows of an ``(N, M)`` input, as a vector of ``N * (N - 1) / 2``."""
    if input.ndim != 2:
        raise ValueError(f"[pdist] input: expected 2 axes, got {input.ndim}")
    i, j = triu_indices(input.shape[0], input.shape[0], 1, device=input.device)
    return _vector_norm(input[i] - input[j], p, -1)
