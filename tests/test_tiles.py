"""Elementwise operations on transposed operands, which are turned tile by tile: edges of tiles, every element size,
several transposed operands, broadcasts beside them, and outputs in place."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

EDGES = [15, 16, 17, 31, 33, 63, 64, 65, 130]


def filled(shape, dtype):
    return (np.arange(int(np.prod(shape))).reshape(shape) % 119 - (dtype != "uint8") * 50).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "int64", "float64"])
def test_matrices(dtype, isa):
    for rows in EDGES:
        for cols in EDGES:
            a, b = filled((cols, rows), dtype), filled((rows, cols), dtype)
            got = pydlx.from_numpy(b) + pydlx.from_numpy(a).t()
            assert np.array_equal(got.numpy(), b + a.T), (rows, cols)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_mixed_operands(dtype, isa):
    a, b, c = (pydlx.from_numpy(filled(s, "float32")) for s in [(70, 41), (41, 70), (70, 41)])
    t = getattr(pydlx, dtype)
    x, y, z = a.to(t), b.to(t), c.to(t)
    expected = (b.numpy() + a.numpy().T) * c.numpy().T
    for _ in range(2):
        got = (y + x.t()) * z.t()
        np.testing.assert_allclose(got.float().numpy(), expected, rtol=1e-2 if t != pydlx.float32 else 0)
    np.testing.assert_array_equal(
        pydlx.where(y > x.t(), y, z.t()).float().numpy(), np.where(b.numpy() > a.numpy().T, b.numpy(), c.numpy().T)
    )
    np.testing.assert_array_equal(pydlx.addcmul(x.t(), y, z.t(), value=0).float().numpy(), a.numpy().T + 0 * b.numpy())
    row = pydlx.from_numpy(filled((70,), "float32"))
    np.testing.assert_array_equal((pydlx.zeros(41, 70) + c.t() + row).numpy(), c.numpy().T + row.numpy())


def test_more_axes(isa):
    a = filled((3, 33, 5, 40), "float32")
    t = pydlx.from_numpy(a)
    for order in [(0, 3, 2, 1), (3, 1, 2, 0), (2, 3, 0, 1), (3, 2, 1, 0), (0, 2, 3, 1), (1, 3, 0, 2)]:
        turned = a.transpose(order)
        dense = filled(turned.shape, "float32")
        got = pydlx.from_numpy(dense) - t.permute(*order)
        assert np.array_equal(got.numpy(), dense - turned), order
    half = pydlx.from_numpy(filled((40, 80), "float32"))
    got = pydlx.zeros(37, 40) + half[:, 3:40].t()
    assert np.array_equal(got.numpy(), half.numpy()[:, 3:40].T)


def test_in_place(isa):
    for n in (17, 64, 100):
        a = filled((n, n), "float32")
        t = pydlx.from_numpy(a.copy())
        t += t.t()
        np.testing.assert_array_equal(t.numpy(), a + a.T)
        u = pydlx.from_numpy(a.copy())
        u.t().mul_(pydlx.from_numpy(a))
        np.testing.assert_array_equal(u.numpy(), a * a.T)


def test_threads(isa):
    x = pydlx.from_numpy(np.random.default_rng(0).normal(size=(300, 500)).astype(np.float32))
    y = pydlx.from_numpy(np.random.default_rng(1).normal(size=(500, 300)).astype(np.float32))
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            pydlx.set_num_threads(threads)
            results.append((y * x.t() + y).numpy())
    finally:
        pydlx.set_num_threads(before)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int32"])
def test_columns_and_numbers(dtype, isa):
    """The second operand is one value along every row, or altogether."""
    for rows, cols in [(3, 1), (2, 5), (5, 15), (4, 16), (3, 33), (2, 600), (7, 1100)]:
        a, b = filled((rows, cols), dtype), filled((rows, 1), dtype)
        b[b == 0] = 2
        x, y = pydlx.from_numpy(a), pydlx.from_numpy(b)
        np.testing.assert_array_equal((x + y).numpy(), a + b)
        np.testing.assert_array_equal((x - y).numpy(), a - b)
        np.testing.assert_array_equal((x * y).numpy(), a * b)
        np.testing.assert_array_equal((x - 3).numpy(), a - np.array(3, dtype))
        np.testing.assert_array_equal((y - x).numpy(), b - a)
        wide = pydlx.from_numpy(np.repeat(a, 2, 1))[:, ::2]  # strided beside it
        np.testing.assert_array_equal((wide * y).numpy(), a * b)
        if "float" in dtype:
            np.testing.assert_array_equal((x / y).numpy(), a / b)
            z = x.clone()
            z /= y
            z.mul_(0.5)
            np.testing.assert_array_equal(z.numpy(), a / b * np.array(0.5, dtype))
            z[0, 0] = float("nan")
            z += z[:, :1]  # shares memory with the result
            assert np.isnan(z.numpy()[0]).all()
