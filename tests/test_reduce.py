"""What the table of cases cannot express about reductions: subgradients at ties, accuracy of long sums, results of extreme shapes."""

import numpy as np
import pytest
import torch
from every_path import on_every_path

import pydlx


def layouts(rows, n):
    """Matrices with cancelling rows of mixed magnitude: dense, off the alignment, every second column, transposed."""
    x = np.random.default_rng(rows * n).standard_normal((rows, 2 * n + 1)).astype(np.float32)
    x *= 10.0 ** np.random.default_rng(n).integers(-4, 5, x.shape)
    x[:, n // 2 : n // 2 * 2] = -x[:, : n // 2]
    flat = np.zeros(rows * n + 1, np.float32)
    flat[1:] = x[:, :n].ravel()
    yield np.ascontiguousarray(x[:, :n])
    yield flat[1:].reshape(rows, n)
    yield x[:, 1 : 2 * n + 1 : 2]
    yield x[:, :n]
    yield np.ascontiguousarray(x[:, :n].T).T


def check_sums(x, axis):
    t = pydlx.from_numpy(x)
    exact, magnitude = x.sum(axis, dtype=np.float64), np.abs(x).sum(axis, dtype=np.float64)
    bound = 2.0**-23 * magnitude + 2.0**-24 * np.abs(exact)
    assert (np.abs(on_every_path(lambda: t.sum(axis)) - exact) <= bound).all()
    assert (np.abs(on_every_path(lambda: t.abs().sum(axis)) - magnitude) <= bound + 2.0**-24 * magnitude).all()
    norm = on_every_path(lambda: t.norm(1, axis))
    assert (np.abs(norm - magnitude) <= bound + 2.0**-24 * magnitude).all()


@pytest.mark.parametrize(
    "n",
    [1, 3, 5, 15, 16, 17, 63, 64, 65, 127, 129, 255, 256, 257, 319, 320, 321, 383, 384, 385, 4095, 4096, 4097, 40000],
)
def test_float32_sums_of_rows(n):
    for x in layouts(5, n):
        check_sums(x, 1)
        check_sums(x, 0)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 9, 64, 127, 128, 129, 136, 255, 256, 257, 1037])
def test_float32_sums_of_columns(rows):
    for width in (2, 3, 33, 513):
        for x in layouts(rows, width):
            check_sums(x, 0)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 12, 31, 32, 33])
def test_many_short_rows(n):
    """They are turned into columns, by squares of four words: edges of squares and of blocks of 128 rows."""
    for rows in (64, 66, 127, 128, 129, 131):
        for x in layouts(rows, n):
            check_sums(x, 1)
            t = pydlx.from_numpy(x)
            np.testing.assert_array_equal(on_every_path(lambda t=t: t.amax(1)), x.max(1))
            windows = t.flatten().unfold(0, n, 1)  # rows that overlap
            want = np.lib.stride_tricks.sliding_window_view(x.ravel(), n).max(1)
            np.testing.assert_array_equal(on_every_path(lambda w=windows: w.amax(1)), want)


def test_float32_sums_over_planes():
    x = np.random.default_rng(5).standard_normal((9, 5, 28, 29)).astype(np.float32)
    t, axes = pydlx.from_numpy(x), (0, 2, 3)
    exact, bound = x.sum(axes, dtype=np.float64), 2.0**-23 * np.abs(x).sum(axes, dtype=np.float64)
    assert (np.abs(on_every_path(lambda: t.sum(axes)) - exact) <= bound).all()


# Kept channels between reduced axes, which advance several at a time from 33 results on and for planes of 64 to 2048
# elements: on both sides of each limit, with a last block that is not full, and with more reduced or kept axes.
PLANES = [
    ((3, 32, 8, 8), (0, 2, 3)),
    ((3, 33, 8, 8), (0, 2, 3)),
    ((1, 40, 9, 9), (0, 2, 3)),
    ((7, 41, 7, 9), (0, 2, 3)),
    ((70, 34, 5, 13), (0, 2, 3)),
    ((5, 35, 2048), (0, 2)),
    ((5, 35, 2049), (0, 2)),
    ((2, 3, 36, 65), (0, 1, 3)),
    ((4, 2, 3, 20, 70), (1, 2, 4)),
]


@pytest.mark.parametrize("dtype", ["int16", "float16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axes"), PLANES)
def test_results_between_reduced_axes(shape, axes, dtype):
    x = np.random.default_rng(2).integers(-50, 50, shape).astype(dtype)
    exact, t = x.astype(np.float64), pydlx.from_numpy(x)
    for view, wanted in ((t, exact), (t[..., : shape[-1] - 1], exact[..., :-1])):
        rtol = 2e-3 if dtype == "float16" else 1e-6
        assert np.allclose(view.sum(axes).numpy(), wanted.sum(axes), rtol, 0)
        assert np.array_equal(view.amax(axes).numpy(), wanted.max(axes))
        if dtype != "int16":
            assert np.allclose(view.var(axes).numpy(), wanted.var(axes, ddof=1), rtol)
    if dtype == "float32":
        t[0, 0, ..., 0] = float("nan")
        assert np.array_equal(t.sum(axes).isnan().numpy(), np.isnan(t.numpy().sum(axes)))


def test_results_between_reduced_axes_on_every_path():
    x = np.random.default_rng(3).normal(size=(37, 50, 17, 19)).astype(np.float32)
    got = on_every_path(lambda: pydlx.from_numpy(x).sum((0, 2, 3)))
    assert np.allclose(got, x.sum((0, 2, 3), dtype=np.float64), 1e-5, 1e-4)


