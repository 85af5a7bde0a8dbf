"""topk, sort and searchsorted where their algorithms change: around the numbers of groups and the radix threshold, ties,
NaN, signed zeros, and all elements equal."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

DTYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def rows(n, dtype, seed=0):
    """Random values; few different ones; all equal; ascending; descending; with NaN and infinities."""
    rng = np.random.default_rng(seed)
    x = np.stack(
        [
            rng.normal(0, 50, n),
            rng.integers(-2, 3, n).astype(float),
            np.zeros(n),
            np.linspace(-90, 90, n),
            np.linspace(90, -90, n),
            rng.normal(0, 50, n),
        ]
    )
    if "float" in dtype:
        x[2, ::3] = -0.0
        x[5, rng.integers(0, n, n // 8 + 1)] = np.nan
        x[5, rng.integers(0, n, n // 8 + 1)] = np.inf
        x[5, rng.integers(0, n, n // 8 + 1)] = -np.inf
    else:
        x = np.clip(x, 0 if dtype == "uint8" else -100, 100)
    return pydlx.from_numpy(x).to(getattr(pydlx, dtype))


def wide(t):
    return t.double().numpy() if t.is_floating_point() else t.numpy().astype(np.int64)


def order(v, descending):
    """The stable order of a row: NaN counts as the largest element."""
    rank = np.unique(np.where(v == 0, 0.0, v), return_inverse=True)[1]
    return np.argsort(-rank if descending else rank, kind="stable")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "k"),
    [
        (1, 1),
        (63, 5),
        (127, 8),
        (128, 8),
        (129, 1),
        (200, 8),
        (255, 9),
        (256, 16),
        (1000, 5),
        (1000, 17),
        (1000, 0),
        (1000, 1000),
        (4099, 50),
        (5000, 300),
    ],
)
def test_topk(n, k, dtype, isa):
    t = rows(n, dtype)
    v = wide(t)
    for largest in (True, False):
        values, index = pydlx.topk(t, k, largest=largest)
        want = np.stack([order(r, largest)[:k] for r in v])
        np.testing.assert_array_equal(index.numpy(), want)
        np.testing.assert_array_equal(wide(values), np.take_along_axis(v, want, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 16, 17, 127, 128, 129, 511, 512, 513, 2000])
def test_sort(n, dtype, isa):
    t = rows(n, dtype)
    v = wide(t)
    for descending in (False, True):
        values, index = pydlx.sort(t, descending=descending, stable=True)
        want = np.stack([order(r, descending) for r in v])
        np.testing.assert_array_equal(index.numpy(), want)
        np.testing.assert_array_equal(wide(values), np.take_along_axis(v, want, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 8, 33, 1000])
def test_searchsorted(n, dtype, isa):
    for seed in range(2):
        v = wide(rows(max(n, 1), dtype, seed)[1 if seed else 0])[:n]
        sought = np.concatenate([v, [1, 0, 100], [np.nan, np.inf, -np.inf, -0.0] if "float" in dtype else []])
        ordered = np.sort(v)
        if "float" in dtype and n > 2:
            ordered[-2:] = np.nan
        a, b = (pydlx.from_numpy(u).to(getattr(pydlx, dtype)) for u in (ordered, sought))
        for right, side in ((False, "left"), (True, "right")):
            want = np.searchsorted(ordered, sought, side)  # counts NaN as the largest, too
            np.testing.assert_array_equal(pydlx.searchsorted(a, b, right=right).numpy(), want)
            several = pydlx.searchsorted(pydlx.stack([a, a]), pydlx.stack([b, b]), right=right).numpy()
            np.testing.assert_array_equal(several, np.stack([want, want]))
