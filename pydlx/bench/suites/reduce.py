"""Sums, means, extrema and scans along the last, the first, a middle and all axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..rows import Row, forward, training


def _row(
    name: str,
    shape: tuple[int, ...],
    fn: Callable[[Any, Any], Any],
    written: float = 0.0,
    train: bool = False,
    dtype: str | None = None,
) -> Row:
    """``written`` results; ``dtype`` is a 16-bit one or None for float32."""
    width = 2.0 if dtype else 4.0
    size = width * math.prod(shape)
    title = f"{name} {'x'.join(map(str, shape))}" + (f" {dtype}" if dtype else "") + (" fwd+bwd" if train else "")
    if train:
        return Row(title, training(fn, lambda x: [x.normal(*shape, dtype=dtype)]), 0.0, size, size)
    return Row(title, forward(fn, lambda x: [x.normal(*shape, dtype=dtype)]), 0.0, size, width * written)


def rows() -> list[Row]:
    return [
        _row("sum", (512, 512), lambda T, x: x.sum()),
        _row("sum", (4096, 4096), lambda T, x: x.sum()),
        _row("sum dim 1", (4096, 1024), lambda T, x: x.sum(1), 4096),
        _row("sum dim 0", (4096, 1024), lambda T, x: x.sum(0), 1024),
        _row("sum dim 1", (64, 256, 784), lambda T, x: x.sum(1), 64 * 784),
        _row("sum dims 0,2,3", (32, 64, 28, 28), lambda T, x: x.sum((0, 2, 3)), 64),
        _row("sum short rows dim 1", (200000, 10), lambda T, x: x.sum(1), 200000),
        _row("mean dim 1", (1000, 997), lambda T, x: x.mean(1), 1000),
        _row("mean dims 2,3", (32, 512, 7, 7), lambda T, x: x.mean((2, 3)), 32 * 512),
        _row("mean dim 0", (2048, 1024), lambda T, x: x.mean(0), 1024, train=True),
        _row("var dim 1", (4096, 1024), lambda T, x: x.var(1), 4096),
        _row("std", (1024, 1024), lambda T, x: x.std()),
        _row("max", (2048, 2048), lambda T, x: x.max()),
        _row("amax dim 1", (4096, 1024), lambda T, x: x.amax(1), 4096),
        _row("amax dim 0", (4096, 1024), lambda T, x: x.amax(0), 1024),
        _row("argmax dim 1", (1024, 10000), lambda T, x: x.argmax(1), 2048),
        _row("max dim 0 with indices", (1024, 1024), lambda T, x: tuple(x.max(0)), 3072),
        _row("logsumexp dim 1", (1024, 10000), lambda T, x: x.logsumexp(1), 1024),
        _row("logsumexp dim 0", (256, 1024), lambda T, x: x.logsumexp(0), 1024),
        _row("norm", (2048, 2048), lambda T, x: T.linalg.vector_norm(x) if hasattr(T, "linalg") else x.norm()),
        _row("prod dim 1", (10000, 64), lambda T, x: (x * 0.01 + 1).prod(1), 10000),
        _row("cumsum dim 1", (1024, 4096), lambda T, x: x.cumsum(1), 1024 * 4096),
        _row("cumsum dim 0", (1024, 4096), lambda T, x: x.cumsum(0), 1024 * 4096),
        _row("sum dim 0", (4096, 1024), lambda T, x: x.sum(0), 1024, dtype="bfloat16"),
        _row("sum dim 0", (8192, 256), lambda T, x: x.sum(0), 256, dtype="bfloat16"),
        _row("sum dim 1", (4096, 1024), lambda T, x: x.sum(1), 4096, dtype="bfloat16"),
        _row("sum dims 0,2,3", (32, 64, 28, 28), lambda T, x: x.sum((0, 2, 3)), 64, dtype="bfloat16"),
        _row("mean dims 2,3", (32, 512, 7, 7), lambda T, x: x.mean((2, 3)), 32 * 512, dtype="bfloat16"),
        _row("sum dim 0", (4096, 1024), lambda T, x: x.sum(0), 1024, dtype="float16"),
        _row("all", (2048, 2048), lambda T, x: (x < 100).all()),
    ]
