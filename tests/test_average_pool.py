"""Average pooling: windows of every kind against float64, values and gradients, and values that swallow others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx
import pydlx.nn.functional as F

SLIDING = [
    (2,),
    (2, 2, 0, True),
    (2, 2, 0, False, False),
    (2, 2, 1),
    ((3, 2), 2, (1, 0)),
    ((3, 2), (1, 2), (1, 0), False, False),
    ((1, 2), (1, 2)),
    (3,),
    (3, 2, 1),
    (3, 1, 1, False, False),
    (5, 3, 2),
    ((2, 4), (2, 5)),
]
WIDTHS = (4, 5, 8, 9, 15, 16, 17, 31, 33, 35, 64, 67, 129, 300)


def assert_close(name, x, *options, **keywords):
    """Within rounding of the window's magnitudes; where a window holds infinities or NaN, the same of them."""
    reference = getattr(torch.nn.functional, name)
    leaf = torch.from_numpy(x).double().requires_grad_()
    want = reference(leaf, *options, **keywords)
    scale = reference(torch.from_numpy(x).double().abs(), *options, **keywords).numpy()
    ours = pydlx.from_numpy(x).requires_grad_()
    got = getattr(F, name)(ours, *options, **keywords)
    eps = np.finfo(x.dtype).eps
    difference = np.abs(got.detach().numpy() - want.detach().numpy())
    assert (difference <= 8 * eps * scale + np.finfo(x.dtype).smallest_subnormal).all()
    cotangent = np.random.default_rng(1).integers(-8, 9, tuple(got.shape)).astype(x.dtype)
    got.backward(pydlx.from_numpy(cotangent))
    want.backward(torch.from_numpy(cotangent).double())
    np.testing.assert_allclose(ours.grad.numpy(), leaf.grad.numpy(), rtol=0, atol=64 * eps)


def images(shape, dtype):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", WIDTHS)
def test_sliding_windows(width, dtype, isa):
    for options in SLIDING:
        if width > 4 or options[0] != 5:
            assert_close("avg_pool2d", images((2, 3, 7, width), dtype), *options)
    assert_close("avg_pool2d", images((2, 1, 7, width), dtype), 2, divisor_override=3)
    assert_close("avg_pool1d", images((2, 3, width), dtype), 2)
    assert_close("avg_pool1d", images((2, 3, width), dtype), 3, 2, 1)
    assert_close("avg_pool3d", images((1, 2, 5, 6, width), dtype), 2)
    assert_close("avg_pool3d", images((1, 2, 5, 6, width), dtype), (3, 1, 2), (1, 2, 2), (1, 0, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adaptive_windows(dtype, isa):
    for width in (1, 4, 28, 33, 300, 1500):
        for size in (1, 2, 6, 7, 130):
            assert_close("adaptive_avg_pool2d", images((2, 3, 9, width), dtype), (min(size, 9), size))
            assert_close("adaptive_avg_pool1d", images((2, 3, width), dtype), size)


@pytest.mark.parametrize("options", [(2,), (3, 2, 1), (4,), ((2, 3), (1, 3))])
def test_extreme_values(options, isa):
    """An infinity or NaN shows in the windows that hold it and nowhere else; small values keep their last bits."""
    rng = np.random.default_rng(3)
    for value in (np.inf, -np.inf, np.nan, 3e38, 1e-39, -0.0):
        x = np.zeros((2, 2, 12, 37), np.float32)
        x[rng.random(x.shape) < 0.02] = value
        got = F.avg_pool2d(pydlx.from_numpy(x), *options).numpy()
        with np.errstate(over="ignore"):
            want = torch.nn.functional.avg_pool2d(torch.from_numpy(x).double(), *options).numpy()
        if abs(value) != 3e38:  # sums of several of them overflow
            np.testing.assert_allclose(got, want, rtol=3e-7, atol=1.5e-45)


def test_threads_and_strides(isa):
    x = images((3, 5, 14, 34), "float32")
    before, results = pydlx.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            t = pydlx.from_numpy(x)
            results.append([F.avg_pool2d(t, k).numpy().tobytes() for k in (2, 3)])
            turned = pydlx.from_numpy(x.transpose(0, 1, 3, 2).copy()).transpose(2, 3)
            assert F.avg_pool2d(turned, 2).numpy().tobytes() == results[-1][0]
    finally:
        pydlx.set_num_threads(before)
    assert results[0] == results[1] == results[2]
    assert F.avg_pool2d(pydlx.ones(0, 3, 4, 4), 2).shape == (0, 3, 2, 2)
