"""Elementwise functions: in the second-level cache, in memory, broadcast, strided, and through backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..inputs import Inputs
from ..rows import Row, forward, training

_SMALL, _LARGE = (512, 512), (4096, 4096)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _unary(name: str, shape: tuple[int, ...], low: float = -4.0, high: float = 4.0, train: bool = False) -> Row:
    def apply(T: Any, x: Any) -> Any:
        return getattr(T if hasattr(T, name) else T.nn.functional, name)(x)

    def inputs(x: Inputs) -> list[Any]:
        return [x.uniform(*shape, low=low, high=high)]

    size = 4.0 * math.prod(shape)
    title = f"{name} {_text(shape)}" + (" fwd+bwd" if train else "")
    return Row(
        title,
        (training if train else forward)(apply, inputs),
        0.0,
        (3 if train else 1) * size,
        (2 if train else 1) * size,
    )


def _several(name: str, fn: Callable[..., Any], *shapes: tuple[int, ...], out: tuple[int, ...] | None = None) -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.uniform(*shape, low=0.5, high=2.0) for shape in shapes]

    written = math.prod(out or shapes[0])
    return Row(name, forward(fn, inputs), 0.0, 4.0 * sum(map(math.prod, shapes)), 4.0 * written)


def _strided(shape: tuple[int, int]) -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(*shape).t(), x.normal(shape[1], shape[0])]

    size = 4.0 * math.prod(shape)
    return Row(f"add transposed {_text(shape)}", forward(lambda T, a, b: a + b, inputs), 0.0, 2 * size, size)


def _in_place(shape: tuple[int, ...]) -> Row:
    def apply(T: Any, x: Any, y: Any) -> Any:
        return x.add_(y, alpha=0.0)  # the values stay, whatever the number of calls

    size = 4.0 * math.prod(shape)
    return Row(
        f"add_ {_text(shape)}", forward(apply, lambda x: [x.normal(*shape), x.normal(*shape)]), 0.0, 2 * size, size
    )


def _dropout(shape: tuple[int, ...]) -> Row:
    def apply(T: Any, x: Any) -> Any:
        return T.nn.functional.dropout(x, 0.1)

    size = 4.0 * math.prod(shape)
    return Row(f"dropout {_text(shape)}", forward(apply, lambda x: [x.normal(*shape)]), 0.0, size, size, check=False)


def _random(shape: tuple[int, ...], name: str) -> Row:
    return Row(
        f"{name} {_text(shape)}",
        lambda T, x: lambda: getattr(T, name)(*shape),
        0.0,
        0.0,
        4.0 * math.prod(shape),
        check=False,
    )


def _cast(shape: tuple[int, ...], source: str, target: str) -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(*shape, dtype=source)]

    width = {"float32": 4, "bfloat16": 2, "float16": 2}
    count = float(math.prod(shape))
    return Row(
        f"cast {source}->{target} {_text(shape)}",
        forward(lambda T, x: x.to(getattr(T, target)), inputs),
        0.0,
        width[source] * count,
        width[target] * count,
        check=target == "float32",  # the reference in float64 would be rounded where the row rounds
    )


def rows() -> list[Row]:
    functions = ("exp", "tanh", "sigmoid", "erf", "gelu", "silu", "relu", "sin", "softplus")
    return [
        *(_unary(name, _SMALL) for name in functions),
        *(_unary(name, _SMALL, 0.1, 8.0) for name in ("log", "sqrt", "reciprocal")),
        *(_unary(name, _LARGE) for name in ("exp", "tanh", "gelu", "relu", "abs")),
        *(_unary(name, (2048, 3072), train=True) for name in ("gelu", "silu", "relu", "tanh")),
        _several(f"add {_text(_SMALL)}", lambda T, a, b: a + b, _SMALL, _SMALL),
        _several(f"mul {_text(_SMALL)}", lambda T, a, b: a * b, _SMALL, _SMALL),
        _several(f"div {_text(_SMALL)}", lambda T, a, b: a / b, _SMALL, _SMALL),
        _several(f"pow {_text(_SMALL)}", lambda T, a, b: a**b, _SMALL, _SMALL),
        _several(f"add {_text(_LARGE)}", lambda T, a, b: a + b, _LARGE, _LARGE),
        _several(f"mul {_text(_LARGE)} by number", lambda T, a: a * 1.5, _LARGE),
        _several("add row 4096x1024", lambda T, a, b: a + b, (4096, 1024), (1024,)),
        _several("add column 4096x1024", lambda T, a, b: a + b, (4096, 1024), (4096, 1)),
        _several("outer 2048 + 2048", lambda T, a, b: a + b, (2048, 1), (1, 2048), out=(2048, 2048)),
        _several("addcmul 1024x1024", lambda T, a, b, c: T.addcmul(a, b, c), *[(1024, 1024)] * 3),
        _several("where 1024x1024", lambda T, a, b: T.where(a > b, a, b), (1024, 1024), (1024, 1024)),
        _several("clamp 1024x1024", lambda T, a: T.clamp(a, 0.7, 1.3), (1024, 1024)),
        _several("fmod 512x512", lambda T, a, b: T.fmod(a, b), _SMALL, _SMALL),
        _several("erfinv 512x512", lambda T, a: T.erfinv(a - 1), _SMALL),
        _several("prelu 16x64x32x32", lambda T, a, w: T.prelu(a, w), (16, 64, 32, 32), (64,)),
        _several("add 997x1009 (odd)", lambda T, a, b: a + b, (997, 1009), (997, 1009)),
        _strided((2048, 2048)),
        _in_place((2048, 2048)),
        _dropout((2048, 2048)),
        _random((1024, 1024), "randn"),
        _random((1024, 1024), "rand"),
        _cast((2048, 2048), "float32", "bfloat16"),
        _cast((2048, 2048), "bfloat16", "float32"),
        _cast((2048, 2048), "float16", "float32"),
    ]
