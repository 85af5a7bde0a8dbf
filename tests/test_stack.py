"""stack along the last axis: rows of one element each, which few parts interleave in registers."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "bfloat16", "float32", "int32", "float64", "int64"])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5, 9])
def test_interleaved(parts, dtype, isa):
    rng = np.random.default_rng(parts)
    for n in (0, 1, 3, 16, 31, 64, 65, 513, 40000):
        arrays = [rng.integers(0, 100, n) for _ in range(parts)]
        tensors = [pydlx.from_numpy(a).to(getattr(pydlx, dtype)) for a in arrays]
        want = np.stack([t.double().numpy() for t in tensors], -1)
        np.testing.assert_array_equal(pydlx.stack(tensors, -1).double().numpy(), want)
        columns = pydlx.cat([t.unsqueeze(1) for t in tensors], 1)
        np.testing.assert_array_equal(columns.double().numpy(), want)


def test_bits_are_kept(isa):
    """NaN with a payload, and the sign of zero."""
    bits = np.array([0x7FC12345, 0xFFA00001, 0x80000000, 0x00000001] * 20, np.uint32)
    x = pydlx.from_numpy(bits.view(np.float32))
    for parts in (2, 3, 4, 5):
        got = pydlx.stack([x] * parts, -1).numpy().view(np.uint32)
        np.testing.assert_array_equal(got, np.stack([bits] * parts, -1))
