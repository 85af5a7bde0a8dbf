"""The one table of op cases.

A case names an operation, how to call it, and how to make its inputs. Because pydlx carries PyTorch's names, the call is written once as a
function of the namespace: it runs with ``pydlx`` under test and with ``torch`` in float64 as the oracle. The rows live in
``op_cases/<family>.py``, each a module with a list ``CASES`` and optionally a list ``ERRORS``; this module collects them. The tests that
walk the table are in ``test_ops.py``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray
Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One operation on one kind of input.

    name      unique, ``op`` or ``op/variant``
    fn        ``fn(T, *tensors)`` with T = pydlx or torch; returns a tensor or a tuple of tensors
    inputs    ``inputs(rng)`` makes a list of NumPy arrays; float64 arrays are cast to the dtype under test, others stay as they are
    dtypes    floating dtypes to test the values in
    grad      whether the op is differentiable (with respect to every float input unless ``grad_inputs`` says which)
    second    whether second derivatives are checked too
    tolerance multiplies the allowed error (documented reason expected beside any value above 1)
    exact     results must be equal, not close (integer and bool ops, copies)
    """

    name: str
    fn: Callable[..., Any]
    inputs: Callable[[Rng], list[Array]]
    dtypes: Sequence[str] = ("float32", "float64")
    grad: bool = True
    grad_inputs: Sequence[int] | None = None
    second: bool = True
    tolerance: float = 1.0
    exact: bool = False
    layouts: bool = True
    tags: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class ErrorCase:
    """A misuse and the error it must raise. ``match`` is a regular expression that the message must contain."""

    name: str
    fn: Callable[[Any], Any]
    error: type[BaseException]
    match: str


def normal(*shape: int) -> Callable[[Rng], Array]:
    """Standard normal float64 array."""
    return lambda rng: rng.standard_normal(shape)


def uniform(low: float, high: float, *shape: int) -> Callable[[Rng], Array]:
    return lambda rng: rng.uniform(low, high, shape)


def away_from(points: Sequence[float], gap: float, *shape: int) -> Callable[[Rng], Array]:
    """Normal values that keep their distance from points where a function has a kink or a jump."""

    def make(rng: Rng) -> Array:
        x = rng.standard_normal(shape) * 2
        for p in points:
            near = np.abs(x - p) < gap
            x = np.where(near, p + np.where(x >= p, gap, -gap) * 1.5, x)
        return x

    return make


def integers(low: int, high: int, *shape: int, dtype: str = "int64") -> Callable[[Rng], Array]:
    return lambda rng: rng.integers(low, high, shape).astype(dtype)


def booleans(*shape: int) -> Callable[[Rng], Array]:
    return lambda rng: rng.integers(0, 2, shape).astype(bool)


def distinct(*shape: int) -> Callable[[Rng], Array]:
    """Floats without ties, well separated: for max, sort, median."""

    def make(rng: Rng) -> Array:
        n = int(np.prod(shape))
        return (rng.permutation(n).astype(np.float64) - n / 2).reshape(shape) * 0.37

    return make


def args(*makers: Callable[[Rng], Array]) -> Callable[[Rng], list[Array]]:
    return lambda rng: [m(rng) for m in makers]


def _collect(attribute: str) -> list[Any]:
    package = importlib.import_module("op_cases")
    rows: list[Any] = []
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda i: i.name):
        rows += getattr(importlib.import_module(f"op_cases.{info.name}"), attribute, [])
    names = [r.name for r in rows]
    duplicates = {n for n in names if names.count(n) > 1}
    assert not duplicates, f"duplicate case names: {sorted(duplicates)}"
    return rows


def all_cases() -> list[Case]:
    return _collect("CASES")


def all_errors() -> list[ErrorCase]:
    return _collect("ERRORS")
