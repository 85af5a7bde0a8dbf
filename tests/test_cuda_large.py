"""Sizes at which the CUDA kernels take their other paths (sorting, several tiles, several launches), against the CPU bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from test_cuda_ops import kernels_exist

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


def same(fn, *arrays):
    """fn gives the same bits on both devices."""
    tensors = [pydlx.tensor(a) for a in arrays]
    want = fn(*tensors)
    with kernels_exist():
        got = fn(*[t.cuda() for t in tensors])
    want, got = (r if isinstance(r, tuple) else (r,) for r in (want, got))
    for w, g in zip(want, got, strict=True):
        assert g.device.type == "cuda"
        w, g = w.numpy(), g.cpu().numpy()
        assert w.dtype == g.dtype and w.shape == g.shape
        np.testing.assert_array_equal(g, w)


def floats(*sizes, seed=0):
    return np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)


def below(high, *sizes, seed=1):
    return np.random.default_rng(seed).integers(0, high, sizes)


def test_ordered_scatter_of_one_line():
    same(lambda x, i, s: x.scatter_add(0, i, s), floats(300), below(300, 5000), floats(5000))
    same(lambda x, i, s: x.scatter(0, i, s), floats(300), below(300, 5000), floats(5000))


def test_ordered_scatter_of_several_lines():
    for dim in (0, 1):
        sizes = (700, 5) if dim == 0 else (5, 700)
        same(lambda x, i, s, d=dim: x.scatter_add(d, i, s), floats(90, 90), below(90, *sizes), floats(*sizes))
        same(lambda x, i, s, d=dim: x.scatter(d, i, s), floats(90, 90), below(90, *sizes), floats(*sizes))
        for how in ("prod", "amax", "amin"):
            same(lambda x, i, s, d=dim, h=how: x.scatter_reduce(d, i, s, h), floats(90, 90), below(90, *sizes), floats(*sizes))


def test_rows_with_one_index():
    same(lambda x, i, s: x.index_add(0, i, s), floats(50, 33), below(50, 4000), floats(4000, 33))
    same(lambda x, i, s: x.index_copy(0, i, s), floats(50, 33), below(50, 4000), floats(4000, 33))
    same(lambda x, i, s: x.index_add(1, i, s), floats(7, 50, 3), below(50, 4000), floats(7, 4000, 3))
    same(lambda x, i: x[i], floats(50, 32), below(50, 4000))
    same(lambda x, i: x.index_select(1, i), floats(7, 50, 8), below(50, 400))


def test_indices_of_few_bits_and_many():
    for places in (2, 256, 70000):
        same(lambda x, i, s: x.index_add(0, i, s), floats(places), below(places, 3000), floats(3000))


def test_finding_elements():
    mask = below(3, 3, 70, 211) == 0
    same(lambda m: m.nonzero(), mask)
    same(lambda x, m: x[m], floats(3, 70, 211), mask)
    same(lambda r: pydlx.repeat_interleave(r), below(9, 5000))


def test_embedding_gradient_keeps_its_order():
    for cols in (3, 8):
        g = floats(6000, cols)

        def gradient(w, i, g):
            w = w.detach().clone().requires_grad_()
            out = pydlx.nn.functional.embedding(i, w, padding_idx=2)
            out.backward(g)
            return w.grad

        same(gradient, floats(500, cols), below(500, 6000), g)


def test_one_hot():
    same(lambda i: pydlx.nn.functional.one_hot(i), below(300, 3000))


def test_bad_index_is_reported():
    x, i = pydlx.zeros(10).cuda(), pydlx.tensor([1, 99]).cuda()
    with pytest.raises(IndexError, match="position 1"):
        x[i].cpu()
    with pytest.raises(IndexError, match="position 0"):
        pydlx.zeros(0).cuda().index_select(0, i).cpu()
    assert x.scatter(0, pydlx.tensor([2]).cuda(), 3.0).cpu().tolist()[2] == 3  # the device goes on
