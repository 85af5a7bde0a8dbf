"""Moving data without arithmetic: transposes, strided copies, joining, padding, repeating."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..rows import Row, forward


def _row(
    name: str, shape: tuple[int, ...], fn: Callable[[Any, Any], Any], read: float = 1.0, written: float = 1.0
) -> Row:
    """``read`` and ``written`` are multiples of the input's size."""
    size = 4.0 * math.prod(shape)
    return Row(
        f"{name} {'x'.join(map(str, shape))}",
        forward(fn, lambda x: [x.normal(*shape)]),
        0.0,
        read * size,
        written * size,
    )


def _join(name: str, parts: int, shape: tuple[int, ...], fn: Callable[[Any, list[Any]], Any]) -> Row:
    size = 4.0 * parts * math.prod(shape)
    return Row(
        f"{name} of {parts} {'x'.join(map(str, shape))}",
        forward(lambda T, *tensors: fn(T, list(tensors)), lambda x: [x.normal(*shape) for _ in range(parts)]),
        0.0,
        size,
        size,
    )


def rows() -> list[Row]:
    return [
        _row("transpose copy", (512, 512), lambda T, x: x.t().contiguous()),
        _row("transpose copy", (4096, 4096), lambda T, x: x.t().contiguous()),
        _row("transpose copy", (1021, 2039), lambda T, x: x.t().contiguous()),
        _row("heads apart: permute 0,2,1,3", (8, 512, 12, 64), lambda T, x: x.permute(0, 2, 1, 3).contiguous()),
        _row("batched transpose", (64, 197, 64), lambda T, x: x.transpose(1, 2).contiguous()),
        _row("NCHW -> NHWC", (8, 64, 56, 56), lambda T, x: x.permute(0, 2, 3, 1).contiguous()),
        _row("NCHW -> NHWC, 3 channels", (16, 3, 224, 224), lambda T, x: x.permute(0, 2, 3, 1).contiguous()),
        _row("NHWC -> NCHW", (8, 56, 56, 64), lambda T, x: x.permute(0, 3, 1, 2).contiguous()),
        _row("reverse all axes", (64, 96, 128), lambda T, x: x.permute(2, 1, 0).contiguous()),
        _row("clone", (4096, 4096), lambda T, x: x.clone()),
        _row("clone", (256, 256), lambda T, x: x.clone()),
        _row("slice columns", (4096, 1024), lambda T, x: x[:, 256:768].contiguous(), 0.5, 0.5),
        _row("every second column", (2048, 2048), lambda T, x: x[:, ::2].contiguous(), 1.0, 0.5),
        _row("flip dim 1", (2048, 2048), lambda T, x: x.flip(1)),
        _row("roll dim 1", (2048, 2048), lambda T, x: T.roll(x, 3, 1)),
        _row("repeat 4", (512, 1024), lambda T, x: x.repeat(4, 1), 1.0, 4.0),
        _row("repeat_interleave 4", (512, 1024), lambda T, x: T.repeat_interleave(x, 4, dim=0), 1.0, 4.0),
        _row("expand copy", (1024, 1), lambda T, x: x.expand(1024, 2048).contiguous(), 1.0, 2048.0),
        _row(
            "constant pad 1", (8, 64, 56, 56), lambda T, x: T.nn.functional.pad(x, (1, 1, 1, 1)), 1.0, 58 * 58 / 56 / 56
        ),
        _row(
            "reflect pad 3",
            (8, 64, 56, 56),
            lambda T, x: T.nn.functional.pad(x, (3, 3, 3, 3), mode="reflect"),
            1.0,
            62 * 62 / 56 / 56,
        ),
        _row("tril", (2048, 2048), lambda T, x: T.tril(x)),
        _row("unfold 3x3", (4, 32, 56, 56), lambda T, x: T.nn.functional.unfold(x, 3, padding=1), 1.0, 9.0),
        _join("cat dim 0", 4, (1024, 1024), lambda T, p: T.cat(p, 0)),
        _join("cat dim 1", 4, (1024, 256), lambda T, p: T.cat(p, 1)),
        _join("cat channels", 2, (4, 64, 64, 64), lambda T, p: T.cat(p, 1)),
        _join("stack dim 0", 16, (256, 256), lambda T, p: T.stack(p, 0)),
        _join("stack last", 3, (512, 512), lambda T, p: T.stack(p, -1)),
        _row("split and add", (2048, 2048), lambda T, x: x.chunk(2, 1)[0] + x.chunk(2, 1)[1], 1.0, 0.5),
        _row("fill", (2048, 2048), lambda T, x: T.zeros(2048, 2048), 0.0, 1.0),
    ]
