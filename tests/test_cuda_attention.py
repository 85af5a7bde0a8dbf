"""Tiled attention on ``device="cuda"`` against the CPU's kernels, whose oracle is in test_attention.py."""

from __future__ import annotations

import pytest
from cuda_program import choices, python, verbose_lines

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
        # A query that sees one key has a gradient of zero, as a difference of two sums.
        error = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-2)
        assert error < 2e-5, f"{what}: relative error {error:.2e}"


# More than 128 features, which have kernels of their own.
WIDE_CASES = {
    "136 features": ((1, 2, 2, 70, 130, 136, 136), lambda s: {}),
    "160, causal": ((1, 2, 2, 130, 130, 160, 160), lambda s: {"is_causal": True}),
    "192 and 128, causal, grouped": ((1, 4, 2, 100, 100, 192, 128), lambda s: {"is_causal": True, "enable_gqa": True}),
    "200, boolean mask": ((2, 2, 2, 20, 70, 200, 200), lambda s: {"attn_mask": pydlx.rand(s[0], 1, s[3], s[4]) < 0.5}),
    "256": ((1, 2, 1, 65, 200, 256, 256), lambda s: {"enable_gqa": True}),
    "256, one key": ((1, 1, 1, 1, 1, 256, 256), lambda s: {}),
    "256, additive mask": ((1, 2, 2, 30, 70, 256, 256), lambda s: {"attn_mask": pydlx.randn(s[3], s[4])}),
    "256, dropout": ((2, 2, 2, 33, 70, 256, 256), lambda s: {"dropout_p": 0.3}),
    "256 and 8, window": ((1, 1, 1, 200, 200, 256, 8), lambda s: {"window_size": (20, 70)}),
    "8 and 256, slopes": ((1, 2, 2, 20, 70, 8, 256), lambda s: {"alibi_slopes": pydlx.tensor([0.5, 0.1])}),
    "144, rows without a key": ((1, 1, 1, 100, 40, 144, 176), lambda s: {"window_size": (10, 0)}),
    "many heads": ((3, 5, 5, 17, 18, 168, 184), lambda s: {}),
}

# Shapes that the tensor cores serve: numbers of features that are multiples of eight, up to 256. Beside the cases above
# these have further tiles, all widths of the kernels, and partly filled ones.
HALF_CASES = {
    **CASES,
    "features, one width": ((1, 2, 2, 70, 130, 64, 64), lambda s: {}),
    "features, the other": ((1, 2, 2, 70, 130, 128, 128), lambda s: {"is_causal": True}),
    "features, partly filled": ((2, 2, 1, 65, 129, 40, 72), lambda s: {"enable_gqa": True}),
    "causal, wide, grouped": ((1, 4, 2, 100, 100, 80, 96), lambda s: {"is_causal": True, "enable_gqa": True}),
    "window over tiles": ((1, 1, 1, 200, 200, 16, 16), lambda s: {"window_size": (20, 70)}),
    **WIDE_CASES,
}


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", HALF_CASES)
def test_16_bit_equals_the_cpu_in_float64(name, dtype):
    """Weights are rounded to the operands' dtype, so errors are a few of its units, and average out in sums."""
    shape, arguments = HALF_CASES[name]
    pydlx.manual_seed(2)
    given = arguments(shape)
    got, want = run("cuda", shape, given, dtype, dtype), run("cpu", shape, given, pydlx.float64, dtype)
    for what, x, y in zip(("output", "dq", "dk", "dv"), got, want):
        scale = max(y.abs().max().item(), 1e-3)
        error = (x - y).abs().max().item() / scale
        assert error < 3 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


