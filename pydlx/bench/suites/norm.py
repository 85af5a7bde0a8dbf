"""Softmax and the normalisation layers, forward and forward + backward."""

from __future__ import annotations

from typing import Any

from ..inputs import Inputs
from ..rows import Row, Setup, Step, forward, training


def _softmax(shape: tuple[int, ...], name: str = "softmax", dim: int = -1, train: bool = False) -> Row:
    count = 1.0
    for n in shape:
        count *= n

    def apply(T: Any, x: Any) -> Any:
        return getattr(T.nn.functional, name)(x, dim=dim)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(*shape, scale=2.0)]

    title = f"{name} {'x'.join(map(str, shape))}" + (f" dim {dim}" if dim != -1 else "") + (" fwd+bwd" if train else "")
    # backward reads the result and the gradient and writes one array
    return Row(
        title,
        (training if train else forward)(apply, inputs),
        0.0,
        (12 if train else 4) * count,
        (8 if train else 4) * count,
    )


def _rows_norm(kind: str, rows: int, width: int, train: bool = False) -> Row:
    """layer_norm or rms_norm of ``rows`` vectors."""

    def apply(T: Any, x: Any, w: Any, b: Any = None) -> Any:
        if b is None:
            return T.nn.functional.rms_norm(x, (width,), w, 1e-6)
        return T.nn.functional.layer_norm(x, (width,), w, b)

    def inputs(x: Inputs) -> list[Any]:
        tensors = [x.normal(rows, width), x.uniform(width, low=0.5, high=1.5)]
        return [*tensors, x.normal(width)] if kind == "layer_norm" else tensors

    count = 1.0 * rows * width
    make = training if train else forward
    title = f"{kind} {rows}x{width}" + (" fwd+bwd" if train else "")
    return Row(title, make(apply, inputs), 0.0, (12 if train else 4) * count, (8 if train else 4) * count)


def _channel_norm(kind: str, shape: tuple[int, ...], groups: int = 0, mode: str = "train") -> Row:
    """batch_norm or group_norm; mode "eval" (stored statistics), "forward" or "train" (forward + backward)."""
    channels = shape[1]
    count = 1.0
    for n in shape:
        count *= n

    def apply(T: Any, x: Any, w: Any, b: Any, mean: Any = None, var: Any = None) -> Any:
        if kind == "group_norm":
            return T.nn.functional.group_norm(x, groups, w, b)
        return T.nn.functional.batch_norm(x, mean, var, w, b, training=mode != "eval")

    def inputs(x: Inputs) -> list[Any]:
        tensors = [x.normal(*shape), x.uniform(channels, low=0.5, high=1.5), x.normal(channels)]
        if kind == "group_norm":
            return tensors
        return [*tensors, x.normal(channels), x.uniform(channels, low=0.5, high=1.5)]

    setup: Setup = training(apply, inputs, (0, 1, 2)) if mode == "train" else forward(apply, inputs)
    title = f"{kind}{f' {groups} groups' if groups else ''} {'x'.join(map(str, shape))}"
    title += {"eval": " eval", "forward": "", "train": " fwd+bwd"}[mode]
    return Row(title, setup, 0.0, (12 if mode == "train" else 4) * count, (8 if mode == "train" else 4) * count)


def _add_norm(rows: int, width: int) -> Row:
    """A residual connection followed by layer norm, as in a transformer block, forward + backward."""

    def apply(T: Any, x: Any, y: Any, w: Any, b: Any) -> Any:
        return T.nn.functional.layer_norm(x + y, (width,), w, b)

    def inputs(x: Inputs) -> list[Any]:
        return [x.normal(rows, width), x.normal(rows, width), x.uniform(width, low=0.5, high=1.5), x.normal(width)]

    count = 1.0 * rows * width
    return Row(f"add + layer_norm {rows}x{width} fwd+bwd", training(apply, inputs), 0.0, 16 * count, 12 * count)


def _layer_module(T: Any, x: Inputs) -> Step:
    module = x.load(T.nn.LayerNorm(768))
    module.requires_grad_(False)
    tokens = x.normal(4, 128, 768)
    return lambda: module(tokens)


def rows() -> list[Row]:
    return [
        _softmax((64, 10)),
        _softmax((1024, 1024)),
        _softmax((12, 512, 512)),
        _softmax((4096, 197)),
        _softmax((64, 50257)),
        _softmax((8, 21, 64, 64), dim=1),
        _softmax((1024, 1024), train=True),
        _softmax((12, 512, 512), train=True),
        _softmax((1024, 1000), "log_softmax"),
        _softmax((1024, 1000), "log_softmax", train=True),
        _softmax((256, 50257), "log_softmax"),
        _softmax((8, 21, 64, 64), "log_softmax", dim=1),
        _softmax((8, 21, 64, 64), "log_softmax", dim=1, train=True),
        _rows_norm("layer_norm", 512, 768),
        _rows_norm("layer_norm", 8192, 768),
        _rows_norm("layer_norm", 2048, 384),
        _rows_norm("layer_norm", 1000, 37),
        _rows_norm("layer_norm", 512, 768, True),
        _rows_norm("layer_norm", 8192, 768, True),
        _rows_norm("layer_norm", 2048, 384, True),
        Row("LayerNorm module 4x128x768", _layer_module, 0.0, 4.0 * 4 * 128 * 768, 4.0 * 4 * 128 * 768),
        _rows_norm("rms_norm", 4096, 1024),
        _rows_norm("rms_norm", 4096, 1024, True),
        _add_norm(2048, 768),
        _channel_norm("batch_norm", (32, 64, 56, 56), mode="eval"),
        _channel_norm("batch_norm", (32, 64, 56, 56), mode="forward"),
        _channel_norm("batch_norm", (32, 64, 56, 56)),
        _channel_norm("batch_norm", (32, 512, 7, 7)),
        _channel_norm("batch_norm", (64, 32, 8, 8)),
        _channel_norm("batch_norm", (256, 512), mode="train"),
        _channel_norm("group_norm", (8, 128, 32, 32), 32, mode="forward"),
        _channel_norm("group_norm", (8, 128, 32, 32), 32),
    ]
