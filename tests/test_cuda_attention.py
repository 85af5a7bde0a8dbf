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


def run(device, shape, arguments, dtype=pydlx.float32, rounded=pydlx.float32):
    """Output and gradients, of operands that were rounded to ``rounded`` and are handed over as ``dtype``."""
    q, k, v = (t.to(rounded).to(device, dtype).requires_grad_() for t in make(*shape))
    placed = {n: a.to(device) if isinstance(a, pydlx.Tensor) else a for n, a in arguments.items()}
    pydlx.manual_seed(3)
    out = F.scaled_dot_product_attention(q, k, v, **placed)
    pydlx.manual_seed(4)
    grads = pydlx.autograd.grad(out, (q, k, v), pydlx.randn(out.shape).to(rounded).to(device, dtype))
    return [t.cpu().float() for t in (out.detach(), *grads)]


@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu(name):
    shape, arguments = CASES[name]
    pydlx.manual_seed(2)
    given = arguments(shape)
    for what, got, want in zip(("output", "dq", "dk", "dv"), run("cuda", shape, given), run("cpu", shape, given)):
        scale = max(want.abs().max().item(), 1e-3)
        error = (got - want).abs().max().item() / scale
        assert error < 2e-5, f"{what}: relative error {error:.2e}"


# Shapes that the tensor cores serve: numbers of features that are multiples of eight, up to 128. Beside the cases above
# these have further tiles, both widths of the kernels, and partly filled ones.
HALF_CASES = {
    **CASES,
    "features, one width": ((1, 2, 2, 70, 130, 64, 64), lambda s: {}),
    "features, the other": ((1, 2, 2, 70, 130, 128, 128), lambda s: {"is_causal": True}),
    "features, partly filled": ((2, 2, 1, 65, 129, 40, 72), lambda s: {"enable_gqa": True}),
    "causal, wide, grouped": ((1, 4, 2, 100, 100, 80, 96), lambda s: {"is_causal": True, "enable_gqa": True}),
    "window over tiles": ((1, 1, 1, 200, 200, 16, 16), lambda s: {"window_size": (20, 70)}),
}


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", HALF_CASES)
def test_16_bit_equals_the_cpu_in_float32(name, dtype):
    """Weights are rounded to the operands' dtype, so errors are a few of its units, and average out in sums."""
    shape, arguments = HALF_CASES[name]
    pydlx.manual_seed(2)
    given = arguments(shape)
    got, want = run("cuda", shape, given, dtype, dtype), run("cpu", shape, given, pydlx.float32, dtype)
    for what, x, y in zip(("output", "dq", "dk", "dv"), got, want):
        scale = max(y.abs().max().item(), 1e-3)
        error = (x - y).abs().max().item() / scale
        assert error < 3 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float16, pydlx.bfloat16], ids=str)
def test_values_behind_a_mask_do_not_leak(dtype):
    q, k, v = (t.to(dtype) for t in make(1, 1, 1, 4, 70, 8, 8))
    v[..., 35:, :] = float("nan")
    k[..., 35:, :] = float("inf")
    mask = (pydlx.arange(70) < 35).expand(4, 70)
    out, *grads = run_masked(q.cuda(), k.cuda(), v.cuda(), mask.cuda())
    want, *want_grads = run_masked(q.float(), k[..., :35, :].float(), v[..., :35, :].float(), None)
    tolerance = 1e-5 if dtype == pydlx.float32 else 4 * pydlx.finfo(dtype).eps
    assert (out - want).abs().max().item() < tolerance
    for x, y in zip(grads, want_grads):
        assert (x[..., : y.shape[-2], :] - y).abs().max().item() < tolerance
        assert (x[..., y.shape[-2] :, :] == 0).all()


def run_masked(q, k, v, mask):
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return [t.cpu().float() for t in (out.detach(), *pydlx.autograd.grad(out.sum(), (q, k, v)))]