# (batch, heads, kv_heads, q_len, k_len, head_dim, value_dim), the mask's shape, further arguments
MASKS = {
    "shared": ((2, 2, 2, 20, 70, 8, 8), (20, 70), {}),
    "one per head": ((2, 2, 2, 65, 63, 16, 24), (2, 1, 63), {}),
    "over tiles, several blocks of features": ((1, 2, 1, 130, 129, 72, 128), (1, 2, 130, 129), {"enable_gqa": True}),
    "window and slopes": ((1, 2, 2, 100, 150, 8, 8), (100, 150), {"window_size": (30, 3), "alibi_slopes": [0.5, 0.1]}),
    "dropout": ((2, 2, 2, 33, 70, 8, 8), (2, 1, 33, 70), {"dropout_p": 0.3}),
    "wide": ((1, 2, 1, 70, 100, 256, 136), (1, 2, 70, 100), {"enable_gqa": True}),
    "wide, window, dropout": ((1, 2, 2, 100, 90, 192, 200), (100, 90), {"window_size": (30, 3), "dropout_p": 0.3}),
}


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_gradient_of_a_mask(name, dtype):
    shape, mask_shape, arguments = MASKS[name]
    results = []
    for device, working in (("cpu", pydlx.float32), ("cuda", dtype), ("cuda", dtype)):
        operands = [t.to(dtype).to(device, working) for t in make(*shape)]
        pydlx.manual_seed(6)
        mask, g = pydlx.randn(mask_shape), pydlx.randn(*shape[:2], shape[3], shape[6])
        mask[..., 0, -1] = float("-inf")
        leaves = [t.requires_grad_() for t in (*operands, mask.to(dtype).to(device, working))]
        more = {n: pydlx.tensor(a, device=device) if isinstance(a, list) else a for n, a in arguments.items()}
        pydlx.manual_seed(3)
        out = F.scaled_dot_product_attention(*leaves[:3], attn_mask=leaves[3], **more)
        grads = pydlx.autograd.grad(out, leaves, g.to(dtype).to(device, working))
        assert grads[3].shape == mask_shape and grads[3].dtype == working
        results.append([t.cpu().float() for t in grads])
    limit = 2e-5 if dtype == pydlx.float32 else 3 * pydlx.finfo(dtype).eps
    for what, want, got, again in zip(("dq", "dk", "dv", "dmask"), *results):
        error = (got - want).abs().max().item() / max(want.abs().max().item(), 1e-3)
        assert error < limit, f"{what}: relative error {error:.2e}"
        assert (got == again).all().item()


MASKED = """
import pydlx
for dtype in (pydlx.float32, pydlx.bfloat16):
    q, k, v = (pydlx.randn(1, 2, 70, 16, device="cuda").to(dtype).requires_grad_() for _ in range(3))
    mask = pydlx.zeros(70, 70, device="cuda", requires_grad=True)
    pydlx.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
    assert mask.grad.shape == mask.shape and mask.grad.dtype == mask.dtype
"""


def test_a_mask_that_needs_a_gradient_takes_the_tiled_kernels():
    lines = choices(MASKED, "scaled_dot_product_attention")
    assert len(lines) == 4
    assert all("tiled kernel" in line and "composed" not in line for line in lines)


@pytest.mark.parametrize("dims", [(8, 8), (200, 256)], ids=str)
@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float16, pydlx.bfloat16], ids=str)
def test_values_behind_a_mask_do_not_leak(dtype, dims):
    q, k, v = (t.to(dtype) for t in make(1, 1, 1, 4, 70, *dims))
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


def attend(operands, grad, arguments):
    """Output and gradients as float64 on the host."""
    operands = [t.detach().requires_grad_() for t in operands]
    out = F.scaled_dot_product_attention(*operands, **arguments)
    grads = pydlx.autograd.grad(out, operands, grad)
    assert all(g.shape == t.shape and g.dtype == t.dtype for g, t in zip(grads, operands))
    return [t.detach().cpu().double() for t in (out, *grads)]


def both(operands, grad, **arguments):
    """On the device, with heads beside each other, and in float64."""
    on_device = attend([heads_between(t.cuda()) for t in operands], heads_between(grad.cuda()), arguments)
    return on_device, attend([t.double() for t in operands], grad.double(), arguments)


def check_large(shape, dtype, **arguments):
    operands = [t.to(dtype) for t in make(*shape)]
    got, want = both(operands, pydlx.randn(*shape[:2], shape[3], shape[6]).to(dtype), **arguments)
    for what, x, y in zip(("output", "dq", "dk", "dv"), got, want):
        # A query that sees one key has a gradient of zero, as a difference of two sums in float.
        error = (x - y).abs().max().item() / max(y.abs().max().item(), 1e-2)
        assert error < 3 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


