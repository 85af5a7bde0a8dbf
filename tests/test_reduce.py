"""What the table of cases cannot express about reductions: subgradients at ties, accuracy of long sums, results of extreme shapes."""

import numpy as np
import pytest
import torch

import pydlx


def gradient(T, f, x):
    t = T.from_numpy(x.copy()).requires_grad_(True)
    (g,) = T.autograd.grad(f(t).sum(), [t])
    return g.numpy()


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t.amax(1),
        lambda t: t.amin((0, 1)),
        lambda t: t.max(),
        lambda t: t.min(),
        lambda t: t.max(1).values,
        lambda t: t.norm(float("inf")),
    ],
    ids=["amax", "amin", "max", "min", "max-dim", "norm-inf"],
)
def test_gradient_at_ties(f):
    x = np.random.default_rng(0).integers(-2, 3, (5, 30)).astype(np.float64)
    np.testing.assert_allclose(gradient(pydlx, f, x), gradient(torch, f, x), rtol=1e-14)


@pytest.mark.parametrize("shape", [(3_000_001,), (1501, 2003), (2, 700_001), (700_001, 2)])
def test_long_float32_sums_are_exact_to_rounding(shape):
    x = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
    t = pydlx.from_numpy(x)
    for axis in range(-1, x.ndim - 1) if x.ndim > 1 else [0]:
        want = x.sum(axis, dtype=np.float64)
        np.testing.assert_allclose(t.sum(axis).numpy(), want, rtol=1.3e-7)
    np.testing.assert_allclose(t.sum().numpy(), x.sum(dtype=np.float64), rtol=1.3e-7)


def test_variance_does_not_cancel():
    x = (np.random.default_rng(2).standard_normal((64, 4099)) + 1e4).astype(np.float32)
    want = x.astype(np.float64).var(1, ddof=1)
    np.testing.assert_allclose(pydlx.from_numpy(x).var(1).numpy(), want, rtol=3e-6)
    np.testing.assert_allclose(pydlx.from_numpy(np.ascontiguousarray(x.T)).var(0).numpy(), want, rtol=3e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (2, 1, 513), (513, 1, 2), (3, 4, 5, 2, 3)])
def test_every_set_of_axes(shape):
    x = np.random.default_rng(3).standard_normal(shape)
    t, u = pydlx.from_numpy(x), torch.from_numpy(x)
    for bits in range(1, 1 << len(shape)):
        axes = tuple(i for i in range(len(shape)) if bits >> i & 1)
        np.testing.assert_allclose(t.sum(axes).numpy(), u.sum(axes).numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(t.amax(axes, keepdim=True).numpy(), u.amax(axes, keepdim=True).numpy())
        np.testing.assert_allclose(
            t.var(axes, correction=0).numpy(), u.var(axes, correction=0).numpy(), rtol=1e-11, atol=1e-13
        )


def test_integer_sums_wrap():
    x = np.full(4, 2**62, np.int64)
    assert pydlx.from_numpy(x).sum().item() == int(x.sum())


def test_out():
    x = pydlx.from_numpy(np.arange(6.0).reshape(2, 3))
    out = pydlx.from_numpy(np.zeros(2))
    assert pydlx.sum(x, 1, out=out) is out
    np.testing.assert_array_equal(out.numpy(), [3.0, 12.0])
