"""Cases of the convolutions: every geometry argument, odd sizes, tile edges, strided and depthwise paths, misuse."""

import numpy as np
from cases import Case, ErrorCase, args, normal

HALVES = ("float32", "float64", "float16", "bfloat16")


def functional(T):
    return T.nn.functional if T.__name__ == "torch" else T._C


def conv(axes, **keywords):
    return lambda T, *t: getattr(functional(T), f"conv{axes}d")(*t, **keywords)


def transpose(axes, **keywords):
    return lambda T, *t: getattr(functional(T), f"conv_transpose{axes}d")(*t, **keywords)


CASES = [
    Case("conv1d", conv(1), args(normal(2, 3, 17), normal(5, 3, 4), normal(5))),
    Case("conv1d/same", conv(1, padding="same", dilation=2), args(normal(2, 3, 17), normal(5, 3, 4), normal(5))),
    Case("conv1d/long", conv(1, stride=3, padding=70), args(normal(1, 1, 50), normal(2, 1, 130))),
    Case("conv2d", conv(2), args(normal(3, 4, 9, 11), normal(7, 4, 3, 2), normal(7)), dtypes=HALVES),
    Case("conv2d/padded", conv(2, padding=1), args(normal(3, 5, 8, 8), normal(16, 5, 3, 3), normal(16))),
    Case("conv2d/tile", conv(2, padding=1), args(normal(2, 16, 8, 8), normal(32, 16, 3, 3), normal(32))),
    Case("conv2d/wide", conv(2, padding=(0, 2)), args(normal(1, 2, 5, 131), normal(3, 2, 3, 5))),
    Case("conv2d/unbatched", conv(2, padding=1), args(normal(4, 6, 7), normal(3, 4, 3, 3), normal(3))),
    Case("conv2d/strided", conv(2, stride=2, padding=1), args(normal(2, 3, 13, 16), normal(8, 3, 3, 3), normal(8))),
    Case(
        "conv2d/strided uneven",
        conv(2, stride=(3, 2), padding=(2, 0), dilation=(1, 3)),
        args(normal(2, 3, 14, 20), normal(4, 3, 3, 4)),
    ),
    Case("conv2d/stride beyond kernel", conv(2, stride=4), args(normal(2, 2, 11, 14), normal(3, 2, 2, 2), normal(3))),
    Case("conv2d/dilated", conv(2, dilation=2, padding=2), args(normal(2, 3, 9, 9), normal(4, 3, 3, 3))),
    Case("conv2d/valid", conv(2, padding="valid"), args(normal(2, 3, 9, 9), normal(4, 3, 3, 3))),
    Case("conv2d/same", conv(2, padding="same"), args(normal(2, 3, 7, 9), normal(4, 3, 4, 3))),
    Case("conv2d/pointwise", conv(2), args(normal(2, 13, 9, 9), normal(7, 13, 1, 1), normal(7))),
    Case("conv2d/pointwise strided", conv(2, stride=2), args(normal(2, 13, 9, 9), normal(7, 13, 1, 1), normal(7))),
    Case("conv2d/grouped", conv(2, groups=3, padding=1), args(normal(2, 6, 7, 9), normal(12, 2, 3, 3), normal(12))),
    Case("conv2d/depthwise", conv(2, groups=6, padding=1), args(normal(2, 6, 7, 19), normal(6, 1, 3, 3), normal(6))),
    Case(
        "conv2d/depthwise strided",
        conv(2, groups=6, padding=1, stride=2),
        args(normal(2, 6, 7, 19), normal(12, 1, 3, 3), normal(12)),
    ),
    Case("conv2d/deep", conv(2, padding=1), args(normal(1, 70, 5, 5), normal(20, 70, 3, 3)), second=False),
    Case(
        "conv2d/one channel out",
        conv(2, padding=2),
        args(normal(2, 9, 8, 300), normal(1, 9, 5, 5), normal(1)),
        second=False,
    ),
    Case("conv2d/no bias, big kernel", conv(2, padding=3), args(normal(2, 2, 6, 5), normal(3, 2, 7, 7))),
    Case("conv2d/empty batch", conv(2), args(normal(0, 3, 8, 8), normal(4, 3, 3, 3), normal(4))),
    Case(
        "conv2d/many pixels",
        conv(2, padding=1),
        args(normal(5, 1, 40, 41), normal(3, 1, 3, 3), normal(3)),
        second=False,
    ),
    Case("conv3d", conv(3, padding=1), args(normal(2, 3, 4, 5, 6), normal(5, 3, 3, 3, 3), normal(5))),
    Case(
        "conv3d/strided",
        conv(3, stride=(1, 2, 3), padding=(0, 1, 2)),
        args(normal(1, 2, 5, 6, 7), normal(4, 2, 2, 3, 4), normal(4)),
    ),
    Case("conv_transpose1d", transpose(1, stride=2), args(normal(2, 3, 9), normal(3, 4, 5), normal(4))),
    Case("conv_transpose2d", transpose(2), args(normal(2, 3, 5, 6), normal(3, 4, 3, 3), normal(4)), dtypes=HALVES),
    Case(
        "conv_transpose2d/strided",
        transpose(2, stride=2, padding=1, output_padding=1),
        args(normal(2, 3, 5, 6), normal(3, 4, 3, 3), normal(4)),
    ),
    Case(
        "conv_transpose2d/spread",
        transpose(2, stride=2),
        args(normal(2, 16, 14, 14), normal(16, 32, 1, 1), normal(32)),
    ),
    Case(
        "conv_transpose2d/sparse",
        transpose(2, stride=(5, 3), dilation=(2, 1)),
        args(normal(1, 3, 3, 4), normal(3, 2, 2, 2), normal(2)),
    ),
    Case(
        "conv_transpose2d/grouped",
        transpose(2, stride=2, groups=2),
        args(normal(2, 4, 5, 4), normal(4, 3, 3, 2), normal(6)),
    ),
    Case("conv_transpose2d/unbatched", transpose(2, padding=1), args(normal(3, 5, 6), normal(3, 4, 3, 3), normal(4))),
    Case(
        "conv_transpose3d",
        transpose(3, stride=2, padding=1),
        args(normal(1, 3, 3, 2, 4), normal(3, 2, 3, 3, 3), normal(2)),
    ),
    Case(
        "convolution",
        lambda T, x, w, b: T.convolution(x, w, b, [2, 1], [1, 1], [1, 1], False, [0, 0], 1),
        args(normal(2, 3, 7, 8), normal(4, 3, 3, 3), normal(4)),
    ),
]


