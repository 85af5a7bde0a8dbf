"""Attention of float32 on ``device="cuda"``'s tensor cores: by three products, and of numbers rounded to TF32."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_program import choices, python, verbose_lines
from test_cuda_attention import HALF_CASES, MASKS, attend, heads_between, make
from test_cuda_float import precision, root_mean_square

import pydlx
import pydlx.nn.functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

NAMES = ("output", "dq", "dk", "dv")


def both(level, shape, arguments, dtype=pydlx.float32):
    """Output and gradients on the device, and in float64."""
    operands = make(*shape)
    results = []
    for device, working in (("cuda", dtype), ("cpu", pydlx.float64)):
        pydlx.manual_seed(4)
        grad = pydlx.randn(*shape[:2], shape[3], shape[6])
        placed = {n: a.to(device) if isinstance(a, pydlx.Tensor) else a for n, a in arguments.items()}
        pydlx.manual_seed(3)
        with precision(level):
            results.append(attend([t.to(device, working) for t in operands], grad.to(device, working), placed))
    return results


@pytest.mark.parametrize("name", HALF_CASES)
def test_equals_float64(name):
    shape, arguments = HALF_CASES[name]
    pydlx.manual_seed(2)
    given = arguments(shape)
    for level, limit in (("high", 3e-6), ("medium", 4e-3)):
        for what, got, want in zip(NAMES, *both(level, shape, given)):
            # A query that sees one key has a gradient of zero, as a difference of two sums.
            error = (got - want).abs().max().item() / max(want.abs().max().item(), 1)
            assert error < limit, f"{level}, {what}: relative error {error:.2e}"


@pytest.mark.parametrize("window", [(0, 0), (40, 5), (5, 70), (100, 0)], ids=str)
@pytest.mark.parametrize("dim", [20, 100])
def test_windows_over_tiles(dim, window):
    for got, want in zip(*both("high", (1, 2, 1, 150, 170, dim, dim), {"window_size": window, "enable_gqa": True})):
        assert (got - want).abs().max().item() < 3e-6 * max(want.abs().max().item(), 1)


def hostile(name, q_len, k_len, dim, value_dim):
    q, k, v = make(1, 2, 2, q_len, k_len, dim, value_dim)
    grad = pydlx.randn(1, 2, q_len, value_dim)
    if name == "positive":
        q, k, v, grad = (t.abs() for t in (q, k, v, grad))
    elif name == "large scores":
        q, k = q * 6, k * 6
    elif name == "equal scores":
        q = q * 1e-3
    elif name == "cancelling values":  # pairs of equal keys have values of 1000 and -1000
        k[:, :, 1::2] = k[:, :, : k_len // 2 * 2 : 2]
        q, v = q * 1e-2, v * 1e-2
        v[:, :, ::2] += 1000
        v[:, :, 1::2] -= 1000
    elif name == "cancelling scores":
        q[..., : dim // 2] += 10
        k[..., : dim // 4] += 10
        k[..., dim // 4 : dim // 2] -= 10
    return (q, k, v), grad


@pytest.mark.parametrize(
    "name", ["normal", "positive", "large scores", "equal scores", "cancelling values", "cancelling scores"]
)
@pytest.mark.parametrize(
    "sizes", [(33, 300, 16, 16), (70, 130, 64, 64), (70, 200, 128, 96), (40, 100, 256, 256)], ids=str
)
def test_three_products_keep_the_digits(sizes, name):
    """The error is at most twice that of plain sums, which have the units cut every result; mostly it is smaller."""
    operands, grad = hostile(name, *sizes)
    exact = attend([t.double() for t in operands], grad.double(), {})
    errors = {}
    for level in ("highest", "high", "medium"):
        with precision(level):
            got = attend([t.cuda() for t in operands], grad.cuda(), {})
        errors[level] = [root_mean_square((x - y).numpy(), y.numpy()) for x, y in zip(got, exact)]
    for what, plain, three, one in zip(NAMES, *errors.values()):
        # A weight of one gives plain sums the value itself, of which three products lose up to two bits.
        assert three <= 2 * plain + 6e-8, (what, plain, three)
        assert 4 * three < one, (what, three, one)


def test_scores_of_both_directions_are_the_same():
    """Weights that come again in the backward pass add up to one even where a score's last digit is worth some powers of two."""
    q, k, v = make(1, 1, 1, 70, 100, 40, 40)
    grad = pydlx.randn(1, 1, 70, 40)
    operands = (q * 1e6, k * 1e6, v)
    got = attend([t.cuda() for t in operands], grad.cuda(), {})
    best = (operands[0].double() @ operands[1].double().transpose(-1, -2)).argmax(-1)[0, 0]
    assert (got[0][0, 0] - v.double()[0, 0][best]).abs().max().item() < 2e-6
    want = pydlx.zeros(100, 40).double().index_add(0, best, grad.double()[0, 0])
    assert (got[3][0, 0] - want).abs().max().item() < 1e-5
    assert all((t == 0).all().item() or t.isfinite().all().item() for t in got[1:3])


