"""Functions that are a few operations of the engine; gradients follow from those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from . import _C
from ._C import Tensor
from ._namespace import broadcast_shapes

__all__ = [
    "can_cast",
    "cdist",
    "corrcoef",
    "cov",
    "cross",
    "cumulative_trapezoid",
    "dist",
    "gcd",
    "index_reduce",
    "is_complex",
    "is_same_size",
    "is_signed",
    "isin",
    "lcm",
    "nanquantile",
    "nextafter",
    "renorm",
    "result_type",
    "trapezoid",
    "trapz",
    "unravel_index",
    "vander",
]

# Those that are methods of Tensor too.
METHODS = [
    "corrcoef",
    "cov",
    "cross",
    "dist",
    "gcd",
    "index_reduce",
    "is_complex",
    "is_same_size",
    "is_signed",
    "lcm",
    "nanquantile",
    "nextafter",
    "renorm",
]


# ---- dtypes and shapes


def is_complex(input: Tensor) -> bool:
    """False: there are no complex dtypes."""
    return False


def is_signed(input: Tensor) -> bool:
    """Whether the dtype has negative numbers."""
    return input.dtype.is_signed


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Whether the shapes are equal."""
    return tuple(input.shape) == tuple(other.shape)


def _category(dtype: Any) -> int:
    return 0 if dtype == _C.bool else 2 if dtype.is_floating_point else 1


def can_cast(from_: Any, to: Any) -> bool:
    """Whether the promotion rules let a value of dtype ``from_`` be stored as ``to``: bool, integer, float upwards."""
    return _category(from_) <= _category(to)


def result_type(tensor1: Any, tensor2: Any) -> Any:
    """The dtype of an operation on two tensors or numbers."""

    def stand_in(value: Any) -> Any:
        if isinstance(value, Tensor):
            return _C.empty((0,) if value.ndim else (), dtype=value.dtype, device="cpu")
        return value

    first, second = stand_in(tensor1), stand_in(tensor2)
    if not isinstance(first, Tensor) and not isinstance(second, Tensor):
        first = _C._tensor_from_data(first, None, "cpu")
    return _C.mul(first, second).dtype


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Coordinates, one tensor per axis of ``shape``, of flat indices.

    Raises:
        ValueError: an index outside ``shape``. TypeError: indices that are not integers.
    """
    sizes = [int(s) for s in ([shape] if isinstance(shape, int) else shape)]
    if _category(indices.dtype) != 1:
        raise TypeError(f"[unravel_index] indices: expected integers, got {indices.dtype}")
    total = math.prod(sizes)
    if indices.numel() and not (int(indices.min()) >= 0 and int(indices.max()) < total):
        raise ValueError(f"[unravel_index] indices: expected 0 to {total - 1} for shape {tuple(sizes)}, got {indices}")
    coordinates = []
    for size in reversed(sizes):
        coordinates.append(indices % size if size else indices)
        indices = indices // size if size else indices
    return tuple(reversed(coordinates))


# ---- distances and products


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of ``input - other``."""
    return _C.norm(input - other, p)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """p-norm distances between all rows of two sets.

    Args:
        x1: ``(..., P, M)``. x2: ``(..., R, M)``; leading axes broadcast.
        p: degree of the norm, at least 0. Default: 2.
        compute_mode: accepted; differences are always formed, which is the accurate way.

    Returns:
        Shape ``(..., P, R)``.
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise _C.ShapeError(f"[cdist] x2: expected (..., R, {x1.shape[-1:]}) for x1 {x1.shape}, got shape {x2.shape}")
    if not p >= 0:
        raise ValueError(f"[cdist] p: expected a number >= 0, got {p}")
    if p == 2 and x1.dtype == x2.dtype and _category(x1.dtype) == 2 and x1.numel() and x2.numel():
        lead = broadcast_shapes(x1.shape[:-2], x2.shape[:-2])
        a, b = (x.expand(*lead, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (x1, x2))
        return _C._euclidean_distances(a, b).reshape(*lead, x1.shape[-2], x2.shape[-2])
    difference = x1.unsqueeze(-2) - x2.unsqueeze(-3)
    return _C.norm(difference, p, -1) if x1.shape[-1] else difference.sum(-1)


def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The cross product of vectors along ``dim``, which has size 3. Default: the first such axis."""
    shape = _C.broadcast_tensors(input, other)[0].shape
    if dim is None:
        dim = next((i for i, size in enumerate(shape) if size == 3), None)
        if dim is None:
            raise _C.ShapeError(f"[cross] dim: expected an axis of size 3, got shape {tuple(shape)}")
    if not -len(shape) <= dim < len(shape):
        raise IndexError(f"[cross] dim: expected within {len(shape)} axes, got {dim}")
    if shape[dim] != 3:
        raise _C.ShapeError(f"[cross] dim: expected an axis of size 3, got {shape[dim]} at axis {dim}")
    dtype = result_type(input, other)
    return _C._cross(input.expand(*shape).to(dtype), other.expand(*shape).to(dtype), dim)


