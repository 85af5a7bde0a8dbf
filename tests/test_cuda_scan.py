"""Scans on the GPU: lines beside each other in a block, long ones that are cut into parts, strided ones with and without packs, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

FLOATS = {"float64": 1e-11, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
INTEGERS = ["uint8", "int8", "int16", "int32", "int64", "bool"]
# (sizes, axis): short lines side by side, one of several tiles, lines in parts, few and many neighbouring lines
SIZES = [
    ((700, 1), 1),
    ((300, 3), 1),
    ((70, 16), 1),
    ((5, 130), 1),
    ((3, 1024), 1),
    ((2, 1100), 1),
    ((300, 2050), 1),
    ((1, 9000), 1),
    ((2, 20480), 1),
    ((3, 5, 7), 1),
    ((2, 9, 16), 1),
    ((130, 24), 0),
    ((2, 700, 8), 1),
    ((1000, 3), 0),
    ((2, 5, 40), 0),
]


def tensor(sizes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return pydlx.tensor(rng.integers(0, 2, sizes).astype(bool))
    if dtype in FLOATS:
        return pydlx.tensor(rng.standard_normal(sizes)).to(getattr(pydlx, dtype))
    return pydlx.tensor(rng.integers(0, 100, sizes)).to(getattr(pydlx, dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("sizes", "axis"), SIZES, ids=str)
def test_sums(sizes, axis, dtype):
    x = tensor(sizes, dtype)
    wide, bound = x.double().numpy(), FLOATS[dtype]
    y = x.cuda().cumsum(axis)
    want = np.cumsum(wide, axis)
    np.testing.assert_allclose(y.cpu().double().numpy(), want, rtol=bound, atol=max(bound * 1e-2, 1e-11))
    assert (x.cuda().cumsum(axis) == y).all()
    y = x.cuda().logcumsumexp(axis).cpu().double().numpy()
    np.testing.assert_allclose(y, np.logaddexp.accumulate(wide, axis), rtol=bound, atol=bound)
    near_one = 1 + tensor(sizes, "float64", 1) * 0.01
    y = near_one.to(x.dtype).cuda().cumprod(axis).cpu().double().numpy()
    np.testing.assert_allclose(y, np.cumprod(near_one.to(x.dtype).double().numpy(), axis), rtol=bound)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("sizes", "axis"), SIZES, ids=str)
def test_gradients_run_backwards(sizes, axis, dtype):
    x, g = tensor(sizes, dtype), tensor(sizes, dtype, 3)
    leaf = x.cuda().requires_grad_()
    leaf.cumsum(axis).backward(g.cuda())
    want = np.flip(np.cumsum(np.flip(g.double().numpy(), axis), axis), axis)
    np.testing.assert_allclose(leaf.grad.cpu().double().numpy(), want, rtol=FLOATS[dtype], atol=FLOATS[dtype])


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize(("sizes", "axis"), SIZES, ids=str)
def test_extrema(sizes, axis, dtype):
    x = tensor(sizes, dtype)
    for op in (pydlx.cummax, pydlx.cummin):
        for got, want in zip(op(x.cuda(), axis), op(x, axis), strict=True):
            assert (got.cpu() == want).all()
    if dtype in INTEGERS:
        assert (x.cuda().cumsum(axis).cpu() == x.cumsum(axis)).all()


@pytest.mark.parametrize("sizes", [(4, 9000), (9000, 4), (3, 40)])
def test_what_is_not_finite(sizes):
    axis = int(np.argmax(sizes))
    for dtype in FLOATS:
        for bad in (np.nan, np.inf, -np.inf):
            x = tensor(sizes, "float64").numpy()
            x[(1, max(sizes) // 2) if axis else (max(sizes) // 2, 1)] = bad
            t = pydlx.tensor(x).to(getattr(pydlx, dtype))
            for fn in ("cumsum", "logcumsumexp"):
                got, want = getattr(t.cuda(), fn)(axis).cpu().double().numpy(), getattr(t, fn)(axis).double().numpy()
                np.testing.assert_allclose(got, want, rtol=2 * FLOATS[dtype], atol=FLOATS[dtype])
            for got, want in zip(pydlx.cummax(t.cuda(), axis), pydlx.cummax(t, axis), strict=True):
                np.testing.assert_array_equal(got.cpu().double().numpy(), want.double().numpy())


def test_other_layouts():
    x = pydlx.randn(40, 1030, dtype=pydlx.float64)
    for view in (
        lambda t: t.t(),
        lambda t: t[:, 1:],
        lambda t: t[::2, ::3],
        lambda t: t[:0],
        lambda t: t[:, :0],
        lambda t: t[:1].expand(7, -1),
    ):
        for axis in (0, 1):
            np.testing.assert_allclose(
                view(x.cuda()).cumsum(axis).cpu().numpy(), view(x).cumsum(axis).numpy(), atol=1e-12
            )
    skewed = pydlx.randn(4 * 1024 + 1).cuda()[1:].reshape(4, 1024)
    np.testing.assert_allclose(skewed.cumsum(1).cpu().numpy(), skewed.cpu().cumsum(1).numpy(), atol=1e-5)
