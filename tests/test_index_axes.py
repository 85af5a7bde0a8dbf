"""gather, scatter and their kin along an outer axis, where steps of a multiple of 4 KB are walked in another order than
others: values, order of contributions, and what indices outside do."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

# Columns whose rows are 4 KB apart in some dtype, and their odd neighbours.
COLUMNS = (1, 7, 64, 512, 1023, 1024, 1025, 2048)
DTYPES = ("float32", "float64", "bfloat16", "int64", "uint8")


def case(rows, picked, columns, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    x, source = (rng.integers(0, 100, (n, columns)) for n in (rows, picked))
    index = rng.integers(0, rows, (picked, columns))
    tensors = [pydlx.tensor(a).to(getattr(pydlx, dtype)) for a in (x, source)]
    return x.astype(np.float64), source.astype(np.float64), index, *tensors, pydlx.tensor(index)


def assert_same(got, wanted):
    np.testing.assert_array_equal(got.double().numpy(), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", COLUMNS)
def test_outer_axis(columns, dtype):
    x, source, index, tx, ts, ti = case(9, 13, columns, dtype)
    assert_same(tx.gather(0, ti), np.take_along_axis(x, index, 0))
    assert_same(tx.scatter(0, ti, 3), scattered(x, index, np.full_like(source, 3.0)))
    assert_same(tx.scatter(0, ti, ts), scattered(x, index, source))
    for how, combine in (("amax", np.maximum), ("amin", np.minimum)):
        wanted = x.copy()
        combine.at(wanted, (index, np.arange(columns)), source)
        assert_same(tx.scatter_reduce(0, ti, ts, how), wanted)


def scattered(x, index, source):
    out = x.copy()
    for i in range(index.shape[0]):
        out[index[i], np.arange(index.shape[1])] = source[i]
    return out


@pytest.mark.parametrize("columns", [1024, 1025, 5000])
def test_sums_keep_their_order_whatever_the_threads(columns):
    rng = np.random.default_rng(1)
    index, source = rng.integers(0, 5, (300, columns)), rng.standard_normal((300, columns)).astype(np.float32)
    wanted = np.zeros((5, columns), np.float32)
    for i in range(300):
        wanted[index[i], np.arange(columns)] += source[i]
    before = pydlx.get_num_threads()
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            got = pydlx.zeros(5, columns).scatter_add(0, pydlx.tensor(index), pydlx.tensor(source))
            assert got.numpy().tobytes() == wanted.tobytes()
    finally:
        pydlx.set_num_threads(before)


def test_strided_operands():
    x, source, index, tx, ts, ti = case(6, 5, 2048)
    wide = pydlx.zeros(6, 4096, dtype=pydlx.float64)
    wide[:, ::2] = tx
    assert_same(wide[:, ::2].gather(0, ti), np.take_along_axis(x, index, 0))
    assert_same(wide[:, ::2].scatter_add(0, ti, ts), added(x, index, source))
    turned = tx.t().contiguous().t()
    assert_same(turned.gather(0, ti), np.take_along_axis(x, index, 0))
    assert_same(turned.scatter_add(0, ti, ts.t().contiguous().t()), added(x, index, source))
    assert tx.gather(0, ti[:0]).shape == (0, 2048)
    assert_same(tx.scatter_add(0, ti[:0], ts[:0]), x)


def added(x, index, source):
    out = x.copy()
    np.add.at(out, (index, np.arange(index.shape[1])), source)
    return out


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_extrema_of_extreme_values(axis, dtype):
    """NaN wins on either side; of zeros that compare equal the one that was there stays."""
    values = np.array([np.nan, np.inf, -np.inf, 1e-39, -1e-39, 3e38, -3e38, 0.0, -0.0, 1.0])
    x, source = (a.ravel() for a in np.meshgrid(values, values, indexing="ij"))
    x, source = np.tile(x, (3, 11)), np.tile(source, (1, 11))
    index = np.full_like(source, 1, dtype=np.int64)
    if axis == 1:
        x, source, index = x.T, source.T, index.T
    tx, ts = (pydlx.tensor(a).to(getattr(pydlx, dtype)) for a in (x, source))
    a, b = tx.double().numpy(), ts.double().numpy()
    for how, better in (("amax", np.greater), ("amin", np.less)):
        at = (slice(1, 2), slice(None)) if axis == 0 else (slice(None), slice(1, 2))
        wanted = a.copy()
        with np.errstate(invalid="ignore"):
            wanted[at] = np.where(better(b, a[at]) | np.isnan(b), b, a[at])
        got = tx.scatter_reduce(axis, pydlx.tensor(index), ts, how).double().numpy()
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(np.signbit(got) & ~np.isnan(got), np.signbit(wanted) & ~np.isnan(wanted))


@pytest.mark.parametrize("shape", [(5, 1024), (5, 1023), (5, 1), (5,), (2, 5, 7)])
@pytest.mark.parametrize("bad", [-1, 5, 2**62, -(2**62)])
def test_indices_outside_are_refused_wherever_they_are(shape, bad):
    axis = len(shape) - 2 if len(shape) > 1 else 0
    x = pydlx.ones(*shape)
    for place in (0, -1):
        index = pydlx.zeros(*shape, dtype=pydlx.int64)
        index.view(-1)[place] = bad
        for call in (
            lambda i: x.gather(axis, i),
            lambda i: x.gather(axis, i.transpose(0, -1).contiguous().transpose(0, -1)),
            lambda i: x.scatter(axis, i, 1.0),
            lambda i: x.scatter_add(axis, i, x),
            lambda i: x.scatter_reduce(axis, i, x, "amax"),
            lambda i: x.clone().scatter_add_(axis, i, x),
        ):
            with pytest.raises(IndexError, match=rf"got {bad}"):
                call(index)


@pytest.mark.parametrize("width", [1, 3, 16, 17, 255, 256, 600, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_picked_rows(width, dtype):
    rng = np.random.default_rng(2)
    x = pydlx.tensor(rng.integers(0, 100, (50, width))).to(getattr(pydlx, dtype))
    for index in (rng.integers(0, 50, 77), rng.integers(0, 50, 1), np.zeros(0, np.int64)):
        wanted = x.double().numpy()[index]
        assert_same(x.index_select(0, pydlx.tensor(index)), wanted)
        assert_same(x[pydlx.tensor(index - 50)], wanted)