def test_16_bit_second_derivatives_and_unaligned_rows():
    memory = pydlx.randn(2, 5, 3 * 8 + 1).half().cuda()
    q, k, v = (memory[..., 1 + 8 * i : 9 + 8 * i].detach().requires_grad_() for i in range(3))  # odd addresses
    out = F.scaled_dot_product_attention(q, k, v)
    (g,) = pydlx.autograd.grad(out.float().square().sum(), q, create_graph=True)
    (gg,) = pydlx.autograd.grad(g.float().sum(), k)
    wide = [t.detach().cpu().float().requires_grad_() for t in (q, k, v)]
    want = F.scaled_dot_product_attention(*wide)
    (h,) = pydlx.autograd.grad(want.square().sum(), wide[0], create_graph=True)
    (hh,) = pydlx.autograd.grad(h.sum(), wide[1])
    for x, y in ((out, want), (g, h), (gg, hh)):
        assert (x.detach().cpu().float() - y.detach()).abs().max().item() < 1e-2 * y.abs().max().item()


# ---- the instructions of sm_90a: 64 queries and keys or more, without mask, slopes and dropout ----


def heads_between(t):
    """The same values with the heads of a position beside each other, as projections leave them."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def check_forward(shape, dtype, **arguments):
    q, k, v = (t.to(dtype) for t in make(*shape))
    with pydlx.no_grad():
        got = F.scaled_dot_product_attention(*(heads_between(t.cuda()) for t in (q, k, v)), **arguments).cpu().float()
        want = F.scaled_dot_product_attention(*(t.float() for t in (q, k, v)), **arguments)
    assert got.shape == want.shape
    error = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-3)
    assert error < 3 * pydlx.finfo(dtype).eps, f"relative error {error:.2e}"


@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (72, 40), (8, 120)], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(("q_len", "k_len"), [(64, 64), (127, 129), (128, 128), (129, 257), (65, 300), (300, 65)])
def test_large_tiles(q_len, k_len, dims, causal):
    check_forward((1, 2, 2, q_len, k_len, *dims), pydlx.bfloat16, is_causal=causal)


@pytest.mark.parametrize("window", [(0, 0), (100, 20), (5, 200), (300, 0)], ids=str)
def test_large_tiles_behind_a_window(window):
    check_forward((1, 2, 2, 280, 330, 64, 64), pydlx.float16, window_size=window)


@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(3, 1, 1), (2, 6, 2), (5, 4, 1)])
def test_large_tiles_of_many_heads(batch, heads, kv_heads):
    """More tiles than a block takes at once, some heads with the same keys."""
    check_forward((batch, heads, kv_heads, 130, 140, 16, 24), pydlx.float16, enable_gqa=True, is_causal=True)


def test_large_tiles_of_rows_without_a_key():
    """Queries before the first key that a causal band with fewer keys shows: zeros."""
    q, k, v = (t.bfloat16().cuda() for t in make(1, 1, 1, 300, 70, 64, 64))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True).cpu().float()
    want = F.scaled_dot_product_attention(*(t.cpu().float() for t in (q, k, v)), is_causal=True)
    assert ((want == 0).all(-1) == (out == 0).all(-1)).all().item()


@pytest.mark.parametrize("place", [0, 100, 150, 255])
def test_large_tiles_with_values_that_only_some_queries_see(place):
    """An infinite value reaches the queries that see it, and no other."""
    q, k, v = (t.half() for t in make(1, 2, 2, 256, 256, 64, 64))
    v[:, :, place, 3] = float("inf")
    v[:, 1, place, 5] = float("nan")
    got = F.scaled_dot_product_attention(q.cuda(), k.cuda(), v.cuda(), is_causal=True).cpu().float()
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    assert (got.isnan() == want.isnan()).all().item()
    assert (got.isinf() == want.isinf()).all().item()
    finite = want.isfinite()
    assert (got - want)[finite].abs().max().item() < 4e-3


@pytest.mark.parametrize("dims", [(64, 64), (96, 128)], ids=str)
def test_gradients_after_large_tiles(dims):
    """The backward pass reads the statistics that the forward pass left."""
    arguments = {"is_causal": True}
    shape = (1, 2, 2, 140, 200, *dims)
    got = run("cuda", shape, arguments, pydlx.bfloat16, pydlx.bfloat16)
    want = run("cpu", shape, arguments, pydlx.float32, pydlx.bfloat16)
    for what, x, y in zip(("output", "dq", "dk", "dv"), got, want):
        error = (x - y).abs().max().item() / y.abs().max().item()
        assert error < 3 * pydlx.finfo(pydlx.bfloat16).eps, f"{what}: relative error {error:.2e}"