LENGTHS = [(64, 64), (127, 129), (128, 128), (129, 257), (65, 300), (300, 65), (200, 200), (1, 64), (63, 200)]


@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (72, 40), (8, 120), (256, 256), (192, 128)], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize(("q_len", "k_len"), LENGTHS)
def test_large_tiles(q_len, k_len, dims, causal):
    check_large((1, 2, 2, q_len, k_len, *dims), pydlx.bfloat16, is_causal=causal)


@pytest.mark.parametrize("window", [(0, 0), (100, 20), (5, 200), (300, 0)], ids=str)
@pytest.mark.parametrize("dim", [64, 168])
def test_large_tiles_behind_a_window(window, dim):
    check_large((1, 2, 2, 280, 330, dim, dim), pydlx.float16, window_size=window)


@pytest.mark.parametrize("dims", [(16, 24), (128, 128), (136, 200)], ids=str)
@pytest.mark.parametrize(("batch", "heads", "kv_heads"), [(3, 1, 1), (1, 6, 2), (2, 4, 1)])
def test_large_tiles_of_many_heads(batch, heads, kv_heads, dims):
    """More tiles than a block takes at once, some heads with the same keys."""
    check_large((batch, heads, kv_heads, 130, 140, *dims), pydlx.float16, enable_gqa=True, is_causal=True)


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
def test_large_tiles_with_large_scores(dtype):
    """Weights of nearly one and nearly zero, and scores of some hundreds."""
    q, k, v = (t.to(dtype) for t in make(1, 2, 2, 130, 200, 64, 64))
    got, want = both((q * 8, k * 8, v), pydlx.randn(1, 2, 130, 64).to(dtype))
    for x, y in zip(got, want):
        assert (x - y).abs().max().item() < 4 * pydlx.finfo(dtype).eps * y.abs().max().item()


def test_large_tiles_with_gradients_of_a_scaled_loss():
    """Slopes stay in the range of float16 as long as weights that add up to 1 are multiplied with them."""
    q, k, v = (t.half() for t in make(1, 1, 1, 130, 500, 64, 64))
    got, want = both((q / 2, k, v * 10), (pydlx.randn(1, 1, 130, 64) * 1000).half())
    for x, y in zip(got, want):
        assert (x - y).abs().max().item() < 4 * pydlx.finfo(pydlx.float16).eps * y.abs().max().item()


def test_large_tiles_of_rows_without_a_key():
    """Queries beyond the last key that a window shows, some of them with a tile of their own: zeros, here and in their gradients."""
    operands = [t.bfloat16() for t in make(1, 1, 1, 300, 70, 64, 64)]
    got, want = both(operands, pydlx.randn(1, 1, 300, 64).bfloat16(), window_size=(10, 0))
    assert (want[0] == 0).all(-1).sum().item() == 220
    for x, y in zip(got[:2], want[:2]):
        assert ((y == 0).all(-1) == (x == 0).all(-1)).all().item()
    for x, y in zip(got, want):
        assert (x - y).abs().max().item() < 3 * pydlx.finfo(pydlx.bfloat16).eps * y.abs().max().item()


@pytest.mark.parametrize("dim", [64, 192])
@pytest.mark.parametrize("place", [0, 100, 150, 255])
def test_large_tiles_with_values_that_only_some_queries_see(place, dim):
    """An infinite value reaches the queries that see it, and no other."""
    q, k, v = (t.half() for t in make(1, 2, 2, 256, 256, dim, dim))
    v[:, :, place, 3] = float("inf")
    v[:, 1, place, 5] = float("nan")
    got = F.scaled_dot_product_attention(q.cuda(), k.cuda(), v.cuda(), is_causal=True).cpu().float()
    want = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    assert (got.isnan() == want.isnan()).all().item()
    assert (got.isinf() == want.isinf()).all().item()
    finite = want.isfinite()
    assert (got - want)[finite].abs().max().item() < 4e-3


