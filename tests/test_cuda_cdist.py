"""cdist on ``device="cuda"``: values and gradients against float64 at the edges of tiles, split sums, batches beyond the grid's limits."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")
ROUNDING = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def on_device(a, b, slope):
    """Distances and both gradients, as NumPy arrays."""
    x, y = (pydlx.from_numpy(t).cuda().requires_grad_() for t in (a, b))
    out = pydlx.cdist(x, y)
    out.backward(pydlx.from_numpy(slope).cuda())
    return [t.detach().cpu().numpy() for t in (out, x.grad, y.grad)]


def check(batch, rows_a, rows_b, features, dtype=np.float32):
    rng = np.random.default_rng(rows_a * rows_b + features)
    a, b = (rng.normal(1, 2, (batch, n, features)).astype(dtype) for n in (rows_a, rows_b))
    b[0, 0] = a[0, 0]  # one distance of 0, whose gradient is 0
    slope = rng.standard_normal((batch, rows_a, rows_b)).astype(dtype)
    out, da, db = on_device(a, b, slope)
    assert all((x == y).all() for x, y in zip((out, da, db), on_device(a, b, slope), strict=True))
    wide_a, wide_b = (t.astype(np.longdouble) for t in (a, b))
    differences = wide_a[:, :, None] - wide_b[:, None]
    want = np.sqrt((differences**2).sum(-1))
    unit = ROUNDING[dtype]
    assert out[0, 0, 0] == 0
    assert (np.abs(out - want) <= unit * (4 + features**0.5) * want).all()
    pulls = np.divide(slope, want, out=np.zeros_like(want), where=want > 0)[..., None] * differences
    for got, axis, sign in ((da, 2, 1), (db, 1, -1)):
        count = differences.shape[axis]
        bound = unit * (8 + features**0.5 + count**0.5) * np.abs(pulls).sum(axis)
        assert (np.abs(got - sign * pulls.sum(axis)) <= bound).all()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("features", [1, 15, 16, 17, 33, 64, 65])
@pytest.mark.parametrize("rows", [(1, 1), (15, 16), (16, 65), (17, 17), (63, 16), (64, 17), (65, 63), (66, 129)])
def test_edges_of_tiles(rows, features, dtype):
    check(2, *rows, features, dtype)


def test_large_tiles():
    """Those of float32 are wider where there are enough of them."""
    check(66, 65, 70, 17)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("sizes", [(3, 5, 1030), (20, 1030, 4), (1030, 20, 4)])
def test_long_sums_are_split(sizes, dtype):
    check(1, *sizes, dtype)


def test_more_batches_than_a_grid_has_blocks():
    a, b = pydlx.randn(65537, 1, 1), pydlx.randn(65537, 1, 1)
    assert (pydlx.cdist(a.cuda(), b.cuda()).cpu() == (a - b).abs()).all().item()


def test_close_rows_keep_their_digits():
    """Through |a|^2 + |b|^2 - 2ab these distances of 1e-3 would have an error of the same size."""
    rng = np.random.default_rng(0)
    a = (100 + rng.standard_normal((30, 8))).astype(np.float32)
    b = (a + np.float32(1e-3) * rng.standard_normal(a.shape).astype(np.float32)).astype(np.float32)
    want = np.sqrt(((a[:, None].astype(np.float64) - b) ** 2).sum(-1))
    got = pydlx.cdist(pydlx.from_numpy(a).cuda(), pydlx.from_numpy(b).cuda()).cpu().numpy()
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_infinities_huge_and_tiny_values_as_on_the_cpu():
    a = np.array([[np.inf, 1], [np.nan, 1], [3e38, 1], [1e30, -1e30], [1e-30, 2e-30], [1e-42, 0], [0, 0]], np.float32)
    b = np.array([[np.inf, 1], [-3e38, 0], [1e30, 1e30], [0, 0], [1e-42, 1e-42]], np.float32)
    x, y = (pydlx.from_numpy(t).requires_grad_() for t in (a, b))
    out = pydlx.cdist(x, y)
    out.backward(pydlx.ones(7, 5))
    got = on_device(a, b, np.ones((7, 5), np.float32))
    for one, other in zip((out.detach(), x.grad, y.grad), got, strict=True):
        np.testing.assert_allclose(other, one.numpy(), rtol=1e-5)


def test_recorded_distances_read_new_values():
    x = pydlx.randn(20, 5, device="cuda").requires_grad_()
    y = pydlx.randn(600, 5, device="cuda").requires_grad_()

    def step():
        out = pydlx.cdist(x, y)
        return [out.detach(), *pydlx.autograd.grad(out.sum(), (x, y))]

    step()
    graph = pydlx.cuda.CUDAGraph()
    with pydlx.cuda.graph(graph):
        recorded = step()
    with pydlx.no_grad():
        x.mul_(-2.0)
    graph.replay()
    assert all((r == s).all().item() for r, s in zip(recorded, step(), strict=True))
