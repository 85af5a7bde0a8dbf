"""Sums and products of a column and a row: one value beside a vector on either side, whatever the layout."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx


@pytest.mark.parametrize("dtype", ["int64", "float32", "float64"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 7), (5, 1), (3, 15), (17, 16), (4, 33), (70, 1001)])
def test_columns_and_rows(rows, columns, dtype, isa):
    rng = np.random.default_rng(rows)
    column, row = ((rng.normal(size=s) * 9).astype(dtype) for s in ((rows, 1), (1, columns)))
    a, b = pydlx.from_numpy(column), pydlx.from_numpy(row)
    for f in (np.add, np.multiply, np.subtract):
        g = getattr(pydlx, f.__name__)
        np.testing.assert_array_equal(g(a, b).numpy(), f(column, row))
        np.testing.assert_array_equal(g(b, a).numpy(), f(row, column))
        np.testing.assert_array_equal(g(a.expand(rows, columns), b).numpy(), f(column, row))
        out = pydlx.zeros(columns, rows, dtype=a.dtype).t()
        np.testing.assert_array_equal(g(a, b, out=out).numpy(), f(column, row))
        every_second = pydlx.from_numpy(np.repeat(row, 2, 1))[:, ::2]
        np.testing.assert_array_equal(g(a, every_second).numpy(), f(column, row))
        np.testing.assert_array_equal(g(a, a).numpy(), f(column, column))


def test_special_values(isa):
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-45], np.float32)
    a, b = pydlx.from_numpy(values[:, None]), pydlx.from_numpy(np.repeat(values, 5)[None])
    with np.errstate(all="ignore"):
        for f in (np.add, np.multiply):
            got, want = getattr(pydlx, f.__name__)(a, b).numpy(), f(values[:, None], np.repeat(values, 5)[None])
            np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(np.signbit(got)[~np.isnan(want)], np.signbit(want)[~np.isnan(want)])
