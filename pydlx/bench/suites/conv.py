"""Convolutions on layer shapes of well-known networks, NCHW, forward and forward + backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..inputs import Inputs
from ..rows import Row, Step, forward, training


@dataclass(frozen=True)
class Layer:
    """Input (batch, channels, *size), ``outputs`` filters of ``kernel`` along every axis."""

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    dilation: int = 1
    transposed: bool = False
    bias: bool = True
    first: bool = False  # the input needs no gradient
    channels_last: bool = False
    dtype: str | None = None  # float32

    def output_size(self) -> tuple[int, ...]:
        span = self.dilation * (self.kernel - 1)
        if self.transposed:
            return tuple((n - 1) * self.stride - 2 * self.padding + span + 1 for n in self.size)
        return tuple((n + 2 * self.padding - span - 1) // self.stride + 1 for n in self.size)

    def inputs(self, x: Inputs) -> list[Any]:
        taps = self.kernel ** len(self.size)
        shape = (
            (self.channels, self.outputs // self.groups)
            if self.transposed
            else (self.outputs, self.channels // self.groups)
        )
        tensors = [
            x.normal(self.batch, self.channels, *self.size, dtype=self.dtype),
            x.normal(
                *shape,
                *(self.kernel,) * len(self.size),
                scale=1 / math.sqrt(taps * self.channels / self.groups),
                dtype=self.dtype,
            ),
        ]
        if self.channels_last:
            tensors = [t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for t in tensors]
        return [*tensors, x.normal(self.outputs, dtype=self.dtype)] if self.bias else tensors

    def __call__(self, T: Any, x: Any, w: Any, b: Any = None) -> Any:
        name = f"conv{'_transpose' if self.transposed else ''}{len(self.size)}d"
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups, "dilation": self.dilation}
        return getattr(T.nn.functional, name)(x, w, b, **options)

    def rows(self) -> list[Row]:
        taps = self.kernel ** len(self.size) * self.channels * self.outputs / self.groups
        places = self.batch * math.prod(self.size if self.transposed else self.output_size())
        flops = 2 * taps * places
        size = 2.0 if self.dtype else 4.0
        read = size * (self.batch * self.channels * math.prod(self.size) + taps)
        written = size * self.batch * self.outputs * math.prod(self.output_size())
        sweeps = 2 if self.first else 3
        wanted = range(1 if self.first else 0, 3 if self.bias else 2)
        make: Callable[..., Any] = forward
        return [
            Row(self.name, make(self, self.inputs), flops, read, written),
            Row(
                f"{self.name} fwd+bwd",
                training(self, self.inputs, tuple(wanted)),
                sweeps * flops,
                # y and its gradient written and read; x read twice, its gradient written; w the same
                2 * read + written,
                written + (taps * size if self.first else read),
            ),
        ]


LAYERS = (
    Layer("LeNet 5x5 1->6 28 b64", 64, 1, (28, 28), 6, 5, padding=2, first=True),
    Layer("LeNet 5x5 6->16 14 b64", 64, 6, (14, 14), 16, 5),
    Layer("AlexNet 11x11/4 3->64 224 b4", 4, 3, (224, 224), 64, 11, 4, 2, first=True),
    Layer("AlexNet 5x5 64->192 27 b8", 8, 64, (27, 27), 192, 5, padding=2),
    Layer("AlexNet 3x3 192->384 13 b8", 8, 192, (13, 13), 384, 3, padding=1),
    Layer("VGG 3x3 3->64 224 b1", 1, 3, (224, 224), 64, 3, padding=1, first=True),
    Layer("VGG 3x3 64->64 224 b1", 1, 64, (224, 224), 64, 3, padding=1),
    Layer("VGG 3x3 128->128 112 b1", 1, 128, (112, 112), 128, 3, padding=1),
    Layer("VGG 3x3 256->256 56 b1", 1, 256, (56, 56), 256, 3, padding=1),
    Layer("VGG 3x3 512->512 28 b1", 1, 512, (28, 28), 512, 3, padding=1),
    Layer("VGG 3x3 512->512 14 b1", 1, 512, (14, 14), 512, 3, padding=1),
    Layer("ResNet stem 7x7/2 3->64 224 b4", 4, 3, (224, 224), 64, 7, 2, 3, bias=False, first=True),
    Layer("ResNet 3x3 64->64 56 b8", 8, 64, (56, 56), 64, 3, padding=1, bias=False),
    Layer("ResNet 3x3 128->128 28 b8", 8, 128, (28, 28), 128, 3, padding=1, bias=False),
    Layer("ResNet 3x3 256->256 14 b8", 8, 256, (14, 14), 256, 3, padding=1, bias=False),
    Layer("ResNet 3x3 512->512 7 b16", 16, 512, (7, 7), 512, 3, padding=1, bias=False),
    Layer("ResNet 3x3/2 128->128 56 b8", 8, 128, (56, 56), 128, 3, 2, 1, bias=False),
    Layer("ResNet 1x1 64->256 56 b8", 8, 64, (56, 56), 256, 1, bias=False),
    Layer("ResNet 1x1 256->64 56 b8", 8, 256, (56, 56), 64, 1, bias=False),
    Layer("ResNet 1x1 1024->256 14 b8", 8, 1024, (14, 14), 256, 1, bias=False),
    Layer("ResNet 1x1 512->2048 7 b8", 8, 512, (7, 7), 2048, 1, bias=False),
    Layer("ResNet 1x1/2 256->512 56 b8", 8, 256, (56, 56), 512, 1, 2, bias=False),
    Layer("MobileNet depthwise 3x3 32 112 b4", 4, 32, (112, 112), 32, 3, padding=1, groups=32, bias=False),
    Layer("MobileNet depthwise 3x3/2 64 112 b4", 4, 64, (112, 112), 64, 3, 2, 1, groups=64, bias=False),
    Layer("MobileNet depthwise 3x3 512 14 b8", 8, 512, (14, 14), 512, 3, padding=1, groups=512, bias=False),
    Layer("MobileNet 1x1 512->512 14 b8", 8, 512, (14, 14), 512, 1, bias=False),
    Layer("ResNeXt grouped/32 3x3 128 56 b4", 4, 128, (56, 56), 128, 3, padding=1, groups=32, bias=False),
    Layer("grouped/4 3x3 256 14 b8", 8, 256, (14, 14), 256, 3, padding=1, groups=4, bias=False),
    Layer("dilated/2 3x3 128->128 28 b4", 4, 128, (28, 28), 128, 3, padding=2, dilation=2),
    Layer("U-Net 3x3 64->64 128 b1", 1, 64, (128, 128), 64, 3, padding=1),
    Layer("U-Net transposed 2x2/2 128->64 64 b1", 1, 128, (64, 64), 64, 2, 2, transposed=True),
    Layer("transposed 4x4/2 64->32 32 b8", 8, 64, (32, 32), 32, 4, 2, 1, transposed=True),
    Layer("1-D k3 64->128 1000 b8", 8, 64, (1000,), 128, 3, padding=1),
    Layer("1-D k9 1->32 16000 b4", 4, 1, (16000,), 32, 9, 4, 4, first=True),
    Layer("3-D k3 16->32 16 b2", 2, 16, (16, 16, 16), 32, 3, padding=1),
    Layer("digits 3x3 32->32 8 b64", 64, 32, (8, 8), 32, 3, padding=1, bias=False),
    Layer("odd 3x3 37->41 19x23 b3", 3, 37, (19, 23), 41, 3, padding=1),
    Layer("prime 5x5 13->17 31 b2", 2, 13, (31, 31), 17, 5, padding=2),
    Layer("channels-last 3x3 64->64 56 b8", 8, 64, (56, 56), 64, 3, padding=1, bias=False, channels_last=True),
    Layer("channels-last 1x1 256->64 56 b8", 8, 256, (56, 56), 64, 1, bias=False, channels_last=True),
    Layer("channels-last 3x3/2 128->128 56 b8", 8, 128, (56, 56), 128, 3, 2, 1, bias=False, channels_last=True),
    Layer("channels-last 3x3 512->512 7 b16", 16, 512, (7, 7), 512, 3, padding=1, bias=False, channels_last=True),
    Layer("channels-last depthwise 3x3 128 28 b8", 8, 128, (28, 28), 128, 3, padding=1, groups=128, channels_last=True),
    Layer("channels-last stem 7x7/2 3->64 224 b4", 4, 3, (224, 224), 64, 7, 2, 3, first=True, channels_last=True),
)

ALSO_EVALUATED = (
    "ResNet 3x3 64->64 56 b8",
    "ResNet 3x3 256->256 14 b8",
    "ResNet 1x1 64->256 56 b8",
    "ResNet stem 7x7/2 3->64 224 b4",
)

ALSO_BFLOAT16 = (
    "ResNet stem 7x7/2 3->64 224 b4",
    "ResNet 3x3 64->64 56 b8",
    "ResNet 3x3 256->256 14 b8",
    "ResNet 3x3 512->512 7 b16",
    "ResNet 3x3/2 128->128 56 b8",
    "ResNet 1x1 256->64 56 b8",
    "ResNet 1x1 512->2048 7 b8",
    "U-Net transposed 2x2/2 128->64 64 b1",
    "transposed 4x4/2 64->32 32 b8",
    "channels-last 3x3 64->64 56 b8",
    "channels-last 1x1 256->64 56 b8",
    "channels-last 3x3/2 128->128 56 b8",
    "channels-last 3x3 512->512 7 b16",
    "channels-last stem 7x7/2 3->64 224 b4",
)


def _evaluated(layer: Layer) -> Row:
    """The layer, batch normalisation and ReLU in evaluation, as neighbours in a Sequential."""

    def setup(T: Any, x: Inputs) -> Step:
        nn = T.nn
        net = nn.Sequential(
            nn.Conv2d(layer.channels, layer.outputs, layer.kernel, layer.stride, layer.padding, bias=False),
            nn.BatchNorm2d(layer.outputs),
            nn.ReLU(),
        )
        net = x.load(net).eval().requires_grad_(False)
        images = x.normal(layer.batch, layer.channels, *layer.size)
        return lambda: net(images)

    plain = layer.rows()[0]
    return Row(f"{layer.name} + norm + ReLU eval", setup, plain.flops, plain.reads, plain.writes)


def rows() -> list[Row]:
    narrow = [
        replace(layer, name=f"{layer.name} bfloat16", dtype="bfloat16")
        for layer in LAYERS
        if layer.name in ALSO_BFLOAT16
    ]
    evaluated = [_evaluated(layer) for layer in LAYERS if layer.name in ALSO_EVALUATED]
    return [*(row for layer in (*LAYERS, *narrow) for row in layer.rows()), *evaluated]
