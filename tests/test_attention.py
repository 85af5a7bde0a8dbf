"""Attention beyond the table: masks, bands, slopes, dropout, layouts and block edges against the formula in float64."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import pydlx

sdpa = pydlx.nn.functional.scaled_dot_product_attention


def tensors(rng, *shapes):
    return [pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in shapes]


def ones(t):
    return pydlx.from_numpy(np.ones(tuple(t.shape), np.float32))


def formula(q, k, v, *, bias=None, allowed=None, scale=None, keep=None):
    """Result and gradients (for an output gradient of cosines) of one head in float64; ``keep`` multiplies weights."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = scale * q @ k.T + (0 if bias is None else bias)
    if allowed is not None:
        s = np.where(allowed, s, -np.inf)
    top = s.max(axis=1, keepdims=True) if s.shape[1] else np.zeros((s.shape[0], 1))
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    dropped = p if keep is None else p * keep
    out = dropped @ v
    g = np.cos(np.arange(out.size)).reshape(out.shape)
    dp = g @ v.T if keep is None else (g @ v.T) * keep
    ds = p * (dp - (p * dp).sum(axis=1, keepdims=True)) * scale
    return out, ds @ k, ds.T @ q, dropped.T @ g


def compare(q, k, v, options, **reference):
    """The kernel against `formula` for arrays (length, features)."""
    leaves = [pydlx.from_numpy(x.copy()).requires_grad_() for x in (q, k, v)]
    out = sdpa(*leaves, **options)
    g = np.cos(np.arange(out.numel())).reshape(tuple(out.shape)).astype(np.float32)
    results = [out, *pydlx.autograd.grad([out], leaves, [pydlx.from_numpy(g)])]
    for got, wanted in zip(results, formula(q, k, v, **reference), strict=True):
        error = np.abs(got.detach().numpy() - wanted).max(initial=0)
        assert error <= 3e-6 * (1 + np.sqrt(np.square(wanted).mean() if wanted.size else 0)) * 4, error


EDGES = [
    (1, 1),
    (5, 17),
    (47, 63),
    (48, 64),
    (49, 65),
    (53, 191),
    (96, 192),
    (97, 193),
    (100, 511),
    (6, 513),
    (577, 577),
]


@pytest.mark.parametrize(("lq", "lk"), EDGES)
@pytest.mark.parametrize("band", ["full", "causal", "window", "window_causal", "ahead"])
def test_block_edges(lq, lk, band):
    rng = np.random.default_rng(lq * 1000 + lk)
    d = int(rng.choice([1, 7, 16, 40, 64, 65]))
    q, k, v = (rng.standard_normal((n, d)).astype(np.float32) for n in (lq, lk, lk))
    distance = np.arange(lk) - np.arange(lq)[:, None]
    options, allowed = {
        "full": ({}, None),
        "causal": ({"is_causal": True}, distance <= 0),
        "window": ({"window_size": (70, 9)}, (distance <= 9) & (distance >= -70)),
        "window_causal": ({"window_size": (20, -1), "is_causal": True}, (distance <= 0) & (distance >= -20)),
        "ahead": ({"window_size": (-1, 100)}, distance <= 100),
    }[band]
    compare(q, k, v, options, allowed=allowed)


