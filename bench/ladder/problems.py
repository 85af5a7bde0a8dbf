"""The problems that the ladders solve: inputs, the result in float64, and the call of pydlx that does the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["FAMILIES", "Problem", "aligned", "problems"]

FAMILIES = ("gemm",)
Array = np.ndarray[Any, Any]


@dataclass
class Problem:
    """One problem of a family.

    ``sizes`` and the arrays are passed to a step in this order: sizes, inputs, output. ``reference`` computes the
    output in float64 from the inputs, and ``ours(pydlx, *tensors)`` returns a function that computes it with pydlx.
    """

    title: str
    sizes: tuple[int, ...]
    flops: float
    inputs: list[Array]
    output: tuple[int, ...]
    reference: Callable[..., Array]
    ours: Callable[..., Callable[[], Any]]
    call: str  # what pydlx calls it
    table: str = "steps"
    skip: tuple[str, ...] = ()  # steps that would take minutes
    reference_value: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.reference_value = self.reference(*(x.astype(np.float64) for x in self.inputs))


def aligned(*shape: int) -> Array:
    """Uninitialised float32 that begin on a cache line, as a library's tensors do."""
    count = int(np.prod(shape))
    room = np.empty(count + 16, np.float32)
    first = -room.ctypes.data % 64 // 4
    return room[first : first + count].reshape(shape)


def _normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    x = aligned(*shape)
    x[:] = rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)
    return x


def _gemm(n: int, skip: tuple[str, ...] = ()) -> Problem:
    rng = np.random.default_rng(n)
    return Problem(
        f"matrix product {n} x {n} x {n}",
        (n, n, n),
        2.0 * n**3,
        [_normal(rng, n, n), _normal(rng, n, n)],
        (n, n),
        lambda a, b: a @ b,
        lambda T, a, b: lambda: T.mm(a, b),
        "mm",
        skip=skip,
    )


def problems(family: str, small: bool = False) -> list[Problem]:
    """The problems of a family; ``small`` ones only check the steps."""
    if family == "gemm":
        return [_gemm(64), _gemm(576)] if small else [_gemm(512), _gemm(2048, skip=("dot",))]
    raise ValueError(f"[ladder] family: expected one of {', '.join(FAMILIES)}, got {family!r}")
