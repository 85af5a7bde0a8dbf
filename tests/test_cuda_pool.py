"""Pooling on the GPU: windows that are unrolled and others, neighbouring channels by packs, gradients that gather, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx.nn import functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

DTYPES = {"float64": 1e-13, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": (3, 2), "stride": (1, 3), "padding": (1, 0)},
    {"kernel_size": 5, "stride": 3, "padding": 2},
]
PLACES = [
    ((2, 3, 9, 11), False),
    ((2, 3, 9, 11), True),
    ((2, 16, 9, 11), True),
    ((1, 20, 7, 8), True),
    ((3, 24, 8, 5), False),
]


def check(fn, x, dtype, last, bound):
    gpu = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()
    if last:
        gpu = gpu.to(memory_format=pydlx.channels_last)
    cpu = gpu.detach().cpu().double().requires_grad_()
    gpu = gpu.detach().requires_grad_()
    got, want = fn(gpu), fn(cpu)
    got, want = (v if isinstance(v, tuple) else (v,) for v in (got, want))
    for a, b in zip(got[1:], want[1:], strict=True):
        assert (a.cpu().numpy() == b.numpy()).all()
    if last:
        assert got[0].is_contiguous(memory_format=pydlx.channels_last)
    g = pydlx.tensor(np.random.default_rng(2).standard_normal(want[0].shape)).to(gpu.dtype)
    got[0].backward(g.cuda())
    want[0].backward(g.double())
    for a, b in ((got[0].detach(), want[0].detach()), (gpu.grad, cpu.grad)):
        np.testing.assert_allclose(a.cpu().double().numpy(), b.numpy(), rtol=bound, atol=2 * bound)
    again = fn(gpu)
    before, gpu.grad = gpu.grad, None
    (again[0] if isinstance(again, tuple) else again).backward(g.cuda())
    assert (gpu.grad == before).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "last"), PLACES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_max_pool(window, sizes, last, dtype):
    x = np.random.default_rng(1).integers(-9, 9, sizes) * 1.0  # equal ones are many: the first wins
    check(lambda t: F.max_pool2d(t, **window), x, dtype, last, DTYPES[dtype])
    check(lambda t: F.max_pool2d(t, **window, return_indices=True), x, dtype, last, DTYPES[dtype])
    check(lambda t: F.max_pool2d(t, 2, 1, 1, dilation=2, return_indices=True), x, dtype, last, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "last"), PLACES, ids=str)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_average_pool(window, sizes, last, dtype):
    x = np.random.default_rng(1).standard_normal(sizes)
    for options in ({}, {"count_include_pad": False}, {"divisor_override": 3}):
        check(lambda t, o=options: F.avg_pool2d(t, **window, **o), x, dtype, last, 2 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sizes", "last"), PLACES, ids=str)
@pytest.mark.parametrize("out", [1, 3, (2, 5), (4, 4), 12])
def test_adaptive_pools(out, sizes, last, dtype):
    x = np.random.default_rng(1).standard_normal(sizes)
    check(lambda t: F.adaptive_avg_pool2d(t, out), x, dtype, last, 2 * DTYPES[dtype])
    check(lambda t: F.adaptive_max_pool2d(t, out, return_indices=True), x, dtype, last, DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_axis_and_three(dtype):
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 6, 7))
    check(lambda t: F.max_pool3d(t, 2, 1, return_indices=True), x, dtype, False, DTYPES[dtype])
    check(lambda t: F.avg_pool3d(t, 3, 2, 1), x, dtype, False, 4 * DTYPES[dtype])
    check(lambda t: F.max_pool3d(t, (1, 3, 3), (2, 2, 2)), x, dtype, False, DTYPES[dtype])
    check(lambda t: F.max_pool1d(t.flatten(2), 3, 2, return_indices=True), x, dtype, False, DTYPES[dtype])
    check(lambda t: F.avg_pool1d(t.flatten(2), 5, 1, 2), x, dtype, False, 2 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("last", [False, True])
def test_what_is_not_finite(last, dtype):
    x = np.random.default_rng(1).standard_normal((2, 16, 8, 8))
    x[0, 1] = -np.inf
    x[0, 2, 3, 3] = np.inf
    x[1, 3, 2:4, 2:5] = np.nan
    for options in (
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 4, "padding": 2},
    ):
        gpu = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()
        gpu = gpu.to(memory_format=pydlx.channels_last) if last else gpu
        got = F.max_pool2d(gpu, **options, return_indices=True)
        want = F.max_pool2d(gpu.cpu().double(), **options, return_indices=True)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.cpu().double().numpy(), b.double().numpy())


def test_nothing_to_pool():
    for sizes in ((0, 3, 8, 8), (2, 0, 8, 8)):
        x = pydlx.ones(*sizes, device="cuda").requires_grad_()
        for y in (F.max_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1)):
            y.sum().backward()
            assert y.shape[:2] == sizes[:2] and x.grad.shape == sizes


@pytest.mark.parametrize("last", [False, True])
def test_second_gradients(last):
    x = pydlx.tensor(np.random.default_rng(1).standard_normal((2, 16, 6, 6))).cuda()
    x = x.to(memory_format=pydlx.channels_last) if last else x

    def slopes(t):
        t = t.detach().requires_grad_()
        y = F.max_pool2d(t, 3, 2, 1)
        (g,) = pydlx.autograd.grad((y * y).sum(), t, create_graph=True)
        (h,) = pydlx.autograd.grad((g * g).sum(), t)
        return g, h

    for a, b in zip(slopes(x), slopes(x.cpu()), strict=True):
        np.testing.assert_allclose(a.detach().cpu().numpy(), b.detach().numpy(), rtol=1e-12)


def test_a_skewed_image():
    """Without packs, as it begins between them."""
    t = pydlx.randn(2 * 16 * 6 * 6 + 1, device="cuda")[1:].reshape(2, 6, 6, 16).permute(0, 3, 1, 2)
    np.testing.assert_array_equal(F.max_pool2d(t, 3, 2).cpu().numpy(), F.max_pool2d(t.cpu(), 3, 2).numpy())
