"""Sums, means and 1-norms of 16-bit floats against float64: one rounding of the result, whatever the layout, path and number of threads."""

import numpy as np
import pytest
import torch
from every_path import on_every_path

import pydlx

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
DTYPES = sorted(UNIT)


def wide_on_every_path(f):
    return on_every_path(lambda: f().double())


def rounded(x, dtype):
    t = pydlx.from_numpy(x).to(getattr(pydlx, dtype))
    return t, t.double().numpy()


def check(t, x, axis):
    """`t` holds the float64 values `x`."""
    unit = UNIT[str(t.dtype).rsplit(".", 1)[-1]]
    count = x.size // max(1, x.sum(axis).size)
    exact, magnitude = x.sum(axis), np.abs(x).sum(axis)
    limit = 1.001 * unit * np.abs(exact) + 2.0**-18 * magnitude + 2.0**-25
    assert (np.abs(wide_on_every_path(lambda: t.sum(axis)) - exact) <= limit).all()
    assert (np.abs(wide_on_every_path(lambda: t.mean(axis)) - exact / count) <= limit / count + 2.0**-25).all()
    limit = 1.001 * unit * magnitude + 2.0**-18 * magnitude
    assert (np.abs(wide_on_every_path(lambda: t.norm(1, axis)) - magnitude) <= limit).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 1), (5, 15), (7, 17), (70, 33), (9, 63), (130, 65), (33, 255), (1030, 31), (4, 9001), (700, 513)]
)
def test_layouts(dtype, shape):
    rng = np.random.default_rng(shape[0] * shape[1])
    rows, n = shape
    wide, x = rounded(rng.standard_normal((rows, 2 * n + 1)) / 8, dtype)
    garbage, _ = rounded(np.full(rows * n + 40, np.nan), dtype)
    garbage[19 : 19 + rows * n] = wide[:, :n].reshape(-1)
    for t, v in (
        (garbage[19 : 19 + rows * n].reshape(rows, n), x[:, :n]),
        (wide[:, 1::2], x[:, 1::2]),
        (wide[:, :n], x[:, :n]),
        (wide[:, :n].t().contiguous().t(), x[:, :n]),
    ):
        for axis in (0, 1, (0, 1)):
            check(t, v, axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images(dtype):
    t, x = rounded(np.random.default_rng(0).standard_normal((5, 12, 7, 9)) / 4, dtype)
    for axis in ((0, 2, 3), (2, 3), 1, (1, 3), (0, 1)):
        check(t, x, axis)
        check(t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x, axis)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_further_from_the_truth_than_the_oracle(dtype):
    x = np.random.default_rng(1).standard_normal((3000, 700)) / 16
    ours, exact = rounded(x, dtype)
    theirs = torch.from_numpy(exact).to(getattr(torch, dtype))
    for axis in (0, 1):
        error = np.abs(ours.sum(axis).double().numpy() - exact.sum(axis)).max()
        assert error <= 1.01 * np.abs(theirs.sum(axis).double().numpy() - exact.sum(axis)).max()


@pytest.mark.parametrize("n", [7, 64, 200, 5000])
def test_magnitudes_that_overflow_float32_on_the_way(n):
    x = np.full((n, 20), 3e38)
    x[n // 2 :] = -3e38
    if n % 2:
        x[-1] = 0
    t, v = rounded(x, "bfloat16")
    assert (wide_on_every_path(lambda: t.sum(0)) == v.sum(0)).all()
    assert (wide_on_every_path(lambda: t.t().contiguous().sum(1)) == v.sum(0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 50, 256])
def test_infinities_and_nan(dtype, n):
    x = np.ones((n, 40))
    x[1, 3], x[2, 5], x[0, 7], x[2, 7] = np.inf, np.nan, np.inf, -np.inf
    t, v = rounded(x, dtype)
    for got in (wide_on_every_path(lambda: t.sum(0)), wide_on_every_path(lambda: t.t().contiguous().sum(1))):
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(got, v.sum(0))
    v[np.isnan(v)] = 0
    np.testing.assert_array_equal(wide_on_every_path(lambda: t.nansum(0)), v.sum(0))