@pytest.mark.parametrize("dim", [64, 128, 208])
@pytest.mark.parametrize("place", [0, 100, 150, 255])
@pytest.mark.parametrize("where", ["key", "gradient"])
def test_gradients_that_infinities_do_not_reach(where, place, dim):
    """Queries before an infinite key and keys after a query with an infinite gradient have the gradients of shorter sequences."""
    q, k, v = (t.bfloat16() for t in make(1, 2, 2, 256, 256, dim, dim))
    grad = pydlx.randn(1, 2, 256, dim).bfloat16()
    (k if where == "key" else grad)[:, :, place, 5] = float("inf")
    got = attend([t.cuda() for t in (q, k, v)], grad.cuda(), {"is_causal": True})
    if where == "key":  # what comes before `place` knows nothing of it
        if place == 0:
            assert not got[1].isfinite().all().item()
            return
        kept = slice(0, place)
        want = attend([t[:, :, kept].double() for t in (q, k, v)], grad[:, :, kept].double(), {"is_causal": True})
        pairs = [(got[0][:, :, kept], want[0]), (got[1][:, :, kept], want[1])]
    else:  # the keys after `place` have gradients from the queries after it alone, and other queries their own
        wide = [t.double() for t in (q, k, v)]
        quiet = grad.double()
        quiet[:, :, place] = 0
        want = attend(wide, quiet, {"is_causal": True})
        others = [i for i in range(256) if i != place]
        pairs = [(got[1][:, :, others], want[1][:, :, others])]
        pairs += [(x[:, :, place + 1 :], y[:, :, place + 1 :]) for x, y in zip(got[2:], want[2:])]
        assert not got[3][:, :, : place + 1, 5].isfinite().any().item()
    for x, y in pairs:
        if y.numel():
            assert (x - y).abs().max().item() < 4 * pydlx.finfo(pydlx.bfloat16).eps * y.abs().max().item()


@pytest.mark.parametrize("dim", [128, 256])
def test_large_tiles_give_the_same_gradients_every_time(dim):
    q, k, v = (t.half().cuda() for t in make(1, 4, 2, 200, 260, dim, dim))
    grad = pydlx.randn(1, 4, 200, dim).half().cuda()
    first, second = (attend((q, k, v), grad, {"enable_gqa": True, "is_causal": True}) for _ in range(2))
    assert all((x == y).all().item() for x, y in zip(first, second))


def test_gradients_of_sums():
    """A gradient that is one number everywhere has no memory of its own."""
    operands = [t.bfloat16() for t in make(1, 2, 2, 100, 130, 64, 64)]
    q, k, v = (t.cuda().requires_grad_() for t in operands)
    F.scaled_dot_product_attention(q, k, v).sum().backward()
    _, *want = attend([t.double() for t in operands], pydlx.ones(1, 2, 100, 64).double(), {})
    scale = max(t.abs().max().item() for t in want)
    for x, y in zip((q.grad, k.grad, v.grad), want):
        assert (x.cpu().double() - y).abs().max().item() < 3 * pydlx.finfo(pydlx.bfloat16).eps * scale


GRADIENTS = """
import pydlx
import pydlx.nn.functional as F
for dim in (128, 64):
    pydlx.manual_seed(3)
    q, k, v = (pydlx.randn(1, 2, n, dim).bfloat16().cuda().requires_grad_() for n in (70, 130, 130))
    F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(pydlx.randn(1, 2, 70, dim).bfloat16().cuda())
    print([t.double().sum().item() for t in (q.grad, k.grad, v.grad)], q.grad.abs().double().sum().item())
"""


def test_gradients_on_a_gpu_with_less_shared_memory():
    """Tiles are narrower where 99 KiB are all that a block may have (compute capabilities 8.6 and 8.9); sums stay as they are."""
    done = [python(GRADIENTS, PYDLX_CUDA_WGMMA="0", **less) for less in ({}, {"PYDLX_EMULATED_SHARED": "99"})]
    assert all(d.returncode == 0 for d in done), done[-1].stderr
    assert done[0].stdout == done[1].stdout


