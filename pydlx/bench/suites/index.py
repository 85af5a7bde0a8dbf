"""Gathering and scattering: embeddings and their gradients, index_select, gather, scatter_add, masks."""

from __future__ import annotations

from typing import Any

from ..inputs import Inputs
from ..rows import Row, forward, training


def _embedding(words: int, width: int, tokens: int, train: bool = False) -> Row:
    def apply(T: Any, table: Any, index: Any) -> Any:
        return T.nn.functional.embedding(index, table)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(words, width), x.integers(words, tokens)]

    picked, table = 4.0 * tokens * width, 4.0 * words * width
    name = f"embedding {words}x{width}, {tokens} tokens" + (" fwd+bwd" if train else "")
    if train:  # the gradient is dense: every row of it is written
        return Row(name, training(apply, inputs, (0,)), 0.0, 2 * picked, picked + table)
    return Row(name, forward(apply, inputs), 0.0, picked, picked)


def _rows(name: str, rows: int, width: int, picked: int, fn: Any, train: bool = False) -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(rows, width), x.integers(rows, picked)]

    size = 4.0 * picked * width
    title = f"{name} {rows}x{width}, {picked} rows" + (" fwd+bwd" if train else "")
    if train:
        return Row(title, training(fn, inputs, (0,)), 0.0, 2 * size, size + 4.0 * rows * width)
    return Row(title, forward(fn, inputs), 0.0, size, size)


def _scatter_rows() -> Row:
    """index_add of many rows into few, as in message passing on graphs."""

    def apply(T: Any, target: Any, index: Any, source: Any) -> Any:
        return T.index_add(target, 0, index, source)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(5000, 64), x.integers(5000, 50000), x.normal(50000, 64)]

    return Row("index_add 50000 rows into 5000x64", forward(apply, inputs), 0.0, 4.0 * 55000 * 64, 4.0 * 5000 * 64)


def _gather() -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(2048, 1024), x.integers(1024, 2048, 256)]

    count = 2048.0 * 256
    return Row(
        "gather dim 1 2048x1024 -> 256", forward(lambda T, a, i: T.gather(a, 1, i), inputs), 0.0, 12 * count, 4 * count
    )


def _gather_dim0() -> Row:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(2048, 256), x.integers(2048, 1024, 256)]

    count = 1024.0 * 256
    return Row(
        "gather dim 0 2048x256 -> 1024", forward(lambda T, a, i: T.gather(a, 0, i), inputs), 0.0, 12 * count, 4 * count
    )


def _scatter_add() -> Row:
    def apply(T: Any, target: Any, index: Any, source: Any) -> Any:
        return T.scatter_add(target, 1, index, source)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(2048, 256), x.integers(256, 2048, 512), x.normal(2048, 512)]

    return Row(
        "scatter_add dim 1 2048x512 -> 256",
        forward(apply, inputs),
        0.0,
        2048 * (12.0 * 512 + 4 * 256),
        4.0 * 2048 * 256,
    )


def _masks() -> list[Row]:
    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(2048, 1024), x.mask(2048, 1024, share=0.3)]

    count = 2048.0 * 1024
    return [
        Row("masked_fill 2048x1024", forward(lambda T, a, m: a.masked_fill(m, 0.0), inputs), 0.0, 5 * count, 4 * count),
        Row("boolean index 2048x1024", forward(lambda T, a, m: a[m], inputs), 0.0, 5 * count, 1.2 * count),
        Row("nonzero 2048x1024", forward(lambda T, a, m: m.nonzero(), inputs), 0.0, count, 4.8 * count),
    ]


def rows() -> list[Row]:
    return [
        _embedding(50257, 768, 1024),
        _embedding(10000, 200, 700),
        _embedding(50257, 768, 1024, True),
        _embedding(1000, 128, 32768, True),
        _rows("index_select dim 0", 10000, 256, 4096, lambda T, a, i: T.index_select(a, 0, i)),
        _rows("a[index]", 10000, 256, 4096, lambda T, a, i: a[i]),
        _rows("a[index]", 10000, 256, 4096, lambda T, a, i: a[i], True),
        _rows("index_select dim 1", 1024, 1024, 512, lambda T, a, i: T.index_select(a, 1, i)),
        _scatter_rows(),
        _gather(),
        _gather_dim0(),
        _scatter_add(),
        *_masks(),
    ]
