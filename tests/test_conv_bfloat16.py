"""Convolution of bfloat16 against float64: every pass, with operands whose surroundings would spoil the result, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx
import pydlx.nn.functional as F

ISAS = pydlx._C.build_info()["cpu_isas"]


@pytest.fixture(params=ISAS[-2:])
def isa(request):
    pydlx._C._set_cpu_isa(request.param)
    yield request.param
    pydlx._C._set_cpu_isa(ISAS[-1])


def guarded(rng, shape):
    """Rounded values, and the tensor at an odd element of a buffer of NaNs."""
    n = int(np.prod(shape))
    buffer = np.full(n + 70, np.nan)
    buffer[35 : 35 + n] = rng.standard_normal(n)
    t = pydlx.from_numpy(buffer).to(pydlx.bfloat16)[35 : 35 + n].reshape(shape)
    return torch.from_numpy(t.double().numpy()), t


def check(got, want, scale, terms):
    """One rounding of a float32 sum of `terms` products whose absolute values add up to `scale`."""
    assert got.dtype == pydlx.bfloat16 and tuple(got.shape) == tuple(want.shape)
    limit = 2.0**-8 * 1.01 * want.abs() + 1.2e-7 * (4 + terms**0.5) * scale + 1e-30
    error = (torch.from_numpy(got.double().numpy()) - want).abs()
    assert (error <= limit).all(), f"error {float(error.max())}"


def channels_last(t):
    """The values in channels-last order, between NaNs."""
    n = t.numel()
    buffer = pydlx.full((n + 70,), float("nan"), dtype=t.dtype)
    buffer[33 : 33 + n] = t.permute(0, 2, 3, 1).reshape(-1)
    return buffer[33 : 33 + n].reshape(t.shape[0], *t.shape[2:], t.shape[1]).permute(0, 3, 1, 2)


def assert_passes_agree(n, cin, cout, size, kernel, groups=1, seed=0, last=(), **how):
    """``last``: which of "x", "w" (channels-last operands) there are."""
    rng = np.random.default_rng(seed)
    x64, x = guarded(rng, (n, cin * groups, *size))
    w64, w = guarded(rng, (cout * groups, cin, *kernel))
    b64, b = guarded(rng, (cout * groups,))
    x, w = channels_last(x) if "x" in last else x, channels_last(w) if "w" in last else w
    conv = torch.nn.functional.conv2d
    y64 = conv(x64.requires_grad_(), w64.requires_grad_(), b64, groups=groups, **how)
    for t in (x, w):
        t.requires_grad_()
    y = pydlx.nn.functional.conv2d(x, w, b, groups=groups, **how)
    terms = cin * kernel[0] * kernel[1]
    ax, aw = x64.detach().abs().requires_grad_(), w64.detach().abs().requires_grad_()
    scale = conv(ax, aw, b64.abs(), groups=groups, **how)
    check(y.detach(), y64.detach(), scale.detach(), terms)
    g64, g = guarded(rng, tuple(y.shape))
    if "x" in last:
        assert y.is_contiguous(memory_format=pydlx.channels_last)
        g = channels_last(g)
    dx, dw = pydlx.autograd.grad([y], [x, w], [g])
    dx64, dw64 = torch.autograd.grad([y64], [x64, w64], [g64])
    dxs, dws = torch.autograd.grad([scale], [ax, aw], [g64.abs()])
    check(dx, dx64, dxs, cout * kernel[0] * kernel[1])
    check(dw, dw64, dws, n * y.shape[2] * y.shape[3])


@pytest.mark.parametrize(
    ("n", "cin", "cout", "size", "kernel", "how"),
    [
        (1, 16, 8, (1, 1), (1, 1), {}),
        (2, 17, 13, (5, 7), (1, 1), {}),
        (3, 64, 65, (7, 7), (1, 1), {}),
        (1, 70, 40, (9, 15), (1, 1), {"stride": 2}),
        (2, 33, 24, (7, 7), (3, 3), {"padding": 1}),
        (9, 40, 24, (7, 7), (3, 3), {"padding": 1}),
        (2, 16, 24, (13, 11), (3, 3), {"padding": 1, "stride": 2}),
        (2, 16, 24, (14, 12), (3, 3), {"padding": (1, 2), "stride": (2, 1)}),
        (2, 9, 8, (14, 17), (3, 2), {"stride": (1, 3), "dilation": (2, 1)}),
        (1, 3, 16, (37, 41), (7, 7), {"padding": 3, "stride": 2}),
        (2, 12, 10, (20, 20), (5, 5), {"padding": 2}),
        (2, 8, 8, (9, 9), (3, 3), {"padding": 2, "dilation": 2}),
        (1, 8, 9, (6, 6), (2, 2), {"stride": 4}),  # pixels and taps that nothing sees
        (3, 33, 12, (19, 2), (3, 3), {"stride": 3, "padding": (3, 2), "dilation": 2}),  # taps that see borders only
        (2, 8, 8, (1, 1), (3, 3), {"stride": 2, "padding": 1}),
        (1, 16, 9, (5, 40), (1, 5), {"padding": (0, 4)}),
        (1, 300, 20, (6, 6), (3, 3), {"padding": 1}),  # more words than a block of K
        (1, 240, 16, (5, 5), (3, 3), {"stride": 2}),
        (1, 16, 260, (6, 6), (3, 3), {"padding": 1}),  # the same in the input gradient
        (2, 20, 16, (20, 20), (3, 3), {"padding": 1}),  # left to Winograd
        (33, 16, 16, (4, 4), (3, 3), {}),  # more pixels than a block of the weight gradient
        (70, 16, 9, (1, 1), (1, 1), {}),  # every pixel of a tile in an image of its own
        (3, 130, 256, (7, 7), (3, 3), {"padding": 1}),  # two panels of pixels, two blocks of K
        (2, 9, 8, (5, 90), (3, 3), {"stride": 2, "padding": 1}),  # pixels further apart than a permutation reaches
        (2, 10, 11, (40, 6), (3, 3), {"stride": (1, 2), "dilation": (1, 2)}),
        (2, 8, 8, (3, 33), (1, 4), {"stride": 20, "padding": (0, 3)}),
        (1, 16, 600, (5, 5), (3, 3), {"padding": 1}),  # more channels than sums of a weight gradient
        (2, 1, 130, (9, 23), (2, 9), {"padding": (1, 0), "stride": (1, 4)}),  # few channels: pairs of lines
        (5, 3, 64, (120, 117), (7, 7), {"padding": 3, "stride": 2}),
        (2, 5, 9, (9, 8), (3, 2), {"padding": (2, 1), "dilation": (2, 1)}),
        (1, 13, 40, (33, 71), (3, 3), {"stride": (2, 1), "dilation": (3, 1)}),
    ],
)
def test_shapes(isa, n, cin, cout, size, kernel, how):
    assert_passes_agree(n, cin, cout, size, kernel, **how)


@pytest.mark.parametrize("last", ["x", "xw"])
@pytest.mark.parametrize(
    ("n", "cin", "cout", "size", "kernel", "how"),
    [
        (2, 17, 13, (5, 7), (1, 1), {}),
        (3, 64, 65, (7, 7), (1, 1), {}),  # read in place
        (1, 70, 40, (9, 15), (1, 1), {"stride": 2}),
        (2, 33, 24, (7, 7), (3, 3), {"padding": 1}),
        (9, 40, 70, (7, 7), (3, 3), {"padding": 1}),
        (2, 16, 24, (13, 11), (3, 3), {"padding": 1, "stride": 2}),
        (2, 31, 24, (14, 12), (3, 3), {"padding": (1, 2), "stride": (2, 1)}),
        (2, 19, 16, (14, 17), (3, 2), {"stride": (1, 3), "dilation": (2, 1)}),
        (1, 16, 17, (6, 6), (2, 2), {"stride": 4}),  # pixels and taps that nothing sees
        (3, 33, 18, (19, 2), (3, 3), {"stride": 3, "padding": (3, 2), "dilation": 2}),
        (70, 16, 16, (1, 1), (3, 3), {"stride": 2, "padding": 1}),
        (1, 300, 150, (6, 6), (3, 3), {"padding": 1}),  # blocks of K, several panels
        (1, 16, 300, (6, 6), (3, 3), {"padding": 1, "groups": 2}),
        (2, 20, 16, (20, 20), (3, 3), {"padding": 1}),  # left to Winograd
        (11, 16, 16, (6, 6), (3, 3), {}),  # an odd rest of pixels in the weight gradient
        (2, 3, 16, (37, 41), (7, 7), {"padding": 3, "stride": 2}),  # few channels: rows of the kernel are taps
        (2, 5, 9, (9, 8), (3, 2), {"padding": (2, 1), "dilation": (2, 1)}),
        (3, 15, 70, (4, 9), (1, 5), {"padding": (0, 4), "stride": (3, 1)}),
        (1, 4, 8, (11, 3), (5, 2), {"padding": (0, 9)}),  # taps that see borders only
        (2, 1, 130, (9, 23), (2, 9), {"padding": (1, 0), "stride": (1, 4)}),  # three panels, outputs further apart
        (5, 3, 64, (120, 117), (7, 7), {"padding": 3, "stride": 2}),  # sums in chunks, which share images
        (1, 13, 40, (33, 30), (3, 3), {"stride": (2, 1), "dilation": (3, 1)}),
        (1, 3, 8, (1, 260), (1, 3), {}),
        (9, 70, 67, (41, 37), (1, 1), {}),  # a weight gradient in chunks of pixels, of which the last is odd
        (2, 17, 40, (61, 63), (3, 3), {"padding": 1, "groups": 2}),
    ],
)
def test_channels_last(isa, last, n, cin, cout, size, kernel, how):
    assert_passes_agree(n, cin, cout, size, kernel, last=last, **how)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(7, 5), (1, 13)])
def test_channels_last_scale(isa, relu, size):
    rng = np.random.default_rng(5)
    x64, x = guarded(rng, (3, 34, *size))
    w64, w = guarded(rng, (70, 34, 3, 3))
    b64, b = guarded(rng, (70,))
    s64, s = guarded(rng, (70,))
    how = {"padding": 1, "stride": 2}
    activation = "relu" if relu else "none"
    got = pydlx.nn.functional.conv_activation(channels_last(x), w, b, activation=activation, scale=s, **how)
    conv = torch.nn.functional.conv2d
    want = conv(x64, w64, None, **how) * s64[:, None, None] + b64[:, None, None]
    scale = conv(x64.abs(), w64.abs(), None, **how) * s64.abs()[:, None, None] + b64.abs()[:, None, None]
    check(got, want.relu() if relu else want, scale, 34 * 9)


def test_groups(isa):
    assert_passes_agree(2, 16, 12, (9, 9), (3, 3), groups=3, stride=2, padding=1)
    assert_passes_agree(3, 8, 8, (6, 7), (1, 1), groups=2)


def test_transposed(isa):
    rng = np.random.default_rng(3)
    x64, x = guarded(rng, (2, 24, 5, 6))
    w64, w = guarded(rng, (24, 16, 3, 3))
    b64, b = guarded(rng, (16,))
    how = {"stride": 2, "padding": 1, "output_padding": 1}
    got = pydlx.nn.functional.conv_transpose2d(x, w, b, **how)
    conv = torch.nn.functional.conv_transpose2d
    check(got, conv(x64, w64, b64, **how), conv(x64.abs(), w64.abs(), b64.abs(), **how), 24 * 9)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("outputs", [6, 7])
def test_infinity_stays_with_the_taps_that_see_it(isa, outputs, last):
    """In the last column that anything sees, beside odd rows of taps and of outputs."""
    x = pydlx.ones(1, 3, 9, outputs + 2, dtype=pydlx.bfloat16)
    x[..., outputs + 1 :] = float("inf")
    w = pydlx.ones(16, 3, 3, 3, dtype=pydlx.bfloat16)
    if last:
        x, w = channels_last(x), channels_last(w)
    w.requires_grad_()
    y = pydlx.nn.functional.conv2d(x, w)
    assert (y[..., : outputs - 1] == 27).all() and (y[..., outputs - 1] == float("inf")).all()
    y.backward(pydlx.ones_like(y))
    assert (w.grad[..., :2] == 7 * outputs).all() and (w.grad[..., 2] == float("inf")).all()


@pytest.mark.parametrize(
    ("last", "channels", "size"), [(False, 40, 15), (False, 3, 177), (True, 40, 15), (True, 24, 77), (True, 3, 177)]
)
def test_thread_counts_agree(isa, last, channels, size):
    rng = np.random.default_rng(4)
    _, x = guarded(rng, (3, channels, size, size))
    _, w = guarded(rng, (50, channels, 5, 5) if channels == 3 else (50, channels, 3, 3))
    if last:
        x, w = channels_last(x), channels_last(w)
    x.requires_grad_()
    w.requires_grad_()
    before = pydlx.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 3, 5):
            pydlx.set_num_threads(threads)
            y = pydlx.nn.functional.conv2d(x, w, stride=2, padding=1)
            grads = pydlx.autograd.grad([y], [x, w], [pydlx.ones_like(y)])
            results.add(b"".join(t.float().numpy().tobytes() for t in (y.detach(), *grads)))
    finally:
        pydlx.set_num_threads(before)
    assert len(results) == 1


@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels last"])
@pytest.mark.parametrize(("channels", "size"), [(16, 7), (64, 8), (260, 5)])
def test_kept_weights(isa, channels, size, last):
    """Without gradients Winograd's algorithm takes smaller images, with weights that it keeps; writes to them count."""
    rng = np.random.default_rng(8)
    x = pydlx.tensor(rng.standard_normal((33, channels, size, size + 1))).bfloat16()
    x = channels_last(x) if last else x
    weight = pydlx.tensor(rng.standard_normal((48, channels, 3, 3)) / np.sqrt(9 * channels)).bfloat16()

    def check():
        want = F.conv2d(x.double(), weight.double(), padding=1).numpy()
        with pydlx.no_grad():
            for _ in range(2):
                y = F.conv2d(x, weight, padding=1)
                assert y.dtype == pydlx.bfloat16 and y.is_contiguous(memory_format=pydlx.channels_last) == last
                error = np.abs(y.double().numpy() - want)
                assert (error <= 2**-8 * np.abs(want) + 2e-4).all()

    check()
    weight.mul_(2)
    check()
    weight.data[3, 4, 1, 1] = 7.0
    check()
    weight.view(pydlx.int16).numpy()[:] += 1
    check()
    weight = weight.transpose(2, 3)
    check()
