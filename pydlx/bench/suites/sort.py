"""Sorting and selection."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..rows import Row, forward


def _row(name: str, shape: tuple[int, ...], fn: Callable[[Any, Any], Any], integer: bool = False) -> Row:
    """Values only are compared: with equal keys libraries may return different indices."""

    def make(x: Any) -> list[Any]:
        return [x.integers(1000, *shape) if integer else x.normal(*shape)]

    size = (8.0 if integer else 4.0) * math.prod(shape)
    return Row(f"{name} {'x'.join(map(str, shape))}", forward(fn, make), 0.0, size, size)


def rows() -> list[Row]:
    return [
        _row("sort", (1000000,), lambda T, x: x.sort()[0]),
        _row("sort", (1000,), lambda T, x: x.sort()[0]),
        _row("sort rows", (1024, 1024), lambda T, x: x.sort(-1)[0]),
        _row("sort rows", (10000, 50), lambda T, x: x.sort(-1)[0]),
        _row("sort dim 0", (1024, 256), lambda T, x: x.sort(0)[0]),
        _row("stable sort", (100000,), lambda T, x: T.sort(x, stable=True)[0]),
        _row("sort int64", (1000000,), lambda T, x: x.sort()[0], integer=True),
        _row("argsort", (100000,), lambda T, x: x[T.argsort(x)]),
        _row("topk 5", (256, 1000), lambda T, x: x.topk(5)[0]),
        _row("topk 50", (64, 50257), lambda T, x: x.topk(50)[0]),
        _row("topk 1000", (1000000,), lambda T, x: x.topk(1000)[0]),
        _row("kthvalue", (1000, 1000), lambda T, x: x.kthvalue(500)[0]),
        _row("median", (1000000,), lambda T, x: x.median()),
        _row("unique", (1000000,), lambda T, x: T.unique(x), integer=True),
        _row("bincount", (1000000,), lambda T, x: T.bincount(x), integer=True),
        _row("searchsorted", (100000,), lambda T, x: T.searchsorted(T.linspace(-3, 3, 1000, dtype=x.dtype), x)),
    ]
