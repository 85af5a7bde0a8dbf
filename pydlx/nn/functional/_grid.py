"""Points at which an affine map samples an image (Jaderberg et al., 2015)."""

from __future__ import annotations

from collections.abc import Sequence

from ..._C import Tensor, arange, ones, stack

__all__ = ["affine_grid"]


def _coordinates(size: int, align_corners: bool, like: Tensor) -> Tensor:
    """Where the points of an axis lie on [-1, 1]: at both ends, or at the middle of equal cells."""
    points = arange(size, dtype=like.dtype, device=like.device)
    if align_corners:
        return points * (2.0 / (size - 1)) - 1.0 if size > 1 else points * 0.0
    return (points * 2.0 + 1.0) / size - 1.0


def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Sampling points of an affine map, for :func:`grid_sample`.

    Args:
        theta: ``(N, 2, 3)`` or ``(N, 3, 4)`` matrices.
        size: of the output, ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        align_corners: -1 and 1 are the centres of the corner pixels rather than their corners. Default: ``False``.

    Returns:
        ``(N, H, W, 2)`` or ``(N, D, H, W, 3)``, coordinates x first.
    """
    spatial = [int(n) for n in size[2:]]
    axes = len(spatial)
    if axes not in (2, 3) or min(size) <= 0:
        raise ValueError(f"[affine_grid] size: expected 4 or 5 positive sizes, got {tuple(size)}")
    if tuple(theta.shape) != (size[0], axes, axes + 1):
        raise ValueError(f"[affine_grid] theta: expected shape {(size[0], axes, axes + 1)}, got {tuple(theta.shape)}")
    columns = []
    for axis in reversed(range(axes)):
        shape = [-1 if i == axis else 1 for i in range(axes)]
        columns.append(_coordinates(spatial[axis], bool(align_corners), theta).reshape(shape).expand(spatial))
    base = stack([*columns, ones(spatial, dtype=theta.dtype, device=theta.device)], -1).reshape(-1, axes + 1)
    return base.matmul(theta.transpose(1, 2)).reshape(size[0], *spatial, axes)
