"""``conv_activation``: a convolution whose result is scaled, shifted and rectified on its way to memory, beside the same operations one
after the other, for every algorithm, layout and instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import pydlx

F = pydlx.nn.functional
CONV = (F.conv1d, F.conv2d, F.conv3d)


def guarded(array, dtype=pydlx.float32):
    """A tensor that starts at an odd element of a buffer of NaNs: what is read outside of it shows in the result."""
    buffer = np.full(array.size + 35, np.nan)
    buffer[17 : 17 + array.size] = array.reshape(-1)
    return pydlx.from_numpy(buffer).to(dtype)[17 : 17 + array.size].reshape(array.shape)


# input, weight, arguments
ROWS = {
    # F(4x4, 3x3): tiles of 4 x 4, panels of 64, 16 or 8 output channels; other kernels, depth, dilation
    **{
        f"winograd {k} {h}x{w}": ((3, 16, h, w), (k, 16, 3, 3), {"padding": 1})
        for k, (h, w) in itertools.product((16, 17, 65), ((8, 8), (9, 11)))
    },
    "winograd groups": ((4, 32, 12, 12), (40, 16, 3, 3), {"padding": 1, "groups": 2}),
    "winograd 5x5": ((3, 16, 9, 10), (33, 16, 5, 5), {"padding": 2}),
    "winograd 1x3": ((3, 32, 259), (33, 32, 3), {"padding": 1}),
    "winograd 3x3x3": ((2, 16, 4, 9, 10), (20, 16, 3, 3, 3), {"padding": 1}),
    "winograd strided 33": ((4, 32, 14, 16), (33, 32, 3, 3), {"padding": 1, "stride": 2}),
    "winograd strided groups": ((4, 64, 15, 17), (130, 32, 3, 3), {"padding": (0, 1), "stride": 2, "groups": 2}),
    "winograd strided deep": ((1, 132, 9, 11), (130, 132, 3, 3), {"padding": 1, "stride": 2}),
    "dilated": ((2, 16, 14, 15), (24, 16, 3, 3), {"padding": 2, "dilation": 2}),
    # products over planes: panels of 64 columns inside and across images, blocks of 512 channels, 48 rows, strides
    **{
        f"pointwise {k} {h}x{w}": ((3, 16, h, w), (k, 16, 1, 1), {})
        for k, (h, w) in itertools.product((8, 47, 48, 49), ((7, 9), (8, 8), (23, 23)))
    },
    "pointwise deep": ((2, 514, 5, 13), (9, 514, 1, 1), {}),
    "pointwise deep, large": ((1, 514, 24, 24), (50, 514, 1, 1), {}),
    "pointwise strided groups": ((2, 32, 10, 13), (24, 16, 1, 1), {"stride": (3, 1), "groups": 2}),
    # bordered planes, rows of 15 to 17 and 33 columns, one, two and four channels at a time, whole small planes
    **{
        f"depthwise {h}x{w}": ((2, 6, h, w), (6, 1, 3, 3), {"padding": 1, "groups": 6})
        for h, w in itertools.product((1, 3, 4, 9), (7, 15, 16, 17, 33))
    },
    "depthwise strided": ((2, 6, 9, 31), (12, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 6}),
    "depthwise 7x7": ((2, 20, 12, 14), (20, 1, 7, 7), {"padding": 3, "groups": 20}),
    "depthwise 5x5 wide": ((2, 17, 30, 40), (17, 1, 5, 5), {"padding": 2, "groups": 17}),
    "narrow groups": ((3, 10, 9, 18), (14, 5, 3, 3), {"padding": 1, "groups": 2}),
    # taps by output channels
    **{f"stem {k}": ((2, 3, 9, 10), (k, 3, 3, 3), {"padding": 1, "stride": 2}) for k in (16, 17, 32, 48, 64, 65)},
    "stem 7x7": ((2, 3, 33, 41), (64, 3, 7, 7), {"padding": 3, "stride": 2}),
    "stem groups": (
        (2, 6, 12, 13),
        (40, 3, 3, 5),
        {"padding": (0, 4), "dilation": (2, 1), "stride": (1, 3), "groups": 2},
    ),
    # pixel-major bands
    **{
        f"direct {c} {k}": ((2, c, 9, 10), (k, c, 3, 3), {"padding": 1, "stride": 2})
        for c, k in itertools.product((8, 17), (8, 31, 48, 65))
    },
    "direct groups": ((2, 27, 9, 9), (36, 9, 3, 3), {"stride": 2, "groups": 3}),
    "direct 3 axes": ((1, 12, 4, 6, 5), (20, 12, 2, 2, 2), {"stride": 3, "padding": (3, 1, 0)}),
    "direct deep": ((1, 150, 6, 7), (20, 150, 5, 5), {"padding": 2, "stride": 2}),
    # implicit products of panels, and rows
    "general": ((2, 5, 12, 13), (7, 5, 3, 3), {"padding": 1, "stride": 2}),
    "general deep": ((2, 7, 12, 13), (9, 7, 9, 9), {"padding": 4}),
    "general 3 axes": ((2, 3, 4, 5, 9), (5, 3, 3, 3, 3), {"padding": 1}),
    "rows": ((2, 3, 4, 5, 35), (3, 1, 3, 3, 3), {"padding": 1, "groups": 3}),
    "rows strided": ((2, 2, 600), (2, 1, 5), {"padding": 2, "stride": 2, "groups": 2}),
}


def operands(row, seed=0):
    x, w, how = row
    rng = np.random.default_rng([seed, *x, *w])
    arrays = [rng.standard_normal(s) for s in (x, w, w[:1], w[:1])]
    return arrays, how


def separate(x, w, bias, scale, how, activation):
    """One operation after the other."""
    y = CONV[x.dim() - 3](x, w, **how) if scale is not None else CONV[x.dim() - 3](x, w, bias, **how)
    along = (-1, *[1] * (x.dim() - 2))
    if scale is not None:
        y = y * scale.reshape(along)
        if bias is not None:
            y = y + bias.reshape(along)
    return pydlx.relu(y) if activation == "relu" else y


def check_scaled(row, layout=None, dtype=pydlx.float32, limit=1.0):
    """With a scale: as close to float64 as the convolution itself; without one bit for bit what the two operations give."""
    arrays, how = operands(row)
    x, w, bias, scale = (guarded(a, dtype) for a in arrays)
    if layout is not None:
        x, w = x.to(memory_format=layout), w.to(memory_format=layout)
    wide = [t.double() for t in (x, w, bias, scale)]
    with pydlx.no_grad():
        for b in (bias, None):
            got = pydlx.nn.functional.conv_activation(x, w, b, activation="relu", **how)
            want = separate(x, w, b, None, how, "relu")
            assert np.array_equal(got.float().numpy(), want.float().numpy())
            assert got.stride() == want.stride() and (got >= 0).all()
        for activation, b in (("relu", 2), ("none", 2), ("relu", None)):
            got = pydlx.nn.functional.conv_activation(
                x, w, None if b is None else bias, scale=scale, activation=activation, **how
            )
            want = separate(*wide[:2], None if b is None else wide[2], wide[3], how, activation)
            root = float((want * want).mean() ** 0.5)
            error = float((got.double() - want).abs().max()) / root
            assert got.shape == want.shape and error < limit * 6e-5, (activation, b, error)


@pytest.mark.parametrize("name", ROWS)
def test_values(isa, name):
    check_scaled(ROWS[name])


@pytest.mark.parametrize("name", [n for n, (x, *_) in ROWS.items() if len(x) == 4])
def test_channels_last(isa, name):
    check_scaled(ROWS[name], layout=pydlx.channels_last)


@pytest.mark.parametrize(
    "name",
    [
        "winograd 16 9x11",
        "winograd strided 33",
        "direct 17 31",
        "rows",
        "general",
        "depthwise 9x17",
        "pointwise 47 7x9",
    ],
)
def test_float64_and_highest(isa, name):
    check_scaled(ROWS[name], dtype=pydlx.float64, limit=1e-9)
    pydlx.set_float32_matmul_precision("highest")
    try:
        check_scaled(ROWS[name])
    finally:
        pydlx.set_float32_matmul_precision("high")


@pytest.mark.parametrize("dtype", [pydlx.bfloat16, pydlx.float16], ids=str)
@pytest.mark.parametrize(
    "name",
    ["winograd 65 9x11", "direct 17 31", "general", "stem 65", "pointwise 49 23x23", "depthwise 9x17", "direct deep"],
)
def test_halves(isa, name, dtype):
    """One rounding of the result; without a scale two operations round once, too."""
    check_scaled(ROWS[name], dtype=dtype, limit=1.01 * pydlx.finfo(dtype).eps * 10 / 6e-5)


def test_values_that_are_no_numbers():
    x, w = pydlx.zeros(1, 16, 8, 8), pydlx.ones(16, 16, 1, 1)
    x[0, 0, 0, 0], x[0, 1, 0, 1], x[0, 2, 0, 2] = float("nan"), float("inf"), float("-inf")
    for options in ({}, {"scale": pydlx.full((16,), 2.0)}):
        y = pydlx.nn.functional.conv_activation(x, w, activation="relu", **options)
        assert y[0, :, 0, 0].isnan().all() and (y[0, :, 0, 1] == float("inf")).all() and (y[0, :, 0, 2] == 0).all()
    y = pydlx.nn.functional.conv_activation(x, w, scale=pydlx.full((16,), 2.0))
    assert (y[0, :, 0, 2] == float("-inf")).all()


def test_any_number_of_threads():
    before = pydlx.get_num_threads()
    try:
        for name in (
            "winograd 17 9x11",
            "winograd strided deep",
            "pointwise 49 23x23",
            "depthwise 9x33",
            "stem 65",
            "direct 17 65",
            "general",
        ):
            arrays, how = operands(ROWS[name])
            x, w, bias, scale = map(guarded, arrays)
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                for layout in (pydlx.contiguous_format, pydlx.channels_last):
                    y = pydlx.nn.functional.conv_activation(
                        x.to(memory_format=layout), w, bias, scale=scale, activation="relu", **how
                    )
                    results.add((layout, y.contiguous().numpy().tobytes()))
            assert len(results) == 2, name
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("name", ["winograd 17 9x11", "general 3 axes", "depthwise strided", "pointwise 47 7x9"])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients(name, scaled):
    """Of first and second order, those of the operations one after the other."""
    arrays, how = operands(ROWS[name])

    def orders(function):
        leaves = [guarded(a, pydlx.float64).requires_grad_() for a in (arrays if scaled else arrays[:3])]
        y = function(*leaves)
        weights = pydlx.from_numpy(np.random.default_rng(4).standard_normal(y.shape))
        first = pydlx.autograd.grad(y, leaves, weights, create_graph=True)
        along = [pydlx.from_numpy(np.random.default_rng(5).standard_normal(t.shape)) for t in first]
        total = sum((g * v).sum() for g, v in zip(first, along, strict=True))
        return [y, *first, *pydlx.autograd.grad(total, leaves[:2])]

    fused = orders(
        lambda x, w, b, s=None: pydlx.nn.functional.conv_activation(x, w, b, scale=s, activation="relu", **how)
    )
    plain = orders(lambda x, w, b, s=None: separate(x, w, b, s, how, "relu"))
    for a, b in zip(fused, plain, strict=True):
        a, b = a.detach().numpy(), b.detach().numpy()
        assert a.shape == b.shape and np.abs(a - b).max() <= 1e-12 * (1 + np.abs(b).max())


def test_writing_to_the_result_before_the_gradient_is_an_error():
    x = pydlx.randn(2, 3, 8, 8, requires_grad=True)
    y = pydlx.nn.functional.conv_activation(x, pydlx.randn(4, 3, 3, 3), activation="relu")
    y.mul_(2)
    with pytest.raises(RuntimeError, match="in-place|modified"):
        y.sum().backward()


def test_the_scale_alone_wants_a_gradient():
    arrays, how = operands(ROWS["direct 8 8"])
    x, w, bias, scale = (guarded(a, pydlx.float64) for a in arrays)
    scale.requires_grad_()
    y = pydlx.nn.functional.conv_activation(x, w, bias, scale=scale, activation="relu", **how)
    (got,) = pydlx.autograd.grad(y.sum(), scale)
    (want,) = pydlx.autograd.grad(separate(x, w, bias, scale, how, "relu").sum(), scale)
    assert np.allclose(got.numpy(), want.numpy(), rtol=1e-12)


def test_padding_names_and_images_without_a_batch():
    x, w, s = pydlx.randn(5, 9, 11), pydlx.randn(7, 5, 3, 2), pydlx.randn(7)
    for padding in ("same", "valid", 1, (2, 0)):
        got = pydlx.nn.functional.conv_activation(x, w, scale=s, padding=padding, activation="relu")
        want = separate(x[None], w, None, s, {"padding": padding}, "relu")[0]
        assert got.shape == want.shape and np.allclose(got.numpy(), want.numpy(), atol=1e-5)
    assert pydlx.nn.functional.conv_activation(pydlx.zeros(0, 5, 9, 9), w, scale=s).shape == (0, 7, 7, 8)


def test_autocast():
    x, w, b, s = pydlx.randn(2, 16, 8, 8), pydlx.randn(8, 16, 3, 3), pydlx.randn(8), pydlx.randn(8)
    with pydlx.autocast("cpu", dtype=pydlx.bfloat16):
        y = pydlx.nn.functional.conv_activation(x, w, b, scale=s, activation="relu")
    assert y.dtype == pydlx.bfloat16


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, r"\[conv_activation\] activation: expected 'none' or 'relu', got 'gelu'", {"activation": "gelu"}),
        (ValueError, r"\[conv_activation\] scale: expected shape \(4,\)", {"scale": pydlx.ones(5)}),
        (ValueError, r"\[conv_activation\] scale: expected shape \(4,\)", {"scale": pydlx.ones(4, 1)}),
        (TypeError, r"\[conv_activation\] scale: expected .*float32", {"scale": pydlx.ones(4).double()}),
        (ValueError, r"\[conv_activation\] weight: expected 3 to 5 axes", {"weight": pydlx.ones(4, 3)}),
        (ValueError, r"\[conv_activation\] input: expected 5 channels", {"weight": pydlx.ones(4, 5, 3, 3)}),
        (ValueError, r"\[conv_activation\] bias", {"bias": pydlx.ones(3)}),
        (ValueError, r"\[conv_activation\] stride", {"stride": 0}),
        (ValueError, r"\[conv_activation\] stride", {"stride": (1, 1, 1)}),
        (ValueError, r"\[conv_activation\] padding", {"padding": -1}),
        (ValueError, r"\[conv_activation\] padding", {"padding": "full"}),
        (ValueError, r"\[conv_activation\] padding: 'same' needs stride 1", {"padding": "same", "stride": 2}),
        (ValueError, r"\[conv_activation\] groups", {"groups": 0}),
        (ValueError, r"\[conv_activation\] dilation|\[conv_activation\] weight", {"dilation": 9}),
    ],
)
def test_misuse(error, match, change):
    arguments = {"input": pydlx.ones(2, 3, 8, 8), "weight": pydlx.ones(4, 3, 3, 3), **change}
    with pytest.raises(error, match=match):
        pydlx.nn.functional.conv_activation(**arguments)
