"""Attention beyond the table: rows without keys, values behind the mask, dropout, layout of the result."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

sdpa = pydlx.nn.functional.scaled_dot_product_attention


def tensors(rng, *shapes):
    return [pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in shapes]


def ones(t):
    return pydlx.from_numpy(np.ones(tuple(t.shape), np.float32))


def test_rows_without_keys_are_zero():
    rng = np.random.default_rng(1)
    q, k, v = (t.requires_grad_() for t in tensors(rng, (2, 9, 8), (2, 600, 8), (2, 600, 8)))
    allowed = rng.integers(0, 2, (9, 600)).astype(bool)
    allowed[[0, 4]] = False
    mask = pydlx.from_numpy(allowed)
    additive = pydlx.from_numpy(np.where(allowed, 0, -np.inf).astype(np.float32))
    for m in (mask, additive):
        out = sdpa(q, k, v, attn_mask=m)
        assert np.all(out.detach().numpy()[:, [0, 4]] == 0)
        grads = pydlx.autograd.grad([out], [q, k, v], [ones(out)])
        for g in grads:
            assert np.isfinite(g.numpy()).all()
        assert np.all(grads[0].numpy()[:, [0, 4]] == 0)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_excluded_keys_and_values_do_not_leak(poison):
    """What stands at excluded positions (padding, say) must not change anything, forward or backward."""
    rng = np.random.default_rng(2)
    shapes = [(2, 50, 8), (2, 70, 8), (2, 70, 8)]
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    allowed = np.ones((50, 70), bool)
    allowed[:, 60:] = False

    def run(fill):
        q, k, v = arrays[0].copy(), arrays[1].copy(), arrays[2].copy()
        k[:, 60:] = fill
        v[:, 60:] = fill
        leaves = [pydlx.from_numpy(x).requires_grad_() for x in (q, k, v)]
        out = sdpa(*leaves, attn_mask=pydlx.from_numpy(allowed))
        grads = pydlx.autograd.grad([out], leaves, [ones(out)])
        return out.detach().numpy(), [g.numpy()[:, :60] for g in grads]

    clean, clean_grads = run(0)
    dirty, dirty_grads = run(poison)
    assert np.allclose(clean, dirty, atol=1e-6)
    for a, b in zip(clean_grads, dirty_grads):
        assert np.allclose(a, b, atol=1e-5)


def test_result_keeps_the_axis_order_of_the_query():
    rng = np.random.default_rng(3)
    q, k, v = (t.transpose(1, 2) for t in tensors(rng, (2, 5, 3, 4), (2, 5, 3, 4), (2, 5, 3, 4)))
    assert sdpa(q, k, v).transpose(1, 2).is_contiguous()


def test_dropout():
    rng = np.random.default_rng(4)
    q, k, v = tensors(rng, (4, 30, 8), (4, 30, 8), (4, 30, 8))
    v = ones(v)
    out = sdpa(q, k, v, dropout_p=0.5).numpy()
    assert 0.9 < out.mean() < 1.1
    assert out.std() > 0.01
    assert np.all(sdpa(q, k, v, dropout_p=1.0).numpy() == 0)
