"""Cross products in blocks: around the ends of blocks, every place of the axis, and values that swallow others."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

COUNTS = (0, 1, 7, 63, 64, 65, 127, 1000, 9000)


def case(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    tensors = [pydlx.from_numpy(rng.standard_normal(shape)).to(getattr(pydlx, dtype)) for _ in range(2)]
    return tensors, [t.double().numpy() for t in tensors]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_every_axis(dtype, isa):
    eps = pydlx.finfo(getattr(pydlx, dtype)).eps
    for count in COUNTS:
        for shape, dim in (((count, 3), 1), ((3, count), 0), ((2, 3, count), 1), ((count, 3, 5), 1)):
            (a, b), (x, y) = case(shape, dtype, count)
            got = pydlx.cross(a, b, dim=dim)
            x, y = (np.moveaxis(t, dim, -1) for t in (x, y))
            want, scale = np.cross(x, y), np.abs(x)[..., [1, 2, 0]] * np.abs(y)[..., [2, 0, 1]]
            scale = scale + np.abs(x)[..., [2, 0, 1]] * np.abs(y)[..., [1, 2, 0]]
            assert got.dtype == a.dtype
            difference = np.abs(np.moveaxis(got.double().numpy(), dim, -1) - want)
            assert (difference <= 1.01 * eps * scale + (6e-8 if dtype == "float16" else 0)).all()


def test_threads_and_strides(isa):
    (a, b), _ = case((9000, 3), "float32")
    before, results = pydlx.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            results.append(pydlx.cross(a, b, dim=1).numpy().tobytes())
    finally:
        pydlx.set_num_threads(before)
    assert results[0] == results[1] == results[2]
    turned = pydlx.cross(a.t().contiguous().t(), b.t().contiguous().t(), dim=1)
    assert turned.numpy().tobytes() == results[0]
    # What lies in a block does not matter to a vector: nor does where the block ends.
    for first in (1, 8999 - 64, 8999):
        assert pydlx.cross(a[first:], b[first:], dim=1).numpy().tobytes() == results[0][12 * first :]


def test_extreme_values(isa):
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-39, 1e30, 1.0], np.float32)
    x = np.array(np.meshgrid(values, values, values)).reshape(3, -1).T
    y = np.roll(x, 5, 0)
    with np.errstate(all="ignore"):
        want = np.cross(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    got = pydlx.cross(pydlx.from_numpy(x.copy()), pydlx.from_numpy(y.copy()), dim=1).numpy()
    finite = np.isfinite(want) & np.isfinite(x * y).all(1, keepdims=True)
    np.testing.assert_allclose(got[finite], want[finite], rtol=1e-6, atol=1e-45)
    hidden = np.isnan(x) | np.isnan(y)
    assert np.isnan(got[hidden.sum(1) >= 2]).all()
    assert (np.isnan(got) | np.isinf(got))[~np.isfinite(want)].all()


def test_integers():
    a, b = np.arange(12).reshape(4, 3), np.arange(12)[::-1].reshape(4, 3).copy()
    np.testing.assert_array_equal(pydlx.cross(pydlx.from_numpy(a), pydlx.from_numpy(b), dim=1).numpy(), np.cross(a, b))