# ---- infinities and NaN ----

INF, NAN, LARGEST = float("inf"), float("nan"), float(np.finfo(np.float32).max)
SPECIAL = {"infinite": INF, "minus infinity": -INF, "NaN": NAN, "largest": LARGEST, "large": 2.0**125}


@pytest.mark.parametrize("value", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("where", ["q", "k", "v", "gradient"])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dims", [(24, 40), (136, 200)], ids=str)
def test_special_values_are_those_of_plain_sums(dims, causal, where, value):
    operands = dict(zip(("q", "k", "v"), make(1, 1, 1, 80, 80, *dims)))
    operands["gradient"] = pydlx.randn(1, 1, 80, dims[1])
    operands[where][0, 0, 37, 5] = value
    results = []
    for level in ("highest", "high"):
        with precision(level):
            *inputs, grad = (t.cuda() for t in operands.values())
            results.append(attend(inputs, grad, {"is_causal": causal}))
    if np.isfinite(value) and where in "qk":  # gradients are what rounding leaves of slopes that are zero, times that
        results = [r[:1] for r in results]
    for what, want, got in zip(NAMES, *results):
        assert (got.isnan() == want.isnan()).all().item(), what
        assert (got.isinf() == want.isinf()).all().item(), what
        assert (got[got.isinf()] == want[got.isinf()]).all().item(), what
        finite = want.isfinite()
        if finite.any().item():
            scale = max(want[finite].abs().max().item(), 1)
            assert (got - want)[finite].abs().max().item() < 2e-5 * scale, what


@pytest.mark.parametrize("mask", ["boolean", "additive", "window"])
@pytest.mark.parametrize("dims", [(64, 64), (8, 256)], ids=str)
@pytest.mark.parametrize("level", ["high", "medium"])
def test_what_is_behind_a_mask_does_not_leak(level, dims, mask):
    """Keys, values, queries and gradients that nothing sees may be anything."""
    q, k, v = make(1, 2, 1, 70, 120, *dims)
    grad = pydlx.randn(1, 2, 70, dims[1])
    arguments = {"enable_gqa": True}
    if mask == "window":
        k[:, :, 96:], v[:, :, 97:] = NAN, INF
        arguments["window_size"], kept = (5, 10), slice(0, 80)
    else:
        visible = (pydlx.arange(120) < 50).expand(70, 120)
        k[:, :, 50:], v[:, :, 50:-1], v[:, :, -1], kept = INF, NAN, -INF, slice(0, 50)
        arguments["attn_mask"] = visible if mask == "boolean" else pydlx.where(visible, 0.5, -INF)
    with precision(level):
        placed = {n: a.cuda() if isinstance(a, pydlx.Tensor) else a for n, a in arguments.items()}
        got = attend([t.cuda() for t in (q, k, v)], grad.cuda(), placed)
    arguments.pop("attn_mask", None)
    want = attend([t.double() for t in (q, k[:, :, kept], v[:, :, kept])], grad.double(), arguments)
    limit = 3e-6 if level == "high" else 4e-3
    for x, y in zip(got[:2], want[:2]):
        assert (x - y).abs().max().item() < limit * max(y.abs().max().item(), 1)
    for x, y in zip(got[2:], want[2:]):
        assert (x[:, :, kept] - y).abs().max().item() < limit * max(y.abs().max().item(), 1)
        assert (x[:, :, kept.stop :] == 0).all().item()


# ---- where operands lie ----


@pytest.mark.parametrize("first", [0, 1, 2, 4], ids=lambda n: f"from word {n}")
@pytest.mark.parametrize("dims", [(36, 64), (130, 132), (33, 7)], ids=str)
def test_lines_at_any_word(dims, first):
    """Chunks of 16 bytes where lines begin at their multiples, words otherwise; heads beside each other."""
    shapes = [(2, 3, n, d) for n, d in zip((50, 70, 70, 50), (dims[0], dims[0], dims[1], dims[1]))]
    pydlx.manual_seed(first)
    operands = [pydlx.randn(*s) for s in shapes]

    def placed(t):
        memory = pydlx.zeros(first + t.numel()).cuda()
        memory[first:] = heads_between(t).transpose(1, 2).flatten().cuda()
        batch, heads, rows, features = t.shape
        return memory[first:].reshape(batch, rows, heads, features).transpose(1, 2)

    *inputs, grad = (placed(t) for t in operands)
    got = attend(inputs, grad, {"is_causal": True})
    want = attend([t.double() for t in operands[:3]], operands[3].double(), {"is_causal": True})
    for x, y in zip(got, want):
        assert (x - y).abs().max().item() < 3e-6 * max(y.abs().max().item(), 1)


def test_operands_that_are_repeated():
    """Strides of zero, and a gradient that is one number everywhere."""
    q, k, v = (t.cuda() for t in make(1, 1, 1, 40, 70, 16, 16))
    wide = [t.expand(3, 2, -1, -1).detach().requires_grad_() for t in (q, k, v)]
    F.scaled_dot_product_attention(*wide).sum().backward()
    one = [t.cpu().double().requires_grad_() for t in (q, k, v)]
    F.scaled_dot_product_attention(*one).sum().backward()
    for x, y in zip(wide, one):
        assert (x.grad.cpu().double() - y.grad).abs().max().item() < 3e-6


def test_empty_operands():
    for q_len, k_len in ((0, 5), (5, 0)):
        q, k, v = (pydlx.zeros(1, 2, n, 16, device="cuda", requires_grad=True) for n in (q_len, k_len, k_len))
        out = F.scaled_dot_product_attention(q, k, v)
        out.sum().backward()
        assert (out == 0).all().item() and all((t.grad == 0).all().item() for t in (q, k, v))


@pytest.mark.parametrize("dim", [64, 128, 256])
def test_the_same_bits_every_time(dim):
    q, k, v = (t.cuda() for t in make(1, 4, 2, 90, 130, dim, dim))
    grad = pydlx.randn(1, 4, 90, dim).cuda()
    first, second = (attend((q, k, v), grad, {"enable_gqa": True, "is_causal": True}) for _ in range(2))
    assert all((x == y).all().item() for x, y in zip(first, second))


# ---- which kernel ----

LESS_MEMORY = """
import pydlx
from test_cuda_attention_float import *
for name in ("features, one width", "features, the other", "256, additive mask", "192 and 128, causal, grouped"):
    test_equals_float64(name)
test_what_is_behind_a_mask_does_not_leak("high", (8, 256), "boolean")
test_special_values_are_those_of_plain_sums((136, 200), True, "v", INF)
test_scores_of_both_directions_are_the_same()
"""


@pytest.mark.parametrize(
    ("kib", "forward", "backward"),
    [("227", {32, 16}, {32, 16}), ("163", {32, 16}, {32, 8}), ("99", {32, 8}, {32, 16})],
    ids=["227", "163", "99"],
)
def test_tiles_on_gpus_with_less_shared_memory(kib, forward, backward):
    """Compute capabilities 9.0, 8.0, and 8.6 or 8.9."""
    lines = verbose_lines(LESS_MEMORY, "scaled_dot_product_attention", PYDLX_EMULATED_SHARED=kib)
    lines = [line for line in lines if "mma.sync, three products" in line]
    for back, expected in ((False, forward), (True, backward)):
        said = [line for line in lines if ("backward" in line) == back]
        texts = [f"tiles of 64 by {n}" if back else f"tiles of 64 queries and {n} keys" for n in expected]
        assert said and all(any(t in line for line in said) for t in texts), said
        assert all(any(t in line for t in texts) for line in said), said


SUMS = """
import pydlx
import pydlx.nn.functional as F
for dim in (64, 128, 256):
    pydlx.manual_seed(3)
    q, k, v = (pydlx.randn(1, 2, n, dim).cuda().requires_grad_() for n in (70, 130, 130))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    pydlx.manual_seed(4)
    out.backward(pydlx.randn(1, 2, 70, dim).cuda())
    print([t.double().cpu().numpy().tobytes()[-4000:] for t in (out.detach(), q.grad, k.grad, v.grad)][: 4 if dim < 256 else 0])
"""


def test_sums_do_not_depend_on_shared_memory():
    done = [python(SUMS, PYDLX_EMULATED_SHARED=kib) for kib in ("227", "99")]
    assert all(d.returncode == 0 for d in done), done[-1].stderr
    assert done[0].stdout == done[1].stdout


PROGRAM = """
import pydlx
import pydlx.nn.functional as F
def attend(dim, words=0):
    q = pydlx.ones(dim * 10 + words, device="cuda")[words:].reshape(1, 2, 5, dim).requires_grad_()
    F.scaled_dot_product_attention(q, q, q).sum().backward()
attend(64)
attend(256)
attend(257)
attend(30)
attend(64, 1)
pydlx.backends.cuda.matmul.allow_tf32 = True
attend(128)
pydlx.backends.cuda.matmul.allow_tf32 = False
attend(128)
pydlx.set_float32_matmul_precision("highest")
attend(64)
"""


def test_choice_of_the_units():
    lines = choices(PROGRAM, "scaled_dot_product_attention")
    three, words = "mma.sync, three products, tiles of 64", ", word by word"
    expected = [three, three, None, three + words, three + words, "mma.sync, TF32, tiles of 64", three, None]
    assert len(lines) == 2 * len(expected), lines
    for i, line in enumerate(lines):
        text = expected[i // 2]
        assert ("backward" in line) == bool(i % 2)
        if text is None:
            assert "mma" not in line, line
        else:
            assert all(part in line for part in text.split(words)) and (words in line) == (words in text), line


@pytest.mark.parametrize("level", ["high", "medium"])
@pytest.mark.parametrize("name", MASKS)
def test_gradient_of_a_mask(name, level):
    shape, mask_shape, arguments = MASKS[name]
    pydlx.manual_seed(6)
    mask, grad = pydlx.randn(mask_shape), pydlx.randn(*shape[:2], shape[3], shape[6])
    mask[..., 0, -1] = -INF
    results = []
    for device, working in (("cuda", pydlx.float32), ("cpu", pydlx.float64)):
        leaves = [t.to(device, working).requires_grad_() for t in (*make(*shape), mask)]
        more = {
            n: pydlx.tensor(a, device=device, dtype=working) if isinstance(a, list) else a for n, a in arguments.items()
        }
        pydlx.manual_seed(3)
        with precision(level):
            out = F.scaled_dot_product_attention(*leaves[:3], attn_mask=leaves[3], **more)
            results.append([t.cpu().double() for t in pydlx.autograd.grad(out, leaves, grad.to(device, working))])
    for got, want in zip(*results):
        assert (got - want).abs().max().item() < (3e-6 if level == "high" else 4e-3) * max(want.abs().max().item(), 1)
