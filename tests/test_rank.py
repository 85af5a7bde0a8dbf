"""kthvalue and median against a stable sort: short rows (pivots), long rows (digits), one very long row (all threads)."""

import numpy as np
import pytest

import pydlx

SIZES = [255, 256, 257, 1000, 4099]
FLOATS = ["float32", "float64", "float16", "bfloat16"]
INTEGERS = ["uint8", "int8", "int16", "int32", "int64"]


def values_of(kind, n, rng):
    return {
        "normal": lambda: rng.normal(size=n),
        "equal": lambda: np.full(n, 3.0),
        "two": lambda: rng.integers(0, 2, n) * 2.0 - 1.0,  # the first digit parts them, no later one does
        "narrow": lambda: 1.0 + rng.integers(0, 60, n) / 64,  # one exponent
        "special": lambda: rng.choice([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e30, -1e30, 1.0], n),
        "sorted": lambda: np.arange(n) - n / 2,
    }[kind]()


def check(x, axis_size):
    array = x.float().numpy() if x.dtype in (pydlx.float16, pydlx.bfloat16) else x.numpy()
    order = np.argsort(array, axis=-1, kind="stable")
    for k in {1, 2, axis_size // 3, (axis_size + 1) // 2, axis_size}:
        got = pydlx.kthvalue(x, k, dim=-1)
        np.testing.assert_array_equal(got.indices.numpy(), order[..., k - 1], err_msg=f"k = {k}")
        np.testing.assert_array_equal(
            got.values.double().numpy(), x.gather(-1, got.indices[..., None])[..., 0].double()
        )
    middle = pydlx.median(x, dim=-1)
    np.testing.assert_array_equal(middle.indices.numpy(), order[..., (axis_size - 1) // 2])


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("n", SIZES)
def test_rows(n, dtype):
    rng = np.random.default_rng(n)
    kinds = ["normal", "equal", "two", "narrow", "special", "sorted"]
    rows = np.stack([values_of(kind, n, rng) for kind in kinds])
    if dtype in INTEGERS:
        low, high = (0, 255) if dtype == "uint8" else (-100, 100)
        rows = np.clip(
            np.nan_to_num(rows * (40 if dtype != "int64" else 1e6)), *((low, high) if "8" in dtype else (-9e3, 9e3))
        )
    check(pydlx.tensor(rows).to(getattr(pydlx, dtype)), n)


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16", "uint8"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_one_long_row_with_any_number_of_threads(threads, dtype):
    n = 3 * 65536 + 17
    rng = np.random.default_rng(0)
    before = pydlx.get_num_threads()
    try:
        pydlx.set_num_threads(threads)
        for kind in ("normal", "equal", "two"):
            row = values_of(kind, n, rng) * (1 if "float" in dtype else 50)
            check(pydlx.tensor(np.abs(row)).to(getattr(pydlx, dtype)), n)
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("n", [200, 300, 70000])
def test_integers_of_the_whole_range(n):
    rng = np.random.default_rng(n)
    x = rng.integers(-(2**63), 2**63 - 1, n)
    x[:3] = -(2**63), 2**63 - 1, 0
    check(pydlx.from_numpy(x), n)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("n", [100, 1000, 70000])
def test_median_takes_the_first_nan(n, dtype):
    x = np.random.default_rng(1).normal(size=(2, n))
    x[1, [n // 3, n // 2]] = np.nan
    t = pydlx.tensor(x).to(getattr(pydlx, dtype))
    values, indices = pydlx.median(t, dim=-1)
    assert np.isnan(values.double().numpy()).tolist() == [False, True] and int(indices[1]) == n // 3
    # as a value like any other NaN is the largest
    assert int(pydlx.kthvalue(t[1], n - 1).indices) == n // 3 and int(pydlx.kthvalue(t[1], n).indices) == n // 2


def test_other_axes_and_views():
    x = pydlx.tensor(np.random.default_rng(2).normal(size=(300, 7, 5)))
    want = np.argsort(x.numpy(), axis=0, kind="stable")[149]
    np.testing.assert_array_equal(pydlx.median(x, dim=0).indices.numpy(), want)
    np.testing.assert_array_equal(pydlx.median(x[::1, ::2], dim=0).indices.numpy(), want[::2])
    flipped = x.transpose(0, 2)
    np.testing.assert_array_equal(pydlx.median(flipped, dim=2).indices.numpy(), want.T)