def renorm(input: Tensor, p: float, dim: int, maxnorm: float) -> Tensor:
    """Shrinks every slice along ``dim`` whose p-norm exceeds ``maxnorm`` to that norm."""
    axes = [i for i in range(input.ndim) if i != dim % input.ndim]
    norm = _C.norm(input, p, axes, True)
    return input * _C.where(norm > maxnorm, maxnorm / (norm + 1e-7), _C.ones_like(norm))


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The matrix of the powers 0 to ``N - 1`` of a vector's elements, the highest first unless ``increasing``."""
    if x.ndim != 1:
        raise _C.ShapeError(f"[vander] x: expected 1 axis, got shape {tuple(x.shape)}")
    count = x.shape[0] if N is None else N
    if count < 0:
        raise ValueError(f"[vander] N: expected a number >= 0, got {N}")
    powers = x.unsqueeze(1) ** _C.arange(count, dtype=x.dtype if _category(x.dtype) == 2 else None, device=x.device)
    return powers if increasing else powers.flip(1)


# ---- statistics and integrals


def cov(
    input: Tensor, *, correction: int = 1, fweights: Tensor | None = None, aweights: Tensor | None = None
) -> Tensor:
    """Covariance of variables (rows) over observations (columns).

    Args:
        correction: subtracted from the number of observations. Default: 1.
        fweights: how often each observation occurred. aweights: its importance.
    """
    if input.ndim > 2:
        raise _C.ShapeError(f"[cov] input: expected at most 2 axes, got shape {tuple(input.shape)}")
    x = input.reshape(1, -1) if input.ndim < 2 else input
    for name, weights in (("fweights", fweights), ("aweights", aweights)):
        if weights is not None and tuple(weights.shape) != (x.shape[1],):
            raise _C.ShapeError(f"[cov] {name}: expected shape {(x.shape[1],)}, got {tuple(weights.shape)}")
    if _category(x.dtype) != 2:
        x = x.to(_C.get_default_dtype())
    weight = fweights if aweights is None else aweights if fweights is None else fweights * aweights
    degrees: Any
    if weight is None:
        weighted = centred = x - x.mean(1, keepdim=True)
        degrees = x.shape[1] - correction
    else:
        total = weight.sum()
        centred = x - (x * weight).sum(1, keepdim=True) / total
        weighted = centred * weight
        degrees = total - correction * (1 if aweights is None else (weight * aweights).sum() / total)
    result: Tensor = weighted @ centred.T / degrees
    return result.squeeze() if input.ndim < 2 else result


def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation of variables (rows), within [-1, 1]."""
    covariance = cov(input)
    if covariance.ndim == 0:
        return covariance / covariance
    deviation = covariance.diagonal().sqrt()
    return (covariance / deviation.unsqueeze(1) / deviation).clamp(-1, 1)


def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """``quantile`` of the elements that are not NaN; a row of NaN gives NaN.

    Args:
        q: number or 1-d tensor in [0, 1]; a tensor adds a leading axis to the result.
        interpolation: ``"linear" "lower" "higher" "midpoint"`` or ``"nearest"``. Default: ``"linear"``.
    """
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        told = "'linear', 'lower', 'higher', 'midpoint' or 'nearest'"
        raise ValueError(f"[nanquantile] interpolation: expected {told}, got {interpolation!r}")
    quantiles = q if isinstance(q, Tensor) else _C.full((), float(q), dtype=input.dtype, device=input.device)
    if quantiles.ndim > 1 or not bool(((quantiles >= 0) & (quantiles <= 1)).all()):
        raise ValueError(f"[nanquantile] q: expected numbers in [0, 1], at most one axis of them, got {q}")
    axis = 0 if dim is None else dim % max(input.ndim, 1)
    rows = (input.reshape(-1) if dim is None else input.movedim(axis, -1)).sort(-1)[0]  # NaN sorts last
    last = (~rows.isnan()).sum(-1, keepdim=True) - 1
    results = []
    for one in quantiles.reshape(-1).unbind():
        place = last.clamp_min(0).to(rows.dtype) * one
        low, high = place.floor(), place.ceil()
        if interpolation == "nearest":
            low = high = place.round()
        share = {"lower": 0.0, "higher": 1.0, "midpoint": 0.5}.get(interpolation)
        below, above = (rows.gather(-1, at.long()) for at in (low, high))
        results.append(_C.lerp(below, above, place - low if share is None else _C.full_like(place, share)))
    parts = [r.masked_fill(last < 0, math.nan) for r in results]
    if dim is None:
        parts = [p.reshape([1] * input.ndim if keepdim else []) for p in parts]
    else:
        parts = [p.movedim(-1, axis) if keepdim else p.squeeze(-1) for p in parts]
    return _C.stack(parts) if quantiles.ndim else parts[0]


def _steps(op: str, y: Tensor, x: Tensor | None, dx: float | None, dim: int) -> Any:
    if x is not None and dx is not None:
        raise ValueError(f"[{op}] dx: expected one of x and dx, got both")
    if x is None:
        return 1.0 if dx is None else dx
    if x.ndim == 1 and y.ndim > 1:
        shape = [1] * y.ndim
        shape[dim] = -1
        x = x.reshape(shape)
    return x.diff(dim=dim)


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """The integral by the trapezoidal rule along ``dim``.

    Args:
        y: values. x: where they were taken; or ``dx``: their distance. Default: 1.
    """
    if x is None and y.shape[dim] > 0:  # equal steps: every value counts once, those at the ends half
        ends = y.select(dim, 0) + y.select(dim, -1)
        area: Tensor = (y.sum(dim) - ends / 2) * (1 if dx is None else dx)
        return area
    return _trapezoids("trapezoid", y, x, dx, dim).sum(dim)


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """Running sums of :func:`trapezoid`, one shorter than ``y``."""
    return _trapezoids("cumulative_trapezoid", y, x, dx, dim).cumsum(dim)


def _trapezoids(op: str, y: Tensor, x: Tensor | None, dx: float | None, dim: int) -> Tensor:
    count = max(y.shape[dim] - 1, 0)
    both = y.narrow(dim, 0, count) + y.narrow(dim, min(1, y.shape[dim]), count)
    areas: Tensor = both * _steps(op, y, x, dx, dim) / 2
    return areas


trapz = trapezoid


# ---- sets, integers, single bits


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element occurs among ``test_elements``, by binary search; either may be a number."""
    device = next((t.device for t in (elements, test_elements) if isinstance(t, Tensor)), None)
    values, tests = (
        t if isinstance(t, Tensor) else _C._tensor_from_data(t, None, device) for t in (elements, test_elements)
    )
    common = result_type(values, tests)
    if tests.numel() == 0:
        return _C.full(values.shape, invert, dtype=_C.bool, device=values.device)
    ordered = tests.reshape(-1).to(common).sort()[0]
    values = values.to(common)
    place = _C.searchsorted(ordered, values.contiguous()).clamp_max(ordered.shape[0] - 1)
    found = ordered[place] == values
    return ~found if invert else found