WIDE = """
import pydlx
from test_cuda_attention import *
for name in WIDE_CASES:
    test_16_bit_equals_the_cpu_in_float64(name, pydlx.float16)
for name in MASKS:
    if "wide" in name:
        test_gradient_of_a_mask(name, pydlx.bfloat16)
test_values_behind_a_mask_do_not_leak(pydlx.float16, (200, 256))
test_large_tiles_with_values_that_only_some_queries_see(100, 192)
for where in ("key", "gradient"):
    test_gradients_that_infinities_do_not_reach(where, 100, 208)
"""


@pytest.mark.parametrize(
    ("kib", "forward", "backward"),
    [("227", 64, (64, 2)), ("163", 32, (32, 2)), ("99", 32, (16, 1))],
    ids=["227", "163", "99"],
)
def test_wide_tiles_on_gpus_with_less_shared_memory(kib, forward, backward):
    """Compute capabilities 9.0, 8.0, and 8.6 or 8.9."""
    lines = verbose_lines(WIDE, "scaled_dot_product_attention", PYDLX_CUDA_WGMMA="0", PYDLX_EMULATED_SHARED=kib)
    lines = [line for line in lines if "(cuda)" in line and "composed" not in line]
    tiles = {False: f"tiles of 64 queries and {forward} keys", True: "tiles of 64 by {}, stages: {}".format(*backward)}
    assert len(lines) > 2 * len(WIDE_CASES)
    assert all(tiles["backward" in line] in line for line in lines)


FEATURES = """
import pydlx
for features in (256, 248, 264, 132):
    q = pydlx.ones(1, 2, 5, features, dtype=pydlx.bfloat16, device="cuda")
    pydlx.nn.functional.scaled_dot_product_attention(q, q, q)
"""


def test_number_of_features():
    """The kernels of 16-bit floats say that they serve up to 256 features, multiples of eight; others are computed in float32."""
    wide, almost, *others = choices(FEATURES, "scaled_dot_product_attention")
    assert all("bfloat16" in line and "mma.sync" in line for line in (wide, almost))
    assert len(others) == 2 and all("float32" in line for line in others)


CHOICES = """
import pydlx
import pydlx.nn.functional as F
def attend(q_len, dim, **arguments):
    q, k = (pydlx.ones(1, 2, n, dim, dtype=pydlx.bfloat16, device="cuda").requires_grad_() for n in (q_len, 64))
    F.scaled_dot_product_attention(q, k, k, **arguments).sum().backward()
attend(64, 64)
attend(64, 72, is_causal=True)
attend(63, 64)
attend(64, 64, dropout_p=0.5)
attend(64, 64, attn_mask=pydlx.ones(64, 64, dtype=pydlx.bool, device="cuda"))
attend(64, 136)
"""


@pytest.mark.skipif(
    not pydlx.cuda.is_available() or pydlx.cuda.get_device_capability()[0] != 9,
    reason="no GPU of compute capability 9.x",
)
def test_choice_of_the_instructions():
    """PYDLX_VERBOSE tells of both directions; PYDLX_CUDA_WGMMA=0 turns both off."""

    def lines(**environment):
        said = choices(CHOICES, "scaled_dot_product_attention", **environment)
        return said[::2], said[1::2]

    forward, backward = lines()
    expected = [", 64 features", ", 128 features", "fewer than 64 queries or keys", "dropout", "a mask or slopes"]
    assert len(forward) == len(backward) == len(expected) + 1
    assert "; wgmma, " in forward[-1] and ", 256 features" in forward[-1]
    assert "; not wgmma: too many features" in backward[-1]
    assert not any("backward" in line for line in forward)
    assert all("backward" in line for line in backward)
    for i, text in enumerate(expected):
        kernel = "; wgmma, " if i < 2 else "; not wgmma: "
        assert all(kernel in line and text in line for line in (forward[i], backward[i])), backward[i]
    forward, backward = lines(PYDLX_CUDA_WGMMA="0")
    assert all("not wgmma: PYDLX_CUDA_WGMMA is 0" in line for line in forward + backward)
