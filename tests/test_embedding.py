"""Gradients of look-ups that are not the derivative of their forward: padding rows and frequency scaling; determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx


@pytest.mark.parametrize(
    "options",
    [
        {"padding_idx": 2},
        {"padding_idx": -1},
        {"scale_grad_by_freq": True},
        {"padding_idx": 0, "scale_grad_by_freq": True},
    ],
)
def test_gradients(options):
    rng = np.random.default_rng(0)
    index, table, g = rng.integers(0, 5, (6, 7)), rng.standard_normal((5, 67)), rng.standard_normal((6, 7, 67))

    def grad(T, lookup):
        w = T.from_numpy(table.copy()).requires_grad_(True)
        y = lookup(T.from_numpy(index), w, **options)
        return T.autograd.grad(y, w, T.from_numpy(g))[0].numpy()

    got, want = grad(pydlx, pydlx._C.embedding), grad(torch, torch.nn.functional.embedding)
    assert np.allclose(got, want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("options", [{"padding_idx": 2}, {"scale_grad_by_freq": True}])
def test_second_order(options):
    """The gradient is linear in the cotangent, so its own gradient is the transpose: <dw(g), v> = <g, dg(v)>."""
    rng = np.random.default_rng(1)
    index = pydlx.from_numpy(rng.integers(0, 5, 30))
    w = pydlx.from_numpy(rng.standard_normal((5, 3))).requires_grad_(True)
    g = pydlx.from_numpy(rng.standard_normal((30, 3))).requires_grad_(True)
    v = pydlx.from_numpy(rng.standard_normal((5, 3)))
    (dw,) = pydlx.autograd.grad(pydlx._C.embedding(index, w, **options), w, g, create_graph=True)
    (dg,) = pydlx.autograd.grad(dw, g, v)
    assert np.allclose((dw.detach().numpy() * v.numpy()).sum(), (g.detach().numpy() * dg.numpy()).sum())


def test_any_number_of_threads():
    before = pydlx.get_num_threads()
    rng = np.random.default_rng(2)
    index, g = (
        pydlx.from_numpy(rng.integers(0, 200, 20_000)),
        pydlx.from_numpy(rng.standard_normal((20_000, 33)).astype(np.float32)),
    )
    try:
        results = []
        for n in (1, 2, 3):
            pydlx.set_num_threads(n)
            w = pydlx.randn(200, 33, requires_grad=True)
            results.append(pydlx.autograd.grad(pydlx._C.embedding(index, w), w, g)[0].numpy())
    finally:
        pydlx.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_index_changed_before_backward():
    index = pydlx.from_numpy(np.array([0, 1, 2]))
    w = pydlx.randn(3, 2, requires_grad=True)
    y = pydlx._C.embedding(index, w)
    index.fill_(7)  # must not reach the table when backward runs
    with pytest.raises(RuntimeError, match="embedding"):
        y.sum().backward()
