"""Integers and bools: masks, counts, indices, labels and bytes of images, in the widths that they have.

Runs only when it is named, as ``breadth`` does: ``pydlx bench integers --rows "*uint8*"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..inputs import Inputs
from ..rows import Row, forward

_SHAPE = (256, 1024)
_WIDE = ("int64", "int32", "uint8")
_LOGIC = ("int64", "uint8", "bool")

Op = Callable[[Any, Any, Any], Any]

# (name, function of the library and two tensors of the dtype, dtypes)
_POINTWISE: list[tuple[str, Op, tuple[str, ...]]] = [
    ("a + b", lambda T, a, b: a + b, _WIDE),
    ("a * 3", lambda T, a, b: a * 3, _WIDE),
    ("a // 7", lambda T, a, b: a // 7, _WIDE),
    ("a % b", lambda T, a, b: a % b, _WIDE),
    ("a / b", lambda T, a, b: a / b, _WIDE),
    ("a ** 2", lambda T, a, b: a**2, _WIDE),
    ("-a", lambda T, a, b: -a, ("int64", "int32", "int8")),
    ("abs", lambda T, a, b: a.abs(), ("int64", "int32", "int8")),
    ("sign", lambda T, a, b: T.sign(a), _WIDE),
    ("clamp", lambda T, a, b: a.clamp(2, 50), ("int64", "int32", "int16", "uint8")),
    ("maximum", lambda T, a, b: T.maximum(a, b), (*_WIDE, "bool")),
    ("a == b", lambda T, a, b: a == b, (*_WIDE, "bool")),
    ("a < b", lambda T, a, b: a < b, _WIDE),
    ("a > 3", lambda T, a, b: a > 3, _WIDE),
    ("(a == b).sum()", lambda T, a, b: (a == b).sum(), (*_WIDE, "bool")),
    ("a & b", lambda T, a, b: a & b, (*_WIDE, "bool")),
    ("~a", lambda T, a, b: ~a, _LOGIC),
    ("a << 2", lambda T, a, b: a << 2, _WIDE),
    ("logical_and", lambda T, a, b: T.logical_and(a, b), _LOGIC),
    ("logical_not", lambda T, a, b: T.logical_not(a), _LOGIC),
    ("where", lambda T, a, b: T.where(a > b, a, b), (*_WIDE, "bool")),
    ("masked_fill", lambda T, a, b: a.masked_fill(a > b, 1), _LOGIC),
    ("to float32", lambda T, a, b: a.float(), ("int64", "int32", "int16", "uint8", "bool")),
    ("to bfloat16", lambda T, a, b: a.bfloat16(), _LOGIC),
    ("to int64", lambda T, a, b: a.long(), ("int32", "uint8", "bool")),
    ("to uint8", lambda T, a, b: a.to(T.uint8), ("int64", "bool")),
    ("to bool", lambda T, a, b: a.bool(), ("int64", "uint8")),
    ("a / 255 of bytes", lambda T, a, b: a.float() / 255, ("uint8",)),
]
_MOVING: list[tuple[str, Op, tuple[str, ...]]] = [
    ("transposed copy", lambda T, a, b: a.t().contiguous(), _LOGIC),
    ("cat", lambda T, a, b: T.cat([a, b], 1), _LOGIC),
    ("stack", lambda T, a, b: T.stack([a, b], 1), _LOGIC),
    ("flip", lambda T, a, b: a.flip(1), _LOGIC),
    ("roll", lambda T, a, b: a.roll(3, 1), _LOGIC),
    ("tril", lambda T, a, b: T.tril(a), _LOGIC),
    ("nonzero", lambda T, a, b: T.nonzero(a), _LOGIC),
    ("masked_select", lambda T, a, b: a[a > b], _WIDE),
    ("equal", lambda T, a, b: T.equal(a, a.clone()), _LOGIC),
    ("bincount", lambda T, a, b: T.bincount(a.reshape(-1)), ("int64",)),
    ("one_hot", lambda T, a, b: T.nn.functional.one_hot(a[:, :32], 100), ("int64",)),
    ("bucketize", lambda T, a, b: T.bucketize(a, T.arange(0, 100, 7)), ("int64",)),
    ("unique", lambda T, a, b: T.unique(a), _WIDE),
    ("product of matrices", lambda T, a, b: a[:, :256] @ b[:, :128], ("int64", "int32")),
]


def _along(name: str, dtypes: tuple[str, ...]) -> list[tuple[str, Op, tuple[str, ...]]]:
    """A method over everything, columns and rows."""
    return [
        (name, lambda T, a, b: getattr(a, name)(), dtypes),
        (f"{name} of columns", lambda T, a, b: getattr(a, name)(dim=0), dtypes),
        (f"{name} of rows", lambda T, a, b: getattr(a, name)(dim=1), dtypes),
    ]


def _row(name: str, fn: Op, dtype: str) -> Row:
    def make(x: Inputs) -> list[Any]:
        if dtype == "bool":
            return [x.mask(*_SHAPE), x.mask(*_SHAPE)]
        return [(x.integers(99, *_SHAPE) + 1).to(getattr(x.T, dtype)) for _ in range(2)]

    return Row(f"{name} {dtype}", forward(fn, make))


def rows() -> Iterable[Row]:
    table = [
        *_POINTWISE,
        *_along("sum", (*_WIDE, "bool")),
        *_along("prod", _WIDE),
        *_along("amax", ("int64", "int32", "int16", "uint8")),
        *_along("argmax", _WIDE),
        *_along("any", _LOGIC),
        *[op for op in _along("cumsum", (*_WIDE, "bool")) if " of " in op[0]],
        *[op for op in _along("sort", _WIDE) if " of " in op[0]],
        *_MOVING,
    ]
    return [_row(name, fn, dtype) for name, fn, dtypes in table for dtype in dtypes]
