"""cdist: register tiles of squared differences and their gradients, around every edge of a tile."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx


def distances(a, b):
    return np.sqrt(((a[:, :, None] - b[:, None]) ** 2).sum(-1))


@pytest.mark.parametrize("features", [1, 3, 15, 16, 17, 63, 64, 65, 130])
@pytest.mark.parametrize("rows", [(1, 1), (2, 15), (3, 16), (4, 17), (5, 40), (63, 64), (64, 65), (65, 33), (66, 300)])
def test_all_pairs(rows, features, isa):
    rng = np.random.default_rng(features)
    a, b = (rng.normal(1, 2, (2, n, features)).astype(np.float32) for n in rows)
    b[0, 0] = a[0, 0]  # one distance of 0, whose gradient is 0
    g = rng.normal(size=(2, *rows)).astype(np.float32)
    seen = []
    before = pydlx.get_num_threads()
    try:
        for threads in (1, 3):
            pydlx.set_num_threads(threads)
            x, y = (pydlx.from_numpy(t.copy()).requires_grad_() for t in (a, b))
            out = pydlx.cdist(x, y)
            out.backward(pydlx.from_numpy(g))
            seen.append([t.detach().numpy() for t in (out, x.grad, y.grad)])
    finally:
        pydlx.set_num_threads(before)
    for one, three in zip(*seen, strict=True):
        np.testing.assert_array_equal(one, three)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    want = distances(wide_a, wide_b)
    assert seen[0][0][0, 0, 0] == 0
    np.testing.assert_allclose(seen[0][0], want, rtol=1e-6)
    slope = np.divide(g, want, out=np.zeros_like(want), where=want > 0)[..., None]
    pull = slope * (wide_a[:, :, None] - wide_b[:, None])
    for got, need in zip(seen[0][1:], (pull.sum(2), -pull.sum(1)), strict=True):
        np.testing.assert_allclose(got, need, rtol=1e-5, atol=1e-5 * np.abs(need).max())


def test_close_rows_keep_their_digits():
    """Through |a|^2 + |b|^2 - 2ab these distances of 1e-3 would have an error of the same size."""
    rng = np.random.default_rng(0)
    a = (100 + rng.normal(size=(30, 8))).astype(np.float32)
    b = (a + np.float32(1e-3) * rng.normal(size=a.shape).astype(np.float32)).astype(np.float32)
    got = pydlx.cdist(pydlx.from_numpy(a), pydlx.from_numpy(b)).numpy()
    want = distances(a[None].astype(np.float64), b[None].astype(np.float64))[0]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("leads", [((), ()), ((2,), ()), ((3, 1), (4,)), ((0,), ()), ((2,), (2,))])
def test_leading_axes_broadcast(leads):
    x, y = pydlx.randn(*leads[0], 5, 3).transpose(-1, -2).contiguous().transpose(-1, -2), pydlx.randn(*leads[1], 6, 3)
    out = pydlx.cdist(x, y)
    want = (x.unsqueeze(-2) - y.unsqueeze(-3)).norm(dim=-1)
    assert out.shape == want.shape
    np.testing.assert_allclose(out.numpy(), want.numpy(), rtol=1e-6)


def test_second_derivatives():
    x, y = (pydlx.randn(n, 3, dtype=pydlx.float64, requires_grad=True) for n in (4, 5))
    assert pydlx.autograd.gradcheck(pydlx.cdist, (x, y))
    assert pydlx.autograd.gradgradcheck(pydlx.cdist, (x, y))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    """Sums of squares in float32: each distance is the nearest one but for float32's own error."""
    rng = np.random.default_rng(4)
    a, b = (pydlx.from_numpy(rng.normal(100, 3, (n, 33))).to(getattr(pydlx, dtype)).requires_grad_() for n in (7, 18))
    out = pydlx.cdist(a, b)
    wide = [t.detach().double().requires_grad_() for t in (a, b)]
    want = pydlx.cdist(*wide)
    assert out.dtype == a.dtype
    assert np.array_equal(out.detach().double().numpy(), want.detach().to(a.dtype).double().numpy())
    out.backward(pydlx.ones_like(out))
    want.backward(pydlx.ones_like(want))
    eps = pydlx.finfo(a.dtype).eps
    for got, need in zip((a.grad, b.grad), (wide[0].grad, wide[1].grad), strict=True):
        np.testing.assert_allclose(got.double().numpy(), need.numpy(), rtol=2 * eps, atol=2 * eps * 18)
