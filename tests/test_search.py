"""searchsorted and bucketize: several searches at once, for every dtype, around empty rows, ties, NaN and a sorter."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

DTYPES = ["bfloat16", "float16", "float32", "float64", "int16", "uint8", "int64"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("right", [False, True])
def test_bounds(dtype, right, isa):
    rng = np.random.default_rng(5)
    floating = "float" in dtype
    for n in (0, 1, 2, 3, 8, 31, 64, 65):
        for m in (0, 1, 3, 4, 5, 9, 2050):
            edges = np.sort(rng.integers(0, 40, n).astype(np.float64))
            values = rng.integers(0, 41, m).astype(np.float64)
            if floating and n > 2 and m > 2:
                edges[0], edges[-1] = -np.inf, np.inf
                values[:3] = np.inf, -np.inf, -0.0
            e, v = (pydlx.from_numpy(a).to(getattr(pydlx, dtype)) for a in (edges, values))
            want = np.searchsorted(edges, values, "right" if right else "left")
            np.testing.assert_array_equal(pydlx.searchsorted(e, v, right=right).numpy(), want)
            np.testing.assert_array_equal(pydlx.bucketize(v, e, right=right).numpy(), want)
            order = rng.permutation(n)
            mixed = pydlx.from_numpy(edges[order]).to(e.dtype)
            sorter = pydlx.from_numpy(np.argsort(order))
            np.testing.assert_array_equal(pydlx.searchsorted(mixed, v, right=right, sorter=sorter).numpy(), want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_nan_is_the_largest(dtype, isa):
    nan = float("nan")
    e = pydlx.tensor([0.0, 1.0, nan, nan], dtype=getattr(pydlx, dtype))
    v = pydlx.tensor([nan, 0.5, 2.0, nan, 1.0], dtype=e.dtype)
    assert pydlx.searchsorted(e, v).tolist() == [2, 1, 2, 2, 1]
    assert pydlx.searchsorted(e, v, right=True).tolist() == [4, 1, 2, 4, 2]


def test_rows_of_their_own(isa):
    rng = np.random.default_rng(6)
    edges, values = np.sort(rng.standard_normal((5, 33)), 1), rng.standard_normal((5, 7))
    want = np.stack([np.searchsorted(a, b) for a, b in zip(edges, values, strict=True)])
    for dtype in ("float32", "float64"):
        e, v = (pydlx.from_numpy(a).to(getattr(pydlx, dtype)) for a in (edges, values))
        np.testing.assert_array_equal(pydlx.searchsorted(e, v).numpy(), want)
