"""Matrix products: square, linear layers, skinny, matrix-vector, batched, transposed, odd sizes, other dtypes; and all
distances between two sets of rows, which are summed in the same kind of tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..inputs import Inputs
from ..rows import Row, Step, forward, training

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


def _cost(batch: int, m: int, k: int, n: int, size: int = 4) -> tuple[float, float, float]:
    """Arithmetic, bytes read and bytes written."""
    return 2.0 * batch * m * k * n, float(size * batch * (m * k + k * n)), float(size * batch * m * n)


def _matmul(m: int, k: int, n: int, layout: str = "nn", dtype: str = "float32") -> Row:
    """A (m, k) times B (k, n); "t" in ``layout`` marks an operand stored transposed."""
    given = None if dtype == "float32" else dtype

    def inputs(x: Inputs) -> list[Any]:
        a = x.normal(k, m, dtype=given).t() if layout[0] == "t" else x.normal(m, k, dtype=given)
        b = x.normal(n, k, dtype=given).t() if layout[1] == "t" else x.normal(k, n, dtype=given)
        return [a, b]

    shape = f"{m}" if m == k == n else f"{m}x{k}x{n}"
    name = f"matmul {shape}" + (f" {layout}" if layout != "nn" else "") + (f" {dtype}" if given else "")
    return Row(name, forward(lambda T, a, b: a @ b, inputs), *_cost(1, m, k, n, _BYTES[dtype]))


def _linear(rows: int, features: int, outputs: int, note: str = "", train: bool = False, dtype: str = "float32") -> Row:
    given = None if dtype == "float32" else dtype

    def inputs(x: Inputs) -> list[Any]:
        return [
            x.normal(rows, features, dtype=given),
            x.normal(outputs, features, scale=1 / math.sqrt(features), dtype=given),
            x.normal(outputs, dtype=given),
        ]

    def linear(T: Any, x: Any, w: Any, b: Any) -> Any:
        return T.nn.functional.linear(x, w, b)

    name = f"linear {rows}x{features}->{outputs}" + (f" ({note})" if note else "") + (f" {dtype}" if given else "")
    name += " fwd+bwd" if train else ""
    make: Callable[..., Any] = training if train else forward
    sweeps = 3 if train else 1
    flops, read, written = _cost(1, rows, features, outputs, _BYTES[dtype])
    return Row(name, make(linear, inputs), sweeps * flops, sweeps * read, sweeps * written)


def _activated(rows: int, features: int, outputs: int, activation: str) -> Row:
    """A linear layer and its activation, as neighbours in a Sequential."""

    def setup(T: Any, x: Inputs) -> Step:
        net = x.load(T.nn.Sequential(T.nn.Linear(features, outputs), getattr(T.nn, activation)()))
        net.requires_grad_(False)
        batch = x.normal(rows, features)
        return lambda: net(batch)

    return Row(f"linear {rows}x{features}->{outputs} + {activation}", setup, *_cost(1, rows, features, outputs, 4))


def _bmm(batch: tuple[int, ...], m: int, k: int, n: int, layout: str = "nn") -> Row:
    def inputs(x: Inputs) -> list[Any]:
        a = x.normal(*batch, k, m).transpose(-1, -2) if layout[0] == "t" else x.normal(*batch, m, k)
        b = x.normal(*batch, n, k).transpose(-1, -2) if layout[1] == "t" else x.normal(*batch, k, n)
        return [a, b]

    name = f"batched {'x'.join(map(str, batch))} of {m}x{k}x{n}" + (f" {layout}" if layout != "nn" else "")
    return Row(name, forward(lambda T, a, b: T.matmul(a, b), inputs), *_cost(math.prod(batch), m, k, n))


def _broadcast(batch: int, m: int, k: int, n: int) -> Row:
    return Row(
        f"broadcast {batch} of {m}x{k} @ {k}x{n}",
        forward(lambda T, a, b: T.matmul(a, b), lambda x: [x.normal(batch, 1, m, k), x.normal(k, n)]),
        flops=2.0 * batch * m * k * n,
        reads=4.0 * (batch * m * k + k * n),
        writes=4.0 * batch * m * n,
    )


def _matvec(m: int, n: int, transposed: bool = False) -> Row:
    def inputs(x: Inputs) -> list[Any]:
        a = x.normal(n, m).t() if transposed else x.normal(m, n)
        return [a, x.normal(n)]

    return Row(
        f"matvec {m}x{n}" + (" t" if transposed else ""),
        forward(lambda T, a, v: T.mv(a, v), inputs),
        flops=2.0 * m * n,
        reads=4.0 * (m * n + n),
        writes=4.0 * m,
    )


def _distances(rows: int, others: int, features: int, *, train: bool = False) -> Row:
    def apply(T: Any, a: Any, b: Any) -> Any:
        return T.cdist(a, b)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(rows, features), x.normal(others, features)]

    flops, size = 3.0 * rows * others * features, 4.0 * rows * others
    return Row(
        f"cdist {rows}x{features} {others}x{features}" + (" fwd+bwd" if train else ""),
        (training if train else forward)(apply, inputs),
        (3 if train else 1) * flops,
        4.0 * (rows + others) * features + (size if train else 0.0),
        size,
    )


def rows() -> list[Row]:
    square = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
    odd = (7, 31, 63, 65, 127, 129, 257, 509, 1021)
    return [
        *(_matmul(n, n, n) for n in square),
        *(_matmul(n, n, n) for n in odd),
        *(_matmul(512, 512, 512, layout) for layout in ("nt", "tn", "tt")),
        *(_matmul(100, 300, 200, layout) for layout in ("nn", "nt", "tn", "tt")),
        _matmul(1000, 1000, 1000),
        _matmul(2000, 17, 2000),
        _matmul(17, 2000, 17),
        _matmul(64, 4096, 64),
        _matmul(2048, 64, 2048, "nt"),
        _matmul(1024, 1024, 1024, dtype="bfloat16"),
        _matmul(256, 256, 256, dtype="bfloat16"),
        *(_matmul(n, n, n, dtype="bfloat16") for n in (64, 128, 512, 2048)),
        *(_matmul(512, 512, 512, layout, dtype="bfloat16") for layout in ("nt", "tn", "tt")),
        _matmul(511, 513, 509, dtype="bfloat16"),
        _matmul(512, 512, 512, dtype="float16"),
        _matmul(512, 512, 512, dtype="float64"),
        _linear(32, 784, 512),
        _linear(128, 1024, 4096),
        _linear(4096, 64, 4096),
        _linear(1, 4096, 4096),
        _linear(2, 4096, 4096),
        _linear(4, 4096, 4096),
        _linear(8, 4096, 4096),
        _linear(16, 1024, 1024),
        _linear(64, 400, 120, "LeNet"),
        _linear(16, 9216, 4096, "AlexNet fc6"),
        _linear(32, 2048, 1000, "ResNet-50 head"),
        _linear(1024, 768, 2304, "GPT-2 qkv"),
        _linear(1024, 768, 3072, "GPT-2 mlp up"),
        _linear(1024, 3072, 768, "GPT-2 mlp down"),
        _linear(128, 768, 50257, "GPT-2 head"),
        _linear(197, 768, 3072, "ViT-B mlp"),
        _activated(2048, 384, 1536, "GELU"),
        _activated(256, 1024, 1024, "ReLU"),
        _linear(32, 784, 512, train=True),
        _linear(128, 1024, 4096, train=True),
        _linear(1024, 768, 3072, "GPT-2 mlp up", train=True),
        _linear(512, 768, 768, "BERT out", train=True),
        *(
            _linear(*sizes, dtype="bfloat16")
            for sizes in ((32, 784, 512), (128, 1024, 4096), (4096, 64, 4096), (1, 4096, 4096), (8, 4096, 4096))
        ),
        _linear(1024, 768, 3072, "GPT-2 mlp up", dtype="bfloat16"),
        _linear(1024, 768, 3072, "GPT-2 mlp up", train=True, dtype="bfloat16"),
        _matvec(4096, 4096),
        _matvec(4096, 4096, True),
        _matvec(512, 512),
        _matvec(997, 1013),
        _bmm((96,), 128, 64, 128, "nt"),
        _bmm((8, 12), 64, 64, 64),
        _bmm((256,), 16, 16, 16),
        _bmm((64,), 33, 47, 65),
        _bmm((12,), 1024, 64, 1024, "nt"),
        _bmm((32,), 1, 512, 512),
        _broadcast(32, 128, 64, 64),
        _distances(1000, 500, 64),
        _distances(200, 300, 64, train=True),
    ]
