"""Pooling and resizing, forward and forward + backward."""

from __future__ import annotations

import math
from typing import Any

from ..rows import Row, forward, training


def _rows(
    name: str, shape: tuple[int, ...], size: int, share: float, stride: int | None = None, padding: int = 0
) -> list[Row]:
    """``share`` is the output's size relative to the input's."""

    def apply(T: Any, x: Any) -> Any:
        return getattr(T.nn.functional, name)(x, size, stride, padding)

    return _both(f"{name} {size}/{stride or size}", shape, apply, share)


def _both(title: str, shape: tuple[int, ...], apply: Any, share: float) -> list[Row]:
    size = 4.0 * math.prod(shape)
    title = f"{title} {'x'.join(map(str, shape))}"

    def inputs(x: Any) -> list[Any]:
        return [x.normal(*shape)]

    return [
        Row(title, forward(apply, inputs), 0.0, size, share * size),
        Row(f"{title} fwd+bwd", training(apply, inputs), 0.0, (1 + share) * size, (1 + share) * size),
    ]


def rows() -> list[Row]:
    return [
        *_rows("max_pool2d", (8, 64, 112, 112), 2, 0.25),
        *_rows("max_pool2d", (8, 64, 112, 112), 3, 0.25, 2, 1),
        *_rows("max_pool2d", (64, 6, 28, 28), 2, 0.25),
        *_rows("max_pool2d", (8, 192, 27, 27), 3, 0.23, 2),
        *_rows("avg_pool2d", (8, 64, 112, 112), 2, 0.25),
        *_rows("avg_pool2d", (8, 128, 28, 28), 3, 1.0, 1, 1),
        *_rows("max_pool1d", (16, 64, 4000), 2, 0.5),
        Row(
            "channels-last max_pool2d 3/2 with indices 8x64x112x112",
            forward(
                lambda T, x: T.nn.functional.max_pool2d(x, 3, 2, 1, return_indices=True)[1],
                lambda x: [x.normal(8, 112, 112, 64).permute(0, 3, 1, 2)],
            ),
            0.0,
            4.0 * 8 * 64 * 112 * 112,
            12.0 * 8 * 64 * 56 * 56,
        ),
        *_both(
            "adaptive_avg_pool2d 1", (32, 512, 7, 7), lambda T, x: T.nn.functional.adaptive_avg_pool2d(x, 1), 1 / 49
        ),
        *_both(
            "adaptive_avg_pool2d 6", (8, 256, 13, 13), lambda T, x: T.nn.functional.adaptive_avg_pool2d(x, 6), 36 / 169
        ),
        *_both("adaptive_max_pool2d 7", (8, 64, 14, 14), lambda T, x: T.nn.functional.adaptive_max_pool2d(x, 7), 0.25),
        *_both(
            "upsample nearest x2", (2, 64, 64, 64), lambda T, x: T.nn.functional.interpolate(x, scale_factor=2.0), 4.0
        ),
        *_both(
            "upsample bilinear x2",
            (2, 64, 64, 64),
            lambda T, x: T.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False),
            4.0,
        ),
    ]