@pytest.mark.parametrize("d", [1, 3, 16, 31, 64, 100, 129, 200])
def test_head_sizes(d):
    rng = np.random.default_rng(d)
    q, k, v = (rng.standard_normal((n, d)).astype(np.float32) for n in (50, 150, 150))
    compare(q, k, v, {"is_causal": True}, allowed=np.arange(150) <= np.arange(50)[:, None])
    compare(q, k, v[:, : d // 2 + 1].copy(), {"scale": -0.3}, scale=-0.3)


@pytest.mark.parametrize("seen", [0, 1, 63, 64, 65, 192, 299, 300, 512, 600])
def test_padding(seen):
    rng = np.random.default_rng(seen)
    q, k, v = (rng.standard_normal((n, 24)).astype(np.float32) for n in (70, 600, 600))
    allowed = np.arange(600)[None, :] < seen
    allowed[0, seen // 2] = False
    compare(q, k, v, {"attn_mask": pydlx.from_numpy(allowed)}, allowed=np.broadcast_to(allowed, (70, 600)))


def test_slopes():
    rng = np.random.default_rng(11)
    q, k, v = (rng.standard_normal((n, 24)).astype(np.float32) for n in (130, 300, 300))
    distance = np.abs(np.arange(300) - np.arange(130)[:, None])
    allowed = np.arange(300) <= np.arange(130)[:, None]
    slope = pydlx.tensor([0.25])
    options = {"alibi_slopes": slope}
    stacked = [np.stack([x]) for x in (q, k, v)]
    out = sdpa(*(pydlx.from_numpy(x) for x in stacked), **options)
    assert np.allclose(out.numpy()[0], formula(q, k, v, bias=-0.25 * distance)[0], atol=1e-5)
    leaves = [pydlx.from_numpy(x).requires_grad_() for x in stacked]
    out = sdpa(*leaves, is_causal=True, **options)
    g = np.cos(np.arange(out.numel())).reshape(tuple(out.shape)).astype(np.float32)
    wanted = formula(q, k, v, bias=-0.25 * distance, allowed=allowed)
    for got, want in zip([out, *pydlx.autograd.grad([out], leaves, [pydlx.from_numpy(g)])], wanted, strict=True):
        assert np.allclose(got.detach().numpy()[0], want, atol=1e-5)


def test_slopes_per_head_and_their_gradient():
    rng = np.random.default_rng(12)
    q, k, v = (x.double() for x in tensors(rng, (2, 3, 6, 5), (2, 3, 9, 5), (2, 3, 9, 5)))
    slopes = pydlx.tensor([0.5, 0.125, 0.0], dtype=pydlx.float64).requires_grad_()
    distance = (pydlx.arange(9) - pydlx.arange(6).unsqueeze(1)).abs().double()
    out = sdpa(q, k, v, alibi_slopes=slopes)
    plain = sdpa(q, k, v, attn_mask=-slopes.reshape(3, 1, 1) * distance)
    assert np.allclose(out.detach().numpy(), plain.detach().numpy())
    a, b = (pydlx.autograd.grad([(x * x).sum()], [slopes])[0].numpy() for x in (out, plain))
    assert np.allclose(a, b)
    single = sdpa(*(x.float() for x in (q, k, v)), alibi_slopes=slopes.detach().float().expand(2, 3))
    assert np.allclose(single.numpy(), out.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("lk", [33, 64, 301, 600])
def test_dropout_drops_what_the_formula_drops(lk):
    """float64 is computed by the formula, float32 by the kernel; one seed gives one mask."""
    rng = np.random.default_rng(lk)
    q, k, v = tensors(rng, (2, 4, 70, 8), (2, 2, lk, 8), (2, 2, lk, 8))
    results = []
    for dtype in (pydlx.float64, pydlx.float32):
        leaves = [x.to(dtype).requires_grad_() for x in (q, k, v)]
        pydlx.manual_seed(5)
        out = sdpa(*leaves, dropout_p=0.3, is_causal=True, enable_gqa=True)
        results.append([out, *pydlx.autograd.grad([out], leaves, [ones(out).to(dtype)])])
    for wanted, got in zip(*results, strict=True):
        assert np.allclose(got.detach().numpy(), wanted.detach().numpy(), atol=2e-5)


@pytest.mark.parametrize("sizes", [(), (70,), (4, 1), (2, 1, 70), (2, 4, 70), (2, 4, 1)], ids=str)
@pytest.mark.parametrize("lk", [2, 31, 33, 193, 1000])
@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.3}, {"window_size": (20, 9)}, {"scale": 0.0}], ids=str)
def test_gradient_of_an_additive_mask(isa, sizes, lk, options):
    """float64 is computed by the formula, float32 by the kernel. Some keys are excluded, for one row all of them."""
    rng = np.random.default_rng(lk)
    bias = rng.standard_normal((*sizes, lk)).astype(np.float32)
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    if sizes and sizes[-1] == 70:
        bias[..., 3, :] = -np.inf
    values = [*tensors(rng, (2, 4, 70, 8), (2, 2, lk, 8), (2, 2, lk, 8)), pydlx.from_numpy(bias)]
    g = pydlx.from_numpy(rng.standard_normal((2, 4, 70, 8)).astype(np.float32))
    results = []
    for dtype in (pydlx.float64, pydlx.float32):
        leaves = [x.to(dtype).requires_grad_() for x in values]
        pydlx.manual_seed(5)
        out = sdpa(*leaves[:3], attn_mask=leaves[3], enable_gqa=True, **options)
        results.append([out, *pydlx.autograd.grad([out], leaves, [g.to(dtype)])])
    for wanted, got in zip(*results, strict=True):
        assert got.shape == wanted.shape
        scale = 1 + np.abs(wanted.detach().numpy()).max(initial=0)
        assert np.allclose(got.detach().numpy(), wanted.detach().numpy(), atol=1e-5 * scale)


def test_a_mask_alone_may_need_a_gradient():
    rng = np.random.default_rng(7)
    q, k, v = tensors(rng, (2, 5, 8), (2, 9, 8), (2, 9, 8))
    bias = pydlx.zeros(5, 9, requires_grad=True)
    sdpa(q, k, v, attn_mask=bias).square().sum().backward()
    double = pydlx.zeros(5, 9, dtype=pydlx.float64, requires_grad=True)
    sdpa(q.double(), k.double(), v.double(), attn_mask=double).square().sum().backward()
    assert np.allclose(bias.grad.numpy(), double.grad.numpy(), atol=1e-5)


def test_double_backward_with_dropout_slopes_and_window():
    rng = np.random.default_rng(21)
    values = tensors(rng, (1, 2, 6, 4), (1, 2, 9, 4), (1, 2, 9, 4))
    options = {"dropout_p": 0.25, "alibi_slopes": pydlx.tensor([0.3, 0.1]), "window_size": (3, 4)}
    seconds = []
    for dtype in (pydlx.float64, pydlx.float32):
        leaves = [x.to(dtype).requires_grad_() for x in values]
        pydlx.manual_seed(9)
        out = sdpa(*leaves, **options)
        first = pydlx.autograd.grad([(out * out).sum()], leaves, create_graph=True)
        seconds.append(pydlx.autograd.grad([sum((g * g).sum() for g in first)], leaves))
    for wanted, got in zip(*seconds, strict=True):
        assert np.allclose(got.numpy(), wanted.numpy(), rtol=1e-3, atol=1e-4)


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


def test_window_past_the_last_key_gives_zeros():
    rng = np.random.default_rng(31)
    q, k, v = (t.requires_grad_() for t in tensors(rng, (200, 8), (50, 8), (50, 8)))
    out = sdpa(q, k, v, window_size=(10, 0))
    assert np.all(out.detach().numpy()[60:] == 0)
    grads = pydlx.autograd.grad([out], [q, k, v], [ones(out)])
    assert np.all(grads[0].numpy()[60:] == 0)
    assert all(np.isfinite(g.numpy()).all() for g in grads)


def test_largest_negative_number_as_mask():
    """Masks of finfo.min exclude keys beside visible ones, and leave a row that has nothing else uniform."""
    rng = np.random.default_rng(32)
    q, k, v = (rng.standard_normal((n, 8)).astype(np.float32) for n in (60, 90, 90))
    allowed = rng.integers(0, 2, (60, 90)).astype(bool)
    allowed[7] = False
    least = np.finfo(np.float32).min
    bias = np.where(allowed, 0, least).astype(np.float32)
    reference = allowed.copy()
    reference[7] = True
    flat = np.zeros((60, 90))
    leaves = [pydlx.from_numpy(x).requires_grad_() for x in (q, k, v)]
    out = sdpa(*leaves, attn_mask=pydlx.from_numpy(bias))
    wanted = formula(q, k, v, bias=flat, allowed=reference)[0]
    wanted[7] = v.astype(np.float64).mean(axis=0)
    assert np.allclose(out.detach().numpy(), wanted, atol=1e-5)
    (dv,) = pydlx.autograd.grad([out[7].sum()], [leaves[2]])
    assert np.allclose(dv.numpy(), 1 / 90, atol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("hide", ["mask", "padding", "additive", "window"])
def test_excluded_keys_and_values_do_not_leak(poison, hide):
    """What stands at excluded positions (padding, say) must not change anything, forward or backward."""
    rng = np.random.default_rng(2)
    shapes = [(2, 50, 8), (2, 70, 8), (2, 70, 8)]
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    allowed = np.ones((50, 70), bool)
    allowed[:, 60:] = False
    options = {
        "mask": {"attn_mask": pydlx.from_numpy(allowed)},
        "padding": {"attn_mask": pydlx.from_numpy(allowed[:1].copy())},
        "additive": {"attn_mask": pydlx.from_numpy(np.where(allowed, 0, -np.inf).astype(np.float32))},
        "window": {"window_size": (-1, 10)},
    }[hide]

    def run(fill):
        q, k, v = arrays[0].copy(), arrays[1].copy(), arrays[2].copy()
        k[:, 60:] = fill
        v[:, 60:] = fill
        leaves = [pydlx.from_numpy(x).requires_grad_() for x in (q, k, v)]
        out = sdpa(*leaves, **options)
        grads = pydlx.autograd.grad([out], leaves, [ones(out)])
        return out.detach().numpy(), [g.numpy()[:, :60] for g in grads]

    clean, clean_grads = run(0)
    dirty, dirty_grads = run(poison)
    assert np.allclose(clean, dirty, atol=1e-6)
    for a, b in zip(clean_grads, dirty_grads, strict=True):
        assert np.allclose(a, b, atol=1e-5)


def test_query_without_keys_may_hold_anything():
    rng = np.random.default_rng(3)
    q, k, v = tensors(rng, (20, 8), (30, 8), (30, 8))
    allowed = np.ones((20, 30), bool)
    allowed[5] = False
    q[5] = float("nan")
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = sdpa(*leaves, attn_mask=pydlx.from_numpy(allowed))
    grads = pydlx.autograd.grad([out], leaves, [ones(out)])
    assert all(np.isfinite(x.detach().numpy()).all() for x in (out, *grads))


def test_result_and_gradients_keep_the_axis_order_of_the_operands():
    rng = np.random.default_rng(3)
    leaves = [t.requires_grad_() for t in tensors(rng, (2, 5, 3, 4), (2, 5, 3, 4), (2, 5, 3, 4))]
    q, k, v = (t.transpose(1, 2) for t in leaves)
    out = sdpa(q, k, v)
    assert out.transpose(1, 2).is_contiguous()
    for g in pydlx.autograd.grad([out], [q, k, v], [ones(out)]):
        assert g.transpose(1, 2).is_contiguous()


def test_strided_operands():
    """Heads cut out of one projection give the same bits as their copies."""
    rng = np.random.default_rng(4)
    (x,) = tensors(rng, (2, 70, 3 * 4 * 16))
    parts = [s.view(2, 70, 4, 16).transpose(1, 2) for s in x.split(64, dim=2)]
    results = []
    for operands in (parts, [s.contiguous() for s in parts]):
        leaves = [s.detach().requires_grad_() for s in operands]
        out = sdpa(*leaves, is_causal=True)
        results.append([out, *pydlx.autograd.grad([out], leaves, [ones(out)])])
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a.detach().numpy(), b.detach().numpy())


def test_dropout():
    rng = np.random.default_rng(4)
    q, k, v = tensors(rng, (4, 30, 8), (4, 30, 8), (4, 30, 8))
    v = ones(v)
    out = sdpa(q, k, v, dropout_p=0.5).numpy()
    assert 0.9 < out.mean() < 1.1
    assert out.std() > 0.01
    assert np.all(sdpa(q, k, v, dropout_p=1.0).numpy() == 0)


SAME_BITS = """
import sys
import numpy as np
import pydlx
pydlx.set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
for heads, kv, lq, lk in ((1, 1, 300, 1300), (4, 2, 130, 130), (12, 12, 60, 70)):
    shapes = (2, heads, lq, 20), (2, kv, lk, 20), (2, kv, lk, 20)
    leaves = [pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)).requires_grad_() for s in shapes]
    for options in ({}, {"is_causal": True, "dropout_p": 0.2}, {"window_size": (40, 3)}):
        pydlx.manual_seed(1)
        out = pydlx.nn.functional.scaled_dot_product_attention(*leaves, enable_gqa=True, **options)
        grads = pydlx.autograd.grad([(out * out).sum()], leaves)
        sys.stdout.write("".join(hex(hash(x.detach().numpy().tobytes())) for x in (out, *grads)))
"""


def test_any_number_of_threads_gives_the_same_bits(tmp_path):
    def run(threads):  # in another folder: this one has a pydlx/ without its extension
        command = [sys.executable, "-c", SAME_BITS, str(threads)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": "0"}
        )
        return done.stdout

    one = run(1)
    assert len(one) > 100
    assert run(2) == one
    assert run(3) == one
