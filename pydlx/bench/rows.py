"""What a benchmark row is, and the registry of families."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .inputs import Inputs

__all__ = ["Row", "Setup", "Step", "families", "find", "forward", "rows_of", "select", "training"]

Step = Callable[[], Any]
Setup = Callable[[Any, Inputs], Step]
MakeInputs = Callable[[Inputs], Sequence[Any]]


@dataclass(frozen=True)
class Row:
    """One thing to time.

    name    unique within its family
    setup   ``setup(T, x)`` with T = torch, pydlx or a peer with the same names, and x the source of inputs; returns the
            function to time, without arguments, whose result (tensor or tuple of tensors) is compared with float64
    flops   arithmetic of one call that the mathematics asks for, whatever algorithm is used
    reads, writes   bytes that one call must at least move; they decide the bandwidth limit
    resident   bytes touched by one call, which decide the level of memory it lives in (default: reads + writes)
    unit    "s": the call is timed; anything else: the call returns the number itself, smaller is better
    check   whether the results can be compared with float64 (not for random or order-dependent results)
    fresh   measure in a process of its own (peak memory)
    rated   whether the ratio to the peer counts (not for numbers that are near zero)
    """

    name: str
    setup: Setup
    flops: float = 0.0
    reads: float = 0.0
    writes: float = 0.0
    resident: float | None = None
    unit: str = "s"
    check: bool = True
    fresh: bool = False
    rated: bool = True
    family: str = ""

    @property
    def key(self) -> str:
        """``family/name``, what ``--rows`` and stored results refer to."""
        return f"{self.family}/{self.name}"

    @property
    def footprint(self) -> float:
        return self.reads + self.writes if self.resident is None else self.resident


def forward(fn: Callable[..., Any], inputs: MakeInputs) -> Setup:
    """Set-up of a row that calls ``fn(T, *inputs)`` without recording a graph."""

    def setup(T: Any, x: Inputs) -> Step:
        tensors = inputs(x)
        return partial(fn, T, *tensors)

    return setup


def training(fn: Callable[..., Any], inputs: MakeInputs, leaves: Sequence[int] | None = None) -> Setup:
    """Set-up of a row that runs ``fn(T, *inputs)`` and its backward pass from a random cotangent.

    Args:
        leaves: which inputs get a gradient (default: all). They start each call without one, as after
            ``optimizer.zero_grad()``.
    """

    def setup(T: Any, x: Inputs) -> Step:
        tensors = inputs(x)
        wanted = [tensors[i] for i in (range(len(tensors)) if leaves is None else leaves)]
        with T.no_grad():
            y = fn(T, *tensors)
        shape, cotangent = tuple(y.shape), None
        if shape:  # in the result's dtype, as in a network
            cotangent = x.normal(*shape).to(y.dtype)
        for tensor in wanted:
            tensor.requires_grad_()

        def step() -> Any:
            for tensor in wanted:
                tensor.grad = None
            y = fn(T, *tensors)
            y.backward(cotangent)
            return (y.detach(), *(tensor.grad for tensor in wanted))

        return step

    return setup


def families() -> list[str]:
    """Names of the families, in the order in which they run; those of ``suites.ON_REQUEST`` come last."""
    from . import suites

    found = {module.name for module in pkgutil.iter_modules(suites.__path__)}
    others = sorted(found - set(suites.ORDER) - set(suites.ON_REQUEST))
    return [*(name for name in suites.ORDER if name in found), *others, *suites.ON_REQUEST]


def rows_of(family: str) -> list[Row]:
    """The rows of one family.

    Raises:
        ValueError: there is no such family.
    """
    if family not in families():
        raise ValueError(f"[bench] family: expected one of {', '.join(families())}, got {family!r}")
    rows = importlib.import_module(f".suites.{family}", __package__).rows()
    return [replace(row, family=family) for row in rows]


def find(key: str) -> Row:
    """The row called ``family/name``."""
    family, _, name = key.partition("/")
    for row in rows_of(family):
        if row.name == name:
            return row
    raise ValueError(f"[bench] row: no row {key!r}")


def select(family: str | None = None, glob: str | None = None) -> list[Row]:
    """Rows of a family (default: all but those that run on request) whose key or name matches a shell pattern.

    Raises:
        ValueError: unknown family, or nothing matches.
    """
    from .suites import ON_REQUEST

    names = [family] if family else [name for name in families() if name not in ON_REQUEST]
    rows = [row for name in names for row in rows_of(name)]
    if glob is not None:
        matches = [row for row in rows if fnmatch.fnmatch(row.key, glob) or fnmatch.fnmatch(row.name, glob)]
        if not matches:
            raise ValueError(f"[bench] --rows: no row matches {glob!r}; `pydlx bench --list` shows all rows")
        return matches
    return rows
