"""Batch normalisation in training: statistics and result at once against float64, around the sizes where channels pass
together, for few channels, and past the caches."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
import pydlx.nn.functional as F

SHAPES = [
    (2, 1, 7),
    (3, 15, 5, 7),
    (3, 16, 5, 7),
    (2, 33, 13, 13),
    (5, 64, 2),
    (4, 17, 1, 1),
    (3, 70, 4, 4),
    (2, 18, 67, 65),
    (4, 17, 131, 129),
    (70, 300, 7, 8),
]


def normalised(x, w, b, eps=1e-5):
    x = x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    y = (x - mean) / np.sqrt(var + eps)
    return y * w.reshape(shape) + b.reshape(shape), mean.ravel(), var.ravel()


def run(x, w, b, threads=2):
    before = pydlx.get_num_threads()
    try:
        pydlx.set_num_threads(threads)
        mean, var = pydlx.zeros(x.shape[1]), pydlx.ones(x.shape[1])
        y = F.batch_norm(*(pydlx.from_numpy(t) for t in (x,)), mean, var, *map(pydlx.from_numpy, (w, b)), True, 0.25)
    finally:
        pydlx.set_num_threads(before)
    return y.numpy(), mean.numpy(), var.numpy()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_training(shape, isa):
    rng = np.random.default_rng(len(shape))
    x = (rng.standard_normal(shape) * 3 + 50).astype(np.float32)
    w, b = (rng.standard_normal(shape[1]).astype(np.float32) for _ in range(2))
    y, mean, var = run(x, w, b)
    for threads in (1, 3):
        for a, c in zip((y, mean, var), run(x, w, b, threads), strict=True):
            np.testing.assert_array_equal(a, c)
    want, want_mean, want_var = normalised(x, w, b)
    count = x.size // shape[1]
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(mean, 0.25 * want_mean, rtol=1e-6)
    np.testing.assert_allclose(var, 0.75 + 0.25 * want_var * count / (count - 1), rtol=1e-5)


def test_results_larger_than_the_caches(isa):
    x = np.random.default_rng(0).standard_normal((9, 48, 128, 131), dtype=np.float32)
    w, b = np.linspace(-1, 2, 48, dtype=np.float32), np.linspace(3, -4, 48, dtype=np.float32)
    y, mean, _ = run(x, w, b)
    want, want_mean, _ = normalised(x, w, b)
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, 0.25 * want_mean, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(run(x, w, b, 1)[0], y)


@pytest.mark.parametrize("channels", [3, 20])
def test_extreme_values_stay_in_their_channel(channels, isa):
    x = np.random.default_rng(1).standard_normal((4, channels, 6, 6)).astype(np.float32)
    x[1, 0, 2, 2], x[2, 1, 3, 3], x[:, 2] = np.nan, np.inf, 1e-39
    y, _, _ = run(x, np.ones(channels, np.float32), np.zeros(channels, np.float32))
    assert np.isnan(y[:, :2]).all()
    assert np.abs(y[:, 2]).max() < 1e-30
    if channels > 3:
        np.testing.assert_allclose(y[:, 3:], normalised(x[:, 3:], np.ones(17), np.zeros(17))[0], rtol=1e-5, atol=2e-6)


def test_empty_batches():
    y = F.batch_norm(pydlx.ones(0, 20, 4, 4), None, None, training=True)
    assert y.shape == (0, 20, 4, 4)
