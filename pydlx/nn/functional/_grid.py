"""Sampling an image at given points."""

from __future__ import annotations

from collections.abc import Sequence

from ..._C import Tensor, arange, ones, stack, where, zeros_like
from ..._C import grid_sample as _grid_sample

__all__ = ["affine_grid", "grid_sample"]


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


def _reflected(place: Tensor, low: float, high: float) -> Tensor:
    """Folds coordinates back and forth between two mirrors."""
    span = high - low
    if span <= 0:
        return place * 0.0
    distance = (place - low).abs()
    turns = (distance / span).floor()
    rest = distance - turns * span
    return where(turns.remainder(2.0) == 0, rest + low, high - rest)


def _padded(place: Tensor, size: int, padding_mode: str, align_corners: bool) -> Tensor:
    if padding_mode == "reflection":
        edge = 0.0 if align_corners else -0.5
        place = _reflected(place, edge, size - 1 - edge)
    return place if padding_mode == "zeros" else place.clamp(0.0, size - 1.0)


def grid_sample(
    input: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Tensor:
    """Values of ``input`` at the points of ``grid`` (Jaderberg et al., 2015).

    Args:
        input: ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        grid: ``(N, H', W', 2)`` or ``(N, D', H', W', 3)``; x first, -1 to 1 spans the image.
        mode: ``"bilinear"`` (trilinear for 5 axes), ``"nearest"`` or ``"bicubic"`` (4 axes). Default: ``"bilinear"``.
        padding_mode: outside the image ``"zeros"``, ``"border"`` values or its ``"reflection"``. Default: ``"zeros"``.
        align_corners: -1 and 1 are the centres of the corner pixels rather than their corners. Default: ``False``.

    Returns:
        ``(N, C, H', W')`` or ``(N, C, D', H', W')``.
    """
    if mode != "bicubic":
        return _grid_sample(input, grid, mode, padding_mode, align_corners)
    if input.ndim != 4 or grid.ndim != 4 or grid.shape[0] != input.shape[0] or grid.shape[3] != 2 or not input.numel():
        raise ValueError(
            "[grid_sample] grid: expected (N, H, W, 2) for a non-empty (N, C, H, W), got shapes "
            f"{tuple(grid.shape)} and {tuple(input.shape)}"
        )
    if padding_mode not in ("zeros", "border", "reflection"):
        told = "'zeros', 'border' or 'reflection'"
        raise ValueError(f"[grid_sample] padding_mode: expected {told}, got {padding_mode!r}")
    corners = bool(align_corners)
    batch, channels, height, width = (int(n) for n in input.shape)
    flat = input.reshape(batch, channels, -1)
    total = None
    columns = _cubic_taps(grid[..., 0].reshape(batch, 1, -1), width, padding_mode, corners)
    for row, row_inside, row_weight in _cubic_taps(grid[..., 1].reshape(batch, 1, -1), height, padding_mode, corners):
        for column, column_inside, column_weight in columns:
            picked = flat.gather(2, (row * width + column).expand(-1, channels, -1))
            weight = row_weight * column_weight * (row_inside & column_inside).to(picked.dtype)
            total = picked * weight if total is None else total + picked * weight
    return total.reshape(batch, channels, *grid.shape[1:3])  # type: ignore[union-attr]


def _cubic_taps(coordinate: Tensor, size: int, padding_mode: str, corners: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Index, whether it lies inside, and weight of the four neighbours of each point along one axis.

    The weights are those of cubic convolution with the free coefficient -3/4. Each neighbour, not the point between
    them, is brought back into the image.
    """
    place = (coordinate + 1) * ((size - 1) / 2) if corners else ((coordinate + 1) * size - 1) / 2
    first = place.detach().floor()
    t = place - first
    a = -0.75

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    taps = []
    for offset, weight in ((-1, far(t + 1)), (0, near(t)), (1, near(1 - t)), (2, far(2 - t))):
        index = _padded(first + offset, size, padding_mode, corners)
        inside = (index >= 0) & (index <= size - 1)
        taps.append((where(inside, index, zeros_like(index)).long(), inside, weight))
    return taps