def wrong(name, error, match, *shapes, op="conv2d", **keywords):
    def run(T):
        tensors = [None if s is None else T.from_numpy(np.ones(s)) for s in shapes]
        return getattr(functional(T), op)(*tensors, **keywords)

    return ErrorCase(f"{op}/{name}", run, error, match)


X, W = (2, 3, 8, 8), (4, 3, 3, 3)
ERRORS = [
    wrong("kernel too large", ValueError, r"\[conv2d\] weight: .*padded input", X, (4, 3, 9, 3)),
    wrong("dilated too large", ValueError, r"\[conv2d\] weight", X, W, dilation=4),
    wrong("stride zero", ValueError, r"\[conv2d\] stride", X, W, stride=0),
    wrong("stride negative", ValueError, r"\[conv2d\] stride", X, W, stride=(1, -1)),
    wrong("dilation zero", ValueError, r"\[conv2d\] dilation", X, W, dilation=0),
    wrong("groups zero", ValueError, r"\[conv2d\] groups", X, W, groups=0),
    wrong("groups negative", ValueError, r"\[conv2d\] groups", X, W, groups=-1),
    wrong("groups", ValueError, r"\[conv2d\]", X, W, groups=3),
    wrong("channels", ValueError, r"\[conv2d\] input: expected 5 channels", X, (4, 5, 3, 3)),
    wrong("rank", ValueError, r"\[conv2d\] input", (3, 3), W),
    wrong("weight rank", ValueError, r"\[conv2d\] weight", X, (4, 3, 3)),
    wrong("bias", ValueError, r"\[conv2d\] bias: expected shape \(4,\)", X, W, (5,)),
    wrong("padding negative", ValueError, r"\[conv2d\] padding", X, W, padding=-1),
    wrong("padding overflow", ValueError, r"\[conv2d\]", X, W, padding=2**62),
    wrong("padding huge", ValueError, r"\[conv2d\]|overflow", X, W, padding=2**40),
    wrong("dilation overflow", ValueError, r"\[conv2d\]", X, W, dilation=2**62),
    wrong("same strided", ValueError, r"\[conv2d\] padding: 'same'", X, W, stride=2, padding="same"),
    wrong("padding name", ValueError, r"\[conv2d\] padding", X, W, padding="full"),
    wrong("empty image", ValueError, r"\[conv2d\] input", (2, 3, 0, 8), W, padding=3),
    wrong("output padding", ValueError, r"output_padding", X, (3, 4, 3, 3), op="conv_transpose2d", output_padding=1),
    wrong("output size", ValueError, r"padding", (1, 3, 1, 1), (3, 4, 3, 3), op="conv_transpose2d", padding=2),
    wrong("stride overflow", ValueError, r"conv_transpose2d", X, (3, 4, 3, 3), op="conv_transpose2d", stride=2**62),
    ErrorCase(
        "conv2d/dtype",
        lambda T: functional(T).conv2d(T.from_numpy(np.ones(X)), T.from_numpy(np.ones(W, np.float32))),
        TypeError,
        r"\[conv2d\] weight: expected float64",
    ),
    ErrorCase(
        "conv2d/integer",
        lambda T: functional(T).conv2d(T.from_numpy(np.ones(X, np.int64)), T.from_numpy(np.ones(W, np.int64))),
        TypeError,
        r"\[conv2d\] input: expected a floating",
    ),
]
