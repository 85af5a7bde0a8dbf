"""Matrix products at the edges of every tile, block and path, on every instruction set, against float64 NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

EPSILON = {"float32": 1.2e-7, "float64": 2.3e-16}


def operand(rng, rows, cols, dtype, transposed):
    """A NumPy matrix and the same matrix as a tensor whose rows or columns are contiguous."""
    x = rng.standard_normal((rows, cols)).astype(dtype)
    t = pydlx.from_numpy(np.ascontiguousarray(x.T)).transpose(0, 1) if transposed else pydlx.from_numpy(x)
    return x, t


def check(got, a, b, dtype):
    want = a.astype(np.float64) @ b.astype(np.float64)
    got = got.numpy()
    assert got.shape == want.shape
    bound = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))  # the condition of each sum
    limit = EPSILON[dtype] * (4 + np.sqrt(a.shape[1])) * bound
    worst = np.abs(got - want) - limit
    assert (worst <= 0).all(), f"error {np.abs(got - want).max()} at {np.unravel_index(worst.argmax(), worst.shape)}"


SIZES = [1, 2, 3, 5, 6, 7, 12, 13, 16, 17, 31, 33, 48, 63, 64, 65, 79, 127, 130]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_tile_edges(isa, dtype, layout):
    rng = np.random.default_rng(1)
    for n in SIZES:
        for m in (1, 2, 5, 6, 7, 13, 33):
            for k in (1, 4, 17, 33, 100):
                a, ta = operand(rng, m, k, dtype, layout[0] == "t")
                b, tb = operand(rng, k, n, dtype, layout[1] == "t")
                check(ta @ tb, a, b, dtype)


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(97, 321, 400), (256, 256, 256), (25, 1030, 777), (300, 129, 1025), (1, 700, 900), (900, 1, 700), (33, 7, 2000)],
)
def test_blocks(isa, layout, m, n, k):
    rng = np.random.default_rng(2)
    for dtype in ("float32", "float64"):
        a, ta = operand(rng, m, k, dtype, layout[0] == "t")
        b, tb = operand(rng, k, n, dtype, layout[1] == "t")
        check(ta @ tb, a, b, dtype)


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("m", [95, 96, 97])
@pytest.mark.parametrize(("n", "k"), [(447, 383), (448, 384), (449, 385), (513, 769), (200, 1024)])
def test_packed_blocks(isa, layout, m, n, k):
    """One below, at and above the blocks of rows, columns and K; rows of A a multiple of 1 KB apart."""
    rng = np.random.default_rng(8)
    a, ta = operand(rng, m, k, "float32", layout[0] == "t")
    b, tb = operand(rng, k, n, "float32", layout[1] == "t")
    c = pydlx.full((m + 2, n + 2), 7.0)
    c[1:-1, 1:-1].addmm_(ta, tb, beta=0.0)
    got = c.numpy().copy()
    check(pydlx.from_numpy(got[1:-1, 1:-1].copy()), a, b, "float32")
    got[1:-1, 1:-1] = 7
    assert (got == 7).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [63, 64, 65, 511, 512, 513, 1023, 1024, 1025, 2100])
def test_few_rows_times_matrix(isa, rows, n):
    """Strips of sums and groups of rows of B, both ways round; what lies beyond the result stays untouched."""
    rng = np.random.default_rng(9)
    for dtype in ("float32", "float64"):
        for k in (15, 16, 17, 23, 25, 300):
            a, ta = operand(rng, rows, k, dtype, False)
            b, tb = operand(rng, k, n + 3, dtype, False)
            check(ta @ tb[:, :n], a, b[:, :n], dtype)
            check(tb[:, :n].T @ ta.T, b[:, :n].T, a.T, dtype)
            c = pydlx.full((rows + 2, n + 2), 7.0, dtype=tb.dtype)
            c[1:-1, 1:-1].addmm_(ta, tb[:, 1 : n + 1], beta=0.5, alpha=2)
            got = c.numpy().copy()
            want = 3.5 + 2 * (a.astype(np.float64) @ b[:, 1 : n + 1])
            np.testing.assert_allclose(got[1:-1, 1:-1], want, rtol=1e-4, atol=2e-4)
            got[1:-1, 1:-1] = 7
            assert (got == 7).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows_times_a_large_matrix(isa, rows):
    """Beyond 8 MB the next rows are fetched ahead."""
    rng = np.random.default_rng(12)
    a, ta = operand(rng, rows, 1201, "float32", False)
    b, tb = operand(rng, 1201, 1777, "float32", False)
    check(ta @ tb, a, b, "float32")
    check(tb.T.contiguous() @ ta.T, b.T, a.T, "float32")
    check(ta @ tb.T.contiguous().T, a, b, "float32")
    check((ta[0] @ tb)[None], a[:1], b, "float32")
    check((tb.T @ ta[0])[None], a[:1], b, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [4, 6, 7, 8, 10, 11, 13, 15, 16, 17, 21, 22, 31, 32, 33, 47, 48, 64, 65, 80, 128])
def test_columns_broadcast_as_they_lie(isa, dtype, rows):
    """Tiles of the transposed product: edges of vectors, chunks of columns and blocks of K; A either way round."""
    rng = np.random.default_rng(14)
    for n, k in [(31, 64), (32, 64), (95, 65), (96, 191), (97, 193), (200, 383), (193, 385), (113, 800)]:
        for transposed in (False, True):
            a, ta = operand(rng, rows, k, dtype, transposed)
            b, tb = operand(rng, k, n, dtype, True)
            check(ta @ tb, a, b, dtype)
            c = pydlx.full((rows + 2, n + 2), 7.0, dtype=tb.dtype)
            c[1:-1, 1:-1].addmm_(ta, tb, beta=0.5, alpha=2)
            got = c.numpy().copy()
            want = 3.5 + 2 * (a.astype(np.float64) @ b)
            np.testing.assert_allclose(got[1:-1, 1:-1], want, rtol=1e-4, atol=4e-4)
            got[1:-1, 1:-1] = 7
            assert (got == 7).all(), (n, k, transposed)


@pytest.mark.parametrize("rows", [16, 24, 64])
def test_columns_broadcast_from_memory(isa, rows):
    """Beyond 8 MB the columns of the next tile are fetched ahead; bias and activation are applied on the way back."""
    rng = np.random.default_rng(15)
    a, ta = operand(rng, rows, 1201, "float32", False)
    b, tb = operand(rng, 1201, 1777, "float32", True)
    bias = rng.standard_normal(1777).astype(np.float32)
    linear = pydlx.nn.functional.linear_activation
    want = pydlx.from_numpy(a.astype(np.float64) @ b + bias)
    for activation in ("relu", "gelu", "tanh"):
        got = linear(ta, tb.T, pydlx.from_numpy(bias), activation=activation)
        expected = getattr(pydlx.nn.functional, activation)(want)
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-4, atol=5e-4)
    ta[3, 5] = float("nan")
    got = linear(ta, tb.T, pydlx.from_numpy(bias), activation="relu").numpy()
    assert np.isnan(got[3]).all() and not np.isnan(np.delete(got, 3, 0)).any()


@pytest.mark.parametrize(("rows", "n", "width"), [(2085, 3024, 3024), (2085, 3025, 3040), (1030, 6400, 6400)])
def test_results_larger_than_the_caches(isa, rows, n, width):
    """Whole cache lines of such results pass the caches; the ends of rows, and what lies behind them, do not."""
    rng = np.random.default_rng(16)
    a, ta = operand(rng, rows, 19, "float32", False)
    b, tb = operand(rng, 19, n, "float32", True)
    frame = pydlx.full((rows, width), 7.0)
    pydlx.mm(ta, tb, out=frame[:, :n])
    got = frame.numpy()
    np.testing.assert_allclose(got[:, :n], a.astype(np.float64) @ b, rtol=1e-5, atol=1e-4)
    assert (got[:, n:] == 7).all()


def test_few_rows_in_batches_with_bias(isa):
    rng = np.random.default_rng(13)
    a = rng.standard_normal((5, 2, 400)).astype(np.float32)
    b = rng.standard_normal((5, 400, 700)).astype(np.float32)
    got = pydlx.from_numpy(a) @ pydlx.from_numpy(b)
    for i in range(5):
        check(got[i], a[i], b[i], "float32")
    w = pydlx.from_numpy(b[0]).T  # columns adjacent, as after a transposition
    bias = rng.standard_normal(700).astype(np.float32)
    got = pydlx.nn.functional.linear(pydlx.from_numpy(a[0]), w, pydlx.from_numpy(bias)).numpy()
    np.testing.assert_allclose(got, a[0].astype(np.float64) @ b[0] + bias, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_thread_counts_agree(layout):
    rng = np.random.default_rng(3)
    before = pydlx.get_num_threads()
    try:
        shapes = [(200, 300, 500), (1, 4000, 600), (4000, 1, 600), (4000, 10, 64), (31, 900, 1200), (700, 64, 64)]
        shapes += [(3, 4001, 600), (4001, 4, 600), (300, 950, 800), (13, 1500, 600), (64, 1111, 999)]
        for m, n, k in shapes:
            _, a = operand(rng, m, k, "float32", layout[0] == "t")
            _, b = operand(rng, k, n, "float32", layout[1] == "t")
            results = []
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                results.append((a @ b).numpy().tobytes())
            assert len(set(results)) == 1, (layout, m, n, k)
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 15, 16, 31, 33, 127, 129, 1000, 8191, 8192, 8193, 100003, 8192 * 256 + 5])
def test_vectors(isa, dtype, n):
    """Inner products: at the edges of vectors and of runs, and more than the most runs."""
    rng = np.random.default_rng(n)
    a, b = (rng.standard_normal(n).astype(dtype) for _ in range(2))
    exact = float(np.dot(a.astype(np.longdouble), b.astype(np.longdouble)))
    size = float(np.abs(a * b).sum())
    x, y = pydlx.tensor(a), pydlx.tensor(b)
    results = []
    before = pydlx.get_num_threads()
    for threads in (1, 2, before):
        pydlx.set_num_threads(threads)
        results.append(float(pydlx.dot(x, y)))
    assert len(set(results)) == 1
    assert abs(results[0] - exact) <= 8 * np.finfo(dtype).eps * max(size / n**0.5, abs(exact))
    apart = pydlx.tensor(np.repeat(a, 2))[::2]
    assert float(pydlx.dot(apart, y)) == pytest.approx(exact, rel=1e-3, abs=1e-4 * size / n**0.5)
    if n < 10000:
        pairs = pydlx.matmul(pydlx.stack([x, y, x])[:, None, :], pydlx.stack([y, y, x])[:, :, None])
        expected = [exact, float(np.square(b.astype(np.float64)).sum()), float(np.square(a.astype(np.float64)).sum())]
        assert pairs.reshape(-1).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5 * size / n**0.5)
        assert float(pairs[0]) == results[0]


def test_strided_operands(isa):
    rng = np.random.default_rng(4)
    big = rng.standard_normal((80, 150)).astype(np.float32)
    t = pydlx.from_numpy(big)
    check(t[3:40:2, 1:100:3] @ t[7:40, 5:140:4], big[3:40:2, 1:100:3], big[7:40, 5:140:4], "float32")
    check(t[:, :50] @ t[:50, 100:], big[:, :50], big[:50, 100:], "float32")


def test_specials(isa):
    a = np.ones((7, 40), np.float32)
    b = np.ones((40, 70), np.float32)
    a[2, 5] = np.nan
    b[3, 9] = np.inf
    got = (pydlx.from_numpy(a) @ pydlx.from_numpy(b)).numpy()
    want = a @ b
    assert np.array_equal(got, want, equal_nan=True)


def test_batches(isa):
    rng = np.random.default_rng(5)
    for batch, m, n, k in [(1, 3, 4, 5), (7, 13, 65, 30), (40, 8, 8, 8), (3, 130, 70, 50)]:
        a = rng.standard_normal((batch, m, k)).astype(np.float32)
        b = rng.standard_normal((batch, k, n)).astype(np.float32)
        got = pydlx.from_numpy(a) @ pydlx.from_numpy(b)
        for i in range(batch):
            check(got[i], a[i], b[i], "float32")
        shared = pydlx.from_numpy(a) @ pydlx.from_numpy(b[0])
        for i in range(batch):
            check(shared[i], a[i], b[0], "float32")


def test_nothing_outside_the_result_is_written(isa):
    """addmm_ accumulates into a window of a larger tensor; everything around it must stay."""
    rng = np.random.default_rng(6)
    for dtype in ("float32", "float64"):
        for m, n, k in [(1, 1, 1), (1, 100, 33), (5, 17, 9), (7, 63, 40), (13, 65, 70), (40, 129, 500), (40, 7, 64)]:
            for layout in ("nn", "nt"):
                a, ta = operand(rng, m, k, dtype, False)
                b, tb = operand(rng, k, n, dtype, layout[1] == "t")
                frame = np.full((m + 4, n + 40), 7.0, dtype)
                t = pydlx.from_numpy(frame.copy())
                t[2:-2, 20:-20].addmm_(ta, tb, beta=0.5, alpha=2)
                got = t.numpy()
                inside = got[2:-2, 20:-20].copy()
                got[2:-2, 20:-20] = 7
                assert np.array_equal(got, frame), (m, n, k, layout)
                want = 3.5 + 2 * (a.astype(np.float64) @ b)
                assert np.abs(inside - want).max() <= EPSILON[dtype] * 40 * (1 + np.abs(want).max())
