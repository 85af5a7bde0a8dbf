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


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("stored", ["float32", "float64", "float16"])
@pytest.mark.parametrize("dense", [True, False])
def test_running_statistics(dtype, stored, dense, isa):
    """In the format of the statistics they are moved by the kernel, in others by operations."""
    x = (np.random.default_rng(2).standard_normal((4, 20, 3, 3)) * 2 + 1).astype(np.float32)
    t = pydlx.from_numpy(x).to(getattr(pydlx, dtype))
    mean, var = (pydlx.full((20, 1 if dense else 2), v, dtype=getattr(pydlx, stored))[:, 0] for v in (3.0, 2.0))
    versions = mean._version, var._version
    F.batch_norm(t, mean, var, training=True, momentum=0.25)
    assert (mean._version, var._version) == (versions[0] + 1, versions[1] + 1)
    _, want_mean, want_var = normalised(t.double().numpy(), np.ones(20), np.zeros(20))
    bound = 1e-3 if stored == "float16" else 1e-6 if "float32" in (dtype, stored) or dtype == "bfloat16" else 1e-13
    np.testing.assert_allclose(mean.double().numpy(), 0.75 * 3 + 0.25 * want_mean, rtol=bound)
    np.testing.assert_allclose(var.double().numpy(), 0.75 * 2 + 0.25 * want_var * 36 / 35, rtol=bound)
    before = mean.clone(), var.clone()
    y = F.batch_norm(t, mean, var, eps=1e-3).double().numpy()
    m, v = (s.double().numpy()[:, None, None] for s in before)
    want = (t.double().numpy() - m) / np.sqrt(v + 1e-3)
    np.testing.assert_allclose(
        y, want, rtol=1e-2 if dtype == "bfloat16" else 2e-6, atol=1e-2 if dtype == "bfloat16" else 2e-6
    )
    assert mean.equal(before[0]) and var.equal(before[1])


def test_running_statistics_that_cannot_be_moved():
    x = pydlx.ones(2, 3, 4)
    leaf, plain = pydlx.zeros(3).requires_grad_(), pydlx.zeros(3)
    with pytest.raises(RuntimeError, match="leaf"):
        F.batch_norm(x, plain, leaf, training=True)
    assert plain.tolist() == [0, 0, 0]  # neither moves
    with pytest.raises(ValueError, match="more than one value per channel"):
        F.batch_norm(pydlx.ones(1, 3), plain, None, training=True)
    F.batch_norm(x, plain, None, training=True, momentum=0.5)
    assert plain.tolist() == [0.5] * 3
    F.batch_norm(x, None, plain, training=True, momentum=0.5)
    assert plain.tolist() == [0.25] * 3


def test_a_pending_backward_keeps_its_running_statistics():
    mean, var = pydlx.zeros(3), pydlx.ones(3)
    x = pydlx.ones(2, 3, 4).requires_grad_()
    y = F.batch_norm(x, mean, var, eps=0.0)
    var.fill_(100.0)
    y.sum().backward()
    assert x.grad.unique().tolist() == [1]
