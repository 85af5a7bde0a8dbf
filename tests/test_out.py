"""out= of elementwise operations: written directly where nothing can tell, computed first and copied where memory is shared,
and refused as ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx

OPERATIONS = {
    "add": lambda T, x, y, out: T.add(x, y, out=out),
    "add scaled": lambda T, x, y, out: T.add(x, y, alpha=3, out=out),
    "sub": lambda T, x, y, out: T.sub(x, y, out=out),
    "mul by a number": lambda T, x, y, out: T.mul(x, 2.5, out=out),
    "div": lambda T, x, y, out: T.div(x, y, out=out),
    "exp": lambda T, x, y, out: T.exp(x, out=out),
    "pow": lambda T, x, y, out: T.pow(x, 2, out=out),
    "maximum": lambda T, x, y, out: T.maximum(x, y, out=out),
    "lerp": lambda T, x, y, out: T.lerp(x, y, 0.25, out=out),
    "addcmul": lambda T, x, y, out: T.addcmul(x, x, y, value=2, out=out),
    "remainder": lambda T, x, y, out: T.remainder(x, y, out=out),
    "floor_divide": lambda T, x, y, out: T.floor_divide(x, y, out=out),
    "clamp": lambda T, x, y, out: T.clamp(x, -0.5, 0.5, out=out),
    "hypot": lambda T, x, y, out: T.hypot(x, y, out=out),
}
# (x, y, out) from a buffer of 40 rows: apart; out is an operand; out overlaps one; out is strided, or transposed.
PLACES = {
    "apart": lambda b: (b[:7], b[10:17], b[20:27]),
    "is x": lambda b: (b[:7], b[10:17], b[:7]),
    "is y": lambda b: (b[:7], b[10:17], b[10:17]),
    "before": lambda b: (b[1:8], b[10:17], b[:7]),
    "behind": lambda b: (b[:7], b[10:17], b[2:9]),
    "across": lambda b: (b[:7], b[7:14], b[4:11]),
    "strided": lambda b: (b[:7], b[10:17], b[20:34:2]),
    "transposed": lambda b: (b[:7, :7], b[10:17, :7], b[20:27, :7].T),
    "over its transpose": lambda b: (b[:7, :7], b[10:17, :7], b[:7, :7].T),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", OPERATIONS)
def test_values(name, place):
    results = []
    for T in (pydlx, torch):
        buffer = T.from_numpy(np.random.default_rng(1).uniform(0.5, 3, (40, 9)))
        x, y, out = PLACES[place](buffer)
        x, y = (x, y) if T is pydlx else (x.clone(), y.clone())  # PyTorch refuses what overlaps
        kept, version = out, out._version
        assert OPERATIONS[name](T, x, y, out) is out
        assert kept._version > version
        results.append(buffer.numpy())
    np.testing.assert_allclose(*results, rtol=1e-14, atol=1e-14)


def test_memory_of_out_is_kept():
    x, out = pydlx.ones(3, 4), pydlx.zeros(3, 4)
    view, where = out[1], out.data_ptr()
    pydlx.add(x, 1, out=out)
    assert out.data_ptr() == where
    np.testing.assert_array_equal(view.numpy(), 2)
    wide = pydlx.zeros(3, 4, dtype=pydlx.float64)
    pydlx.add(x, 1, out=wide)
    assert wide.dtype is pydlx.float64
    np.testing.assert_array_equal(wide.numpy(), 2)
    assert pydlx.add(x, 1, out=pydlx.empty(0)).shape == (3, 4)


def test_memory_shared_with_numpy():
    a = np.arange(12.0)
    x, out = pydlx.from_numpy(a[:8]), pydlx.from_numpy(a[2:10])  # two storages of the same memory
    pydlx.mul(x, 2, out=out)
    np.testing.assert_array_equal(a[2:10], np.arange(8.0) * 2)


def test_what_is_refused_leaves_out_alone():
    x = pydlx.ones(3, requires_grad=True)
    for operand, out, error in (
        (x, pydlx.zeros(3), "out= does not support"),
        (x.detach(), pydlx.zeros(3, requires_grad=True), "out= does not support"),
        (x.detach(), pydlx.zeros(4), "expected shape"),
        (x.detach(), pydlx.zeros(3, dtype=pydlx.int64), "expected a dtype"),
    ):
        with pytest.raises(RuntimeError, match=error):
            pydlx.add(operand, 1, out=out)
        np.testing.assert_array_equal(out.detach().numpy(), 0)
    with pydlx.no_grad():
        out = pydlx.zeros(3, requires_grad=True)
        pydlx.add(x, 1, out=out)
    np.testing.assert_array_equal(out.detach().numpy(), 2)


def test_a_saved_tensor_that_out_replaces_is_noticed():
    w, s = pydlx.ones(3, requires_grad=True), pydlx.ones(3)
    y = (w * s).sum()
    pydlx.add(pydlx.ones(3), 1, out=s)
    with pytest.raises(RuntimeError):
        y.backward()