@pytest.mark.parametrize("n", [4, 64, 129, 255, 256, 400, 1000, 5000])
def test_float32_sums_err_no_more_than_the_oracle(n):
    rng = np.random.default_rng(n)
    inputs = [rng.uniform(0, 1, (64, n)), rng.standard_normal((64, n)), rng.standard_normal((64, n)) + 1e4]
    inputs.append(rng.standard_cauchy((64, n)))
    for values in inputs:
        values[:, -1] = -values[:, :-1].sum(1)
        x = values.astype(np.float32)
        for axis, m in ((1, x), (0, np.ascontiguousarray(x.T))):
            exact = m.sum(axis, dtype=np.float64)
            ours, theirs = (T.from_numpy(m).sum(axis).numpy() for T in (pydlx, torch))
            assert np.abs(ours - exact).mean() <= np.abs(theirs - exact).mean() * 1.01 + 1e-12


def test_short_float32_sums_round_once():
    """Values whose float32 sum would lose the ones."""
    for n in (7, 8, 31, 32, 33, 63, 64, 65, 253):
        x = np.ones((5, n + 2), np.float32)
        x[:, 0], x[:, n + 1] = 2.0**26, -(2.0**26)
        np.testing.assert_array_equal(on_every_path(lambda x=x: pydlx.from_numpy(x).sum(1)), n)
    x = np.ones((127, 40), np.float32)
    x[0], x[126] = 2.0**26, -(2.0**26)
    np.testing.assert_array_equal(on_every_path(lambda: pydlx.from_numpy(x).sum(0)), 125)


@pytest.mark.parametrize("n", [4, 16, 64, 70, 256, 300, 4100])
def test_groups_that_overflow_are_added_in_double(n):
    big = np.float32(3e38)
    for shape, axis in (((3, n), 1), ((n, 3), 0), ((100, n), 1), ((100, 32), 1)):
        t = pydlx.full(shape, float(big))
        np.testing.assert_array_equal(on_every_path(lambda t=t, axis=axis: t.mean(axis)), big)
        x = np.full(shape, big)
        x[tuple(slice(None) if k != axis else slice(0, None, 2) for k in range(2))] *= -1
        np.testing.assert_array_equal(on_every_path(lambda x=x, axis=axis: pydlx.from_numpy(x).sum(axis)), 0)
    for value in (np.inf, np.nan):
        x = np.ones((n, 40), np.float32)
        x[n // 2, 7] = value
        for axis in (0, 1):
            np.testing.assert_array_equal(
                on_every_path(lambda x=x, axis=axis: pydlx.from_numpy(x).sum(axis)), x.sum(axis)
            )
            np.testing.assert_array_equal(
                on_every_path(lambda x=x, axis=axis: pydlx.from_numpy(x).nansum(axis)), np.nansum(x, axis)
            )


def gradient(T, f, x):
    t = T.from_numpy(x.copy()).requires_grad_(True)
    (g,) = T.autograd.grad(f(t).sum(), [t])
    return g.numpy()


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t.amax(1),
        lambda t: t.amin((0, 1)),
        lambda t: t.max(),
        lambda t: t.min(),
        lambda t: t.max(1).values,
        lambda t: t.norm(float("inf")),
    ],
    ids=["amax", "amin", "max", "min", "max-dim", "norm-inf"],
)
def test_gradient_at_ties(f):
    x = np.random.default_rng(0).integers(-2, 3, (5, 30)).astype(np.float64)
    np.testing.assert_allclose(gradient(pydlx, f, x), gradient(torch, f, x), rtol=1e-14)


@pytest.mark.parametrize("shape", [(3_000_001,), (1501, 2003), (2, 700_001), (700_001, 2)])
def test_long_float32_sums_are_exact_to_rounding(shape):
    x = np.random.default_rng(1).uniform(0, 1, shape).astype(np.float32)
    t = pydlx.from_numpy(x)
    for axis in range(-1, x.ndim - 1) if x.ndim > 1 else [0]:
        want = x.sum(axis, dtype=np.float64)
        np.testing.assert_allclose(t.sum(axis).numpy(), want, rtol=1.3e-7)
    np.testing.assert_allclose(t.sum().numpy(), x.sum(dtype=np.float64), rtol=1.3e-7)


def test_variance_does_not_cancel():
    x = (np.random.default_rng(2).standard_normal((64, 4099)) + 1e4).astype(np.float32)
    want = x.astype(np.float64).var(1, ddof=1)
    np.testing.assert_allclose(pydlx.from_numpy(x).var(1).numpy(), want, rtol=3e-6)
    np.testing.assert_allclose(pydlx.from_numpy(np.ascontiguousarray(x.T)).var(0).numpy(), want, rtol=3e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 1), (2, 1, 513), (513, 1, 2), (3, 4, 5, 2, 3)])
def test_every_set_of_axes(shape):
    x = np.random.default_rng(3).standard_normal(shape)
    t, u = pydlx.from_numpy(x), torch.from_numpy(x)
    for bits in range(1, 1 << len(shape)):
        axes = tuple(i for i in range(len(shape)) if bits >> i & 1)
        np.testing.assert_allclose(t.sum(axes).numpy(), u.sum(axes).numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(t.amax(axes, keepdim=True).numpy(), u.amax(axes, keepdim=True).numpy())
        np.testing.assert_allclose(
            t.var(axes, correction=0).numpy(), u.var(axes, correction=0).numpy(), rtol=1e-11, atol=1e-13
        )


def test_integer_sums_wrap():
    x = np.full(4, 2**62, np.int64)
    assert pydlx.from_numpy(x).sum().item() == int(x.sum())


def test_out():
    x = pydlx.from_numpy(np.arange(6.0).reshape(2, 3))
    out = pydlx.from_numpy(np.zeros(2))
    assert pydlx.sum(x, 1, out=out) is out
    np.testing.assert_array_equal(out.numpy(), [3.0, 12.0])
