"""Losses, forward + backward unless the name says otherwise; the language-model heads are what a training step ends in."""

from __future__ import annotations

import math
from typing import Any

from ..inputs import Inputs
from ..rows import Row, Setup, forward, training


def _cross_entropy(rows: int, classes: int, *, train: bool = True, smoothing: float = 0.0) -> Row:
    def loss(T: Any, x: Any, y: Any) -> Any:
        return T.nn.functional.cross_entropy(x, y, label_smoothing=smoothing)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(rows, classes, scale=2.0), x.integers(classes, rows)]

    setup: Setup = training(loss, inputs, (0,)) if train else forward(loss, inputs)
    name = f"cross_entropy {rows}x{classes}" + (" smoothed" if smoothing else "") + (" fwd+bwd" if train else "")
    size = 4.0 * rows * classes
    # backward reads the logits again and writes their gradient
    return Row(name, setup, 0.0, (2 if train else 1) * size, size if train else 0.0)


def _map_cross_entropy(*shape: int) -> Row:
    """Segmentation: one class per pixel, images (N, classes, H, W)."""

    def loss(T: Any, x: Any, y: Any) -> Any:
        return T.nn.functional.cross_entropy(x, y)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(*shape, scale=2.0), x.integers(shape[1], shape[0], *shape[2:])]

    size = 4.0 * math.prod(shape)
    return Row(f"cross_entropy {'x'.join(map(str, shape))} fwd+bwd", training(loss, inputs, (0,)), 0.0, 2 * size, size)


def _linear_cross_entropy(rows: int, features: int, classes: int) -> Row:
    """The head of a language model and its loss in one call, which need not hold the logits."""

    def loss(T: Any, x: Any, w: Any, y: Any) -> Any:
        return T.nn.functional.linear_cross_entropy(x, w, y)

    def inputs(x: Inputs) -> list[Any]:
        return [
            x.normal(rows, features),
            x.normal(classes, features, scale=1 / math.sqrt(features)),
            x.integers(classes, rows),
        ]

    weight = 4.0 * classes * features
    return Row(
        f"linear_cross_entropy {rows}x{features}->{classes} fwd+bwd",
        training(loss, inputs, (0, 1)),
        6.0 * rows * features * classes,
        2 * weight,
        weight,
    )


def _pairs(name: str, shape: tuple[int, ...], target: str = "normal") -> Row:
    """A loss of two tensors of one shape."""

    def loss(T: Any, x: Any, y: Any) -> Any:
        return getattr(T.nn.functional, name)(x, y)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(*shape), x.normal(*shape) if target == "normal" else x.uniform(*shape)]

    size = 4.0 * math.prod(shape)
    return Row(f"{name} {'x'.join(map(str, shape))} fwd+bwd", training(loss, inputs, (0,)), 0.0, 4 * size, size)


def rows() -> list[Row]:
    return [
        _cross_entropy(64, 10),
        _cross_entropy(256, 1000),
        _cross_entropy(1024, 50257, train=False),
        _cross_entropy(1024, 50257),
        _cross_entropy(256, 1000, smoothing=0.1),
        _cross_entropy(700, 10007),
        _map_cross_entropy(8, 21, 64, 64),
        _map_cross_entropy(4, 5, 128, 128),
        _linear_cross_entropy(256, 384, 10000),
        _linear_cross_entropy(512, 768, 50257),
        _pairs("mse_loss", (1024, 1024)),
        _pairs("smooth_l1_loss", (1024, 1024)),
        _pairs("binary_cross_entropy_with_logits", (1024, 1024), "uniform"),
    ]
