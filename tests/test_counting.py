"""bincount and unique of integers, which count in tables where the range is small: around the sizes of the tables, the
block and the grain, at the ends of every dtype, and with any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

DTYPES = ["uint8", "int8", "int16", "int32", "int64"]


def draw(low, high, n, dtype="int64", seed=0):
    """Integers in [low, high] that contain both ends where n allows."""
    x = np.random.default_rng(seed).integers(low, high, n, dtype, endpoint=True)
    x[: min(n, 2)] = [low, high][: min(n, 2)]
    return x


def check_unique(x):
    got = pydlx.unique(pydlx.from_numpy(x), return_inverse=True, return_counts=True)
    wanted = np.unique(x, return_inverse=True, return_counts=True)
    assert got[0].dtype == pydlx.from_numpy(x).dtype
    for g, w in zip(got, wanted, strict=True):
        assert np.array_equal(g.numpy().reshape(-1), w.reshape(-1))
    assert got[1].shape == x.shape
    assert np.array_equal(pydlx.unique(pydlx.from_numpy(x)).numpy(), wanted[0])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 255, 1023, 1024, 1025, 32767, 32769, 100003])
@pytest.mark.parametrize("top", [0, 1, 6, 255, 256, 4095, 4096, 65535, 65536, 70000])
def test_bincount_sizes(n, top):
    x = draw(0, top, n)
    assert np.array_equal(pydlx.bincount(pydlx.from_numpy(x)).numpy(), np.bincount(x))


@pytest.mark.parametrize("minlength", [0, 1, 255, 257, 4096, 4097, 65536, 65537, 100000])
@pytest.mark.parametrize("top", [3, 5000, 90000])
def test_bincount_minlength(minlength, top):
    x = draw(0, top, 3001)
    got = pydlx.bincount(pydlx.from_numpy(x), minlength=minlength)
    assert np.array_equal(got.numpy(), np.bincount(x, minlength=minlength))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bincount_dtypes_and_layouts(dtype):
    x = draw(0, 100, 4098, dtype)
    t = pydlx.from_numpy(x)
    assert np.array_equal(pydlx.bincount(t).numpy(), np.bincount(x))
    assert np.array_equal(pydlx.bincount(t[1::2]).numpy(), np.bincount(x[1::2]))
    assert np.array_equal(pydlx.bincount(t[3:]).numpy(), np.bincount(x[3:]))
    assert np.array_equal(pydlx.bincount(t[:0], minlength=3).numpy(), np.zeros(3))
    assert np.array_equal(pydlx.bincount(pydlx.full((70000,), 7, dtype=t.dtype)).numpy(), [0] * 7 + [70000])


def test_bincount_weights():
    x, w = draw(0, 5000, 20000), np.random.default_rng(1).normal(size=20000)
    assert np.allclose(pydlx.bincount(pydlx.from_numpy(x), pydlx.from_numpy(w)).numpy(), np.bincount(x, w))


@pytest.mark.parametrize("bad", [-1, -128])
@pytest.mark.parametrize("at", [0, 1024, 69999])
@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_bincount_negative(bad, at, dtype):
    x = pydlx.zeros(70000, dtype=getattr(pydlx, dtype))
    x[at] = bad
    with pytest.raises(ValueError, match=r"\[bincount\] input: expected non-negative integers, got -"):
        pydlx.bincount(x)
    with pytest.raises(ValueError, match=r"\[bincount\] input"):
        pydlx.bincount(x, pydlx.ones(70000))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unique_over_whole_dtypes(dtype):
    info = np.iinfo(dtype)
    check_unique(draw(info.min, info.max, 5003, dtype))
    check_unique(np.array([info.max, info.min, info.max, 0], dtype))
    check_unique(np.full(3, info.min, dtype))


@pytest.mark.parametrize("low", [0, -3, 10**12, -(2**63), 2**63 - 1 - 65536])
@pytest.mark.parametrize("width", [0, 255, 4095, 4096, 65535, 65536])
@pytest.mark.parametrize("n", [1, 2, 300, 5000, 70001])
def test_unique_ranges(low, width, n):
    check_unique(draw(low, low + width, n))


def test_unique_shapes_and_views():
    x = draw(-9, 9, 6 * 8 * 10, "int16").reshape(6, 8, 10)
    check_unique(x)
    view = pydlx.from_numpy(x).permute(2, 0, 1)[::3]
    values, inverse, counts = pydlx.unique(view, return_inverse=True, return_counts=True)
    assert np.array_equal(values[inverse].numpy(), view.numpy()) and counts.sum().item() == view.numel()
    assert pydlx.unique(pydlx.tensor(5)).tolist() == [5]
    assert pydlx.unique(pydlx.tensor(5), return_inverse=True)[1].shape == ()
    assert pydlx.unique(pydlx.zeros(0, dtype=pydlx.int32)).shape == (0,)


def test_any_number_of_threads():
    x = pydlx.from_numpy(draw(0, 999, 300001))
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            pydlx.set_num_threads(threads)
            results.append([pydlx.bincount(x), *pydlx.unique(x, return_inverse=True, return_counts=True)])
        for r in results[1:]:
            assert all(pydlx.equal(a, b) for a, b in zip(r, results[0], strict=True))
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.int8, np.int16, np.bool_])
@pytest.mark.parametrize("n", [0, 1, 2, 100, 700, 5003, 200000])
def test_sorted_integers_alone(n, dtype):
    """Where nobody asks for positions, integers are sorted without them: the whole range of a dtype, and runs."""
    rng = np.random.default_rng(n)
    info = np.iinfo(np.uint8 if dtype == np.bool_ else dtype)
    high = 2 if dtype == np.bool_ else int(info.max)
    x = rng.integers(0 if dtype == np.bool_ else info.min, high, n, endpoint=dtype != np.bool_).astype(dtype)
    if n > 2 and dtype != np.bool_:
        x[:3] = info.max, info.min, info.max
    t = pydlx.tensor(x)
    assert np.array_equal(pydlx.msort(t).numpy(), np.sort(x))
    before = pydlx.get_num_threads()
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            assert np.array_equal(pydlx.unique(t).numpy(), np.unique(x))
            values, counts = pydlx.unique(t, return_counts=True)
            assert np.array_equal(counts.numpy(), np.unique(x, return_counts=True)[1])
            assert np.array_equal(values.numpy(), np.unique(x))
    finally:
        pydlx.set_num_threads(before)
    assert np.array_equal(pydlx.unique_consecutive(pydlx.msort(t)).numpy(), np.unique(x))
    rows = t[: n // 4 * 4].view(-1, 4)
    assert np.array_equal(pydlx.msort(rows).numpy(), np.sort(x[: n // 4 * 4].reshape(-1, 4), axis=0))
    _, counts = pydlx.unique_consecutive(pydlx.msort(t), return_counts=True)
    assert np.array_equal(counts.numpy(), np.unique(x, return_counts=True)[1])
