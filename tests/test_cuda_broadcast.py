"""Elementwise operations on the GPU whose operands are broadcast or strided: packs of rows and single elements, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

DTYPES = ["float64", "float32", "float16", "bfloat16", "bool", "uint8", "int16", "int32", "int64"]
# Shapes of two operands.
SHAPES = [
    ((6, 48), (48,)),
    ((6, 48), (6, 1)),
    ((6, 47), (47,)),
    ((3, 4, 16), (3, 1, 16)),
    ((3, 4, 16), (4, 1)),
    ((2, 1, 5, 8), (3, 1, 8)),
    ((2, 3, 1, 24), (2, 1, 4, 1)),
    ((2, 5, 7, 8), (5, 1, 1)),
    ((2, 1, 3, 1, 2, 1, 8), (2, 1, 3, 1, 2, 8)),
    ((2, 1, 2, 1, 2, 1, 8), (1, 3, 1, 2, 1, 2, 1)),
    ((1, 16), (9, 1)),
]


def operand(shape, dtype, seed):
    x = np.rint(np.random.default_rng(seed).standard_normal(shape) * 4)
    return pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()


def exact(t):
    return t.cpu().double().numpy()


@pytest.mark.parametrize(("a", "b"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_operands(a, b, dtype):
    x, y = operand(a, dtype, 1), operand(b, dtype, 2)
    for p, q in ((x, y), (y, x)):
        if dtype != "bool":
            want = exact(p) + exact(q)
            np.testing.assert_array_equal(exact(p + q), want if dtype != "uint8" else want % 256)
        np.testing.assert_array_equal(exact(p < q), exact(p) < exact(q))
        np.testing.assert_array_equal(exact(pydlx.where(p < q, p, q)), np.minimum(exact(p), exact(q)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_operands_and_results(dtype):
    base = operand((6, 5, 64), dtype, 3)
    x = exact(base)
    for view in (
        np.s_[:, :, 16:48],
        np.s_[::2, 1:],
        np.s_[:, 2, 8:24],
        np.s_[:, :, 1:33],
        np.s_[:, :, ::2],
        np.s_[:, :, 3:40],
    ):
        np.testing.assert_array_equal(exact(base[view].contiguous()), x[view])
        out = base.clone()
        out[view] = base[view].flip(0)
        want = x.copy()
        want[view] = x[view][::-1]
        np.testing.assert_array_equal(exact(out), want)
        np.testing.assert_array_equal(exact(base[view].to(pydlx.float32)), x[view])
        np.testing.assert_array_equal(exact(base[view] == base[view].flip(-1)), x[view] == x[view][..., ::-1])


def test_expanded_operands_with_values():
    x = operand((4, 1, 16), "float32", 4).expand(4, 3, 16)
    np.testing.assert_array_equal(exact(x * 3 + 1), exact(x) * 3 + 1)
    np.testing.assert_array_equal(exact(pydlx.where(x > 0, x, 0.0)), np.maximum(exact(x), 0))
    y = operand((5, 3, 8), "bfloat16", 5)
    y += operand((3, 1), "bfloat16", 6)
    y[:, 1:] *= 2.0
    want = exact(operand((5, 3, 8), "bfloat16", 5)) + exact(operand((3, 1), "bfloat16", 6))
    want[:, 1:] *= 2
    np.testing.assert_array_equal(exact(y), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 4, 16), (2, 3, 5, 48), (1, 2, 3, 7), (2, 0, 4, 16)], ids=str)
@pytest.mark.parametrize("skew", [0, 1])
def test_copies_by_tables(shape, dtype, skew):
    """Pads, rolls, flips and joins whose rows are moved whole, 16 bytes at a time, and others."""
    x = operand(shape, dtype, 6)
    if skew:
        memory = pydlx.zeros(x.numel() + skew, dtype=x.dtype, device="cuda")[skew:].reshape(shape)
        memory.copy_(x)
        x = memory
    a = exact(x)
    pad = pydlx.nn.functional.pad
    value = True if dtype == "bool" else 3
    for sides in ((0, 0, 2, 1), (0, 0, -1, 2), (1, 2), (0, 0, 1, 1, 2, 0)):
        if all(n + sides[2 * i] + sides[2 * i + 1] > 0 for i, n in enumerate(shape[:1:-1]) if 2 * i < len(sides)):
            widths = [(0, 0)] * (4 - len(sides) // 2) + list(zip(sides[::2], sides[1::2], strict=True))[::-1]
            cut = a[tuple(slice(max(-lo, 0), n - max(-hi, 0)) for (lo, hi), n in zip(widths, shape, strict=True))]
            want = np.pad(cut, [(max(lo, 0), max(hi, 0)) for lo, hi in widths], constant_values=int(value))
            np.testing.assert_array_equal(exact(pad(x, sides, value=value)), want)
    if a.size:
        if dtype in ("float32", "float64"):
            np.testing.assert_array_equal(
                exact(pad(x, (0, 0, 2, 1), mode="reflect")), np.pad(a, [(0, 0)] * 2 + [(2, 1), (0, 0)], mode="reflect")
            )
        for dim in range(4):
            np.testing.assert_array_equal(exact(x.roll(2, dim)), np.roll(a, 2, dim))
            np.testing.assert_array_equal(exact(x.flip(dim)), np.flip(a, dim))
    for dim in range(4):
        np.testing.assert_array_equal(exact(pydlx.cat([x, x, x], dim)), np.concatenate([a, a, a], dim))
        np.testing.assert_array_equal(exact(pydlx.stack([x, x], dim)), np.stack([a, a], dim))
