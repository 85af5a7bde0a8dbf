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