def _integers(op: str, input: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    common = result_type(input, other)
    if _category(common) != 1:
        raise TypeError(f"[{op}] input: expected integers, got {input.dtype} and {other.dtype}")
    a, b = _C.broadcast_tensors(input.to(common), other.to(common))
    return a.abs(), b.abs()


def gcd(input: Tensor, other: Tensor) -> Tensor:
    """Greatest common divisor, not negative, by Euclid's algorithm; ``gcd(0, 0) = 0``."""
    a, b = _integers("gcd", input, other)
    one = _C.ones((), dtype=a.dtype, device=a.device)
    while not bool((done := b == 0).all()):
        a, b = _C.where(done, a, b), a % _C.where(done, one, b)  # what is done keeps a remainder of 0
    return a.abs()  # where the smallest integer was an operand, remainders are negative


def lcm(input: Tensor, other: Tensor) -> Tensor:
    """Least common multiple, not negative; zero if either is zero."""
    a, b = _integers("lcm", input, other)
    common = gcd(a, b)
    return a // _C.where(common == 0, _C.ones_like(common), common) * b


def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next representable number after ``input`` towards ``other``. float32 and float64."""
    bits = {"float32": _C.int32, "float64": _C.int64}.get(str(input.dtype).rpartition(".")[2])
    if bits is None or input.dtype != other.dtype:
        raise TypeError(f"[nextafter] other: expected float32 or float64 twice, got {input.dtype} and {other.dtype}")
    x, y = (t.detach().contiguous() for t in _C.broadcast_tensors(input, other))
    away = (x > 0) == (y > x)  # from zero; then the bit pattern grows
    pattern = x.view(bits)
    moved = _C.where(away, pattern + 1, pattern - 1).view(x.dtype)
    smallest = _C.ones_like(pattern).view(x.dtype)
    moved = _C.where(x == 0, _C.where(y > 0, smallest, -smallest), moved)
    return _C.where(x.isnan() | y.isnan(), x + y, _C.where(x == y, y, moved))


def index_reduce(
    input: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """``input`` with slice ``index[i]`` along ``dim`` reduced with slice i of ``source``.

    Args:
        index: 1-d integers. source: shape of ``input`` but for ``dim``, which has the length of ``index``.
        reduce: ``"prod" "mean" "amax"`` or ``"amin"``.
        include_self: the old values take part. Default: ``True``.
    """
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise ValueError(f"[index_reduce] reduce: expected 'prod', 'mean', 'amax' or 'amin', got {reduce!r}")
    if index.ndim > 1 or source.shape[dim] != index.numel():
        raise _C.ShapeError(
            f"[index_reduce] index: expected {source.shape[dim]} indices in one axis, got shape {tuple(index.shape)}"
        )
    shape: Sequence[int] = [1] * source.ndim
    shape = [*shape[: dim % source.ndim], -1, *shape[dim % source.ndim + 1 :]]
    spread = index.reshape(shape).expand(*source.shape)
    return input.scatter_reduce(dim, spread, source, reduce, include_self=include_self)
