"""Tiled attention on ``device="cuda"`` against the CPU's kernels, whose oracle is in test_attention.py."""

from __future__ import annotations

import pytest

import pydlx
import pydlx.nn.functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


def make(batch, heads, kv_heads, q_len, k_len, dim, value_dim):
    pydlx.manual_seed(q_len * 1000 + k_len)
    return (
        pydlx.randn(batch, heads, q_len, dim),
        pydlx.randn(batch, kv_heads, k_len, dim),
        pydlx.randn(batch, kv_heads, k_len, value_dim),
    )


# name: (batch, heads, kv_heads, q_len, k_len, head_dim, value_dim), arguments made from the shape
CASES = {
    "one key": ((1, 1, 1, 1, 1, 1, 1), lambda s: {}),
    "one tile": ((2, 2, 2, 64, 64, 64, 64), lambda s: {}),
    "below and above a tile": ((1, 2, 2, 63, 65, 33, 31), lambda s: {}),
    "wide heads": ((1, 1, 1, 20, 70, 130, 100), lambda s: {}),
    "causal": ((1, 2, 2, 130, 130, 16, 16), lambda s: {"is_causal": True}),
    "causal, more keys": ((1, 1, 1, 40, 100, 8, 8), lambda s: {"is_causal": True}),
    "causal, more queries": ((1, 1, 1, 100, 40, 8, 8), lambda s: {"is_causal": True}),
    "boolean mask": ((2, 2, 2, 20, 70, 8, 8), lambda s: {"attn_mask": pydlx.rand(s[0], 1, s[3], s[4]) < 0.5}),
    "additive mask": ((2, 2, 2, 20, 70, 8, 8), lambda s: {"attn_mask": pydlx.randn(s[3], s[4])}),
    "rows without a key": ((1, 1, 1, 5, 70, 8, 8), lambda s: {"attn_mask": pydlx.arange(5)[:, None].expand(5, 70) > 2}),
    "grouped queries": ((2, 6, 2, 33, 40, 8, 12), lambda s: {"enable_gqa": True}),
    "dropout": ((2, 2, 2, 33, 70, 8, 8), lambda s: {"dropout_p": 0.3}),
    "slopes": ((1, 2, 2, 20, 70, 8, 8), lambda s: {"alibi_slopes": pydlx.tensor([0.5, 0.1])}),
    "window": ((1, 2, 2, 100, 150, 8, 8), lambda s: {"window_size": (70, 3)}),
    "scale": ((1, 1, 1, 8, 9, 8, 8), lambda s: {"scale": 0.5}),
}


def run(device, shape, arguments):
    q, k, v = (t.to(device).requires_grad_() for t in make(*shape))
    placed = {n: a.to(device) if isinstance(a, pydlx.Tensor) else a for n, a in arguments.items()}
    pydlx.manual_seed(3)
    out = F.scaled_dot_product_attention(q, k, v, **placed)
    pydlx.manual_seed(4)
    grads = pydlx.autograd.grad(out, (q, k, v), pydlx.randn(out.shape).to(device))
    return [t.cpu() for t in (out.detach(), *grads)]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu(name):
    shape, arguments = CASES[name]
    pydlx.manual_seed(2)
    given = arguments(shape)
    for what, got, want in zip(("output", "dq", "dk", "dv"), run("cuda", shape, given), run("cpu", shape, given)):
        scale = max(want.abs().max().item(), 1e-3)
        error = (got - want).abs().max().item() / scale
        assert error < 2e-5, f"{what}: relative error {error:.2e}"


def test_values_behind_a_mask_do_not_leak():
    q, k, v = make(1, 1, 1, 4, 70, 8, 8)
    v[..., 35:, :] = float("nan")
    k[..., 35:, :] = float("inf")
    mask = (pydlx.arange(70) < 35).expand(4, 70)
    out = F.scaled_dot_product_attention(q.cuda(), k.cuda(), v.cuda(), attn_mask=mask.cuda()).cpu()
    want = F.scaled_dot_product_attention(q, k[..., :35, :], v[..., :35, :])
    assert (out - want).abs().max().item() < 1e-5
