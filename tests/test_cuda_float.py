"""float32 on ``device="cuda"``'s tensor cores: products and convolutions of numbers in two parts, and of numbers rounded to TF32."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from cuda_program import choices

import pydlx
import pydlx.nn.functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


@contextlib.contextmanager
def precision(name):
    before = pydlx.get_float32_matmul_precision()
    pydlx.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        pydlx.set_float32_matmul_precision(before)


def operands(seed, a_shape, b_shape, positive=False):
    rng = np.random.default_rng(seed)
    draw = rng.random if positive else rng.standard_normal
    return draw(a_shape).astype(np.float32), draw(b_shape).astype(np.float32)


def product(a, b, name):
    with precision(name):
        return (pydlx.from_numpy(a).cuda() @ pydlx.from_numpy(b).cuda()).cpu().numpy()


def root_mean_square(error, exact):
    return np.sqrt((error.astype(np.float64) ** 2).mean() / (exact**2).mean())


# batch, m, n, k: tiles of 64 and, with more than 66 large ones, of 128; odd sizes; long sums that are split
SIZES = {
    "one small tile": (1, 64, 64, 16),
    "odd": (1, 77, 45, 39),
    "least": (1, 32, 32, 16),
    "several small tiles": (2, 130, 70, 100),
    "split": (1, 33, 50, 2049),
    "large tiles": (67, 37, 50, 24),
    "four large tiles each": (17, 130, 132, 17),
}


@pytest.mark.parametrize("positive", [False, True], ids=["normal", "positive"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_three_products_keep_the_digits(size, positive):
    batch, m, n, k = size
    a, b = operands(m + k, (batch, m, k), (batch, k, n), positive)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    error = {name: root_mean_square(product(a, b, name) - exact, exact) for name in ("highest", "high", "medium")}
    assert error["high"] <= 1.5 * error["highest"] + 1e-8, error
    assert 4 * error["high"] < error["medium"] < 2.0**-11, error  # eleven bits of each operand


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("first", [0, 1, 3], ids=lambda n: f"from word {n}")
@pytest.mark.parametrize("line", [64, 65, 71], ids=lambda n: f"lines of {n}")
def test_lines_at_any_word(line, first, layout):
    """Chunks of 16 bytes where lines begin at their multiples, words otherwise; both ways round."""

    def operand(rows, cols, transposed):
        sizes = (cols, rows) if transposed else (rows, cols)
        memory = pydlx.randn(first + sizes[0] * line)
        t = memory.cuda()[first:].reshape(sizes[0], line)[:, : sizes[1]]
        return t.t() if transposed else t

    pydlx.manual_seed(line + first)
    a, b = operand(48, 50, layout[0] == "t"), operand(50, 60, layout[1] == "t")
    want = a.cpu().double() @ b.cpu().double()
    error = ((a @ b).cpu().double() - want).abs().max().item()
    assert error < 1e-5


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float16, pydlx.bfloat16], ids=str)
def test_operands_that_lie_along_neither_axis(dtype):
    pydlx.manual_seed(4)
    a, b = pydlx.randn(40, 70, 2).to(dtype).cuda()[..., 1], pydlx.randn(33, 3, 70).to(dtype).cuda()[:, 1].t()
    a = a[:, 1:]  # and begin anywhere
    b = b[1:]
    want = a.cpu().double() @ b.cpu().double()
    error = ((a @ b).cpu().double() - want).abs().max().item()
    assert error < 4 * pydlx.finfo(dtype).eps * want.abs().max().item()


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_halves_in_lines_of_odd_length(dtype, layout):
    pydlx.manual_seed(5)
    a = pydlx.randn((61, 45) if layout[0] == "n" else (45, 61)).to(dtype)
    b = pydlx.randn((45, 51) if layout[1] == "n" else (51, 45)).to(dtype)
    a, b = (a if layout[0] == "n" else a.t()), (b if layout[1] == "n" else b.t())
    got, want = (a.cuda() @ b.cuda()).cpu().double(), a.double() @ b.double()
    assert (got - want).abs().max().item() < 2 * pydlx.finfo(dtype).eps * want.abs().max().item()


INF, NAN, LARGEST = float("inf"), float("nan"), float(np.finfo(np.float32).max)
SPECIAL = {
    "infinite": [INF],
    "both infinities": [INF, -INF],
    "NaN": [NAN],
    "largest": [LARGEST, -LARGEST],
    "overflow": [1e30, 1e30],
    "subnormal": [1e-40, -1e-42],
    "tiny": [1e-30, 1e-25],
}


@pytest.mark.parametrize("name", ["high", "medium"])
@pytest.mark.parametrize("values", SPECIAL.values(), ids=SPECIAL)
def test_special_values_are_those_of_plain_sums(values, name):
    """Also times exact numbers, whose remainder is zero, and away from the tile's corner."""
    a, b = operands(6, (70, 40), (40, 66))
    b[3] = np.round(b[3])
    b[:, 5] *= 1e15
    for i, v in enumerate(values):
        a[17 + 40 * i, 3 + 20 * i] = v
    b[39, 65] = values[-1]
    with np.errstate(all="ignore"):
        got, want = product(a, b, name), product(a, b, "highest")
        exact = a.astype(np.float64) @ b.astype(np.float64)
        finite = np.isfinite(want)
        assert np.array_equal(np.isfinite(got), finite)
        assert np.array_equal(np.isnan(got), np.isnan(want))
        assert np.array_equal(got[~finite & ~np.isnan(want)], want[~finite & ~np.isnan(want)])
        scale = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
        bound = (1e-6 if name == "high" else 2e-3) * scale + 1e-44
        assert (np.abs(got - exact)[finite] <= bound[finite]).all()


def test_an_epilogue_and_a_second_product_into_the_same_result():
    pydlx.manual_seed(7)
    x, w, bias, c = (pydlx.randn(*s) for s in ((70, 90), (50, 90), (50,), (70, 50)))
    got = F.linear(x.cuda(), w.cuda(), bias.cuda()).cpu().double()
    assert (got - F.linear(x.double(), w.double(), bias.double())).abs().max().item() < 2e-5
    got = pydlx.addmm(c.cuda(), x.cuda(), w.t().cuda(), beta=0.5, alpha=2).cpu().double()
    want = pydlx.addmm(c.double(), x.double(), w.t().double(), beta=0.5, alpha=2)
    assert (got - want).abs().max().item() < 4e-5


def test_the_same_bits_every_time():
    a, b = pydlx.randn(40, 3000).cuda(), pydlx.randn(3000, 45).cuda()
    first = (a @ b).cpu()
    assert all(((a @ b).cpu() == first).all().item() for _ in range(3))


# function, sizes of x and of the weight, arguments
CONVOLUTIONS = {
    "3x3": ("conv2d", (2, 40, 9, 7), (72, 40, 3, 3), {"padding": 1}),
    "three channels": ("conv2d", (2, 3, 15, 15), (36, 3, 5, 5), {"stride": 2}),
    "odd channels": ("conv2d", (2, 37, 8, 8), (41, 37, 3, 3), {"padding": 1}),
    "groups": ("conv2d", (2, 72, 8, 8), (88, 36, 3, 3), {"groups": 2, "padding": 1}),
    "groups of odd channels": ("conv2d", (2, 74, 8, 8), (90, 37, 3, 3), {"groups": 2, "padding": 1}),
    "one axis": ("conv1d", (2, 33, 60), (48, 33, 3), {"padding": 2, "dilation": 2}),
    "three axes": ("conv3d", (1, 32, 5, 6, 7), (40, 32, 2, 3, 2), {"padding": 1}),
    "transposed": ("conv_transpose2d", (2, 36, 6, 6), (36, 40, 3, 3), {"stride": 2, "padding": 1}),
    "split": ("conv2d", (4, 32, 24, 24), (36, 32, 1, 1), {}),
}


def passes(case, device, dtype, last):
    function, x, w, arguments = case
    pydlx.manual_seed(8)
    channels = w[1] * arguments.get("groups", 1) if "transpose" in function else w[0]
    made = [pydlx.randn(x), pydlx.randn(w) / (w[1] * w[-1]) ** 0.5, pydlx.randn(channels)]
    if last and len(x) > 3:
        made[0] = made[0].contiguous(memory_format=pydlx.channels_last_3d if len(x) == 5 else pydlx.channels_last)
    inputs = [t.to(device, dtype).requires_grad_() for t in made]
    out = getattr(F, function)(*inputs, **arguments)
    grads = pydlx.autograd.grad(out, inputs, pydlx.randn(out.shape).to(device, dtype))
    return [t.detach().cpu().double().numpy() for t in (out, *grads)]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_keep_the_digits(name, last):
    exact = passes(CONVOLUTIONS[name], "cpu", pydlx.float64, last)
    got = {}
    for level in ("highest", "high", "medium"):
        with precision(level):
            got[level] = passes(CONVOLUTIONS[name], "cuda", pydlx.float32, last)
    for i, what in enumerate(("output", "x", "weight")):
        error = {level: root_mean_square(values[i] - exact[i], exact[i]) for level, values in got.items()}
        assert error["high"] <= 1.5 * error["highest"] + 1e-8, (what, error)
        if (name, what) != ("three channels", "x"):  # which does not fill a tile
            assert 4 * error["high"] < error["medium"] < 2.0**-11, (what, error)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_infinities_and_nan_in_images(last):
    x = pydlx.randn(2, 40, 9, 9)
    x[0, 3, 4, 4], x[1, 39, 0, 8] = INF, NAN
    x = x.contiguous(memory_format=pydlx.channels_last) if last else x
    w = pydlx.randn(40, 40, 3, 3).round()
    got = F.conv2d(x.cuda(), w.cuda(), padding=1).cpu()
    with precision("highest"):
        want = F.conv2d(x.cuda(), w.cuda(), padding=1).cpu()
    assert (got.isnan() == want.isnan()).all().item() and (got.isinf() == want.isinf()).all().item()
    assert (got[got.isinf()] == want[got.isinf()]).all().item()


PROGRAM = """
import pydlx
import pydlx.nn.functional as F
a, b, wide = (pydlx.ones(*s, device="cuda") for s in ((64, 64), (64, 65), (70, 64, 64)))
image, weight = pydlx.ones(2, 32, 8, 8, device="cuda"), pydlx.ones(32, 32, 3, 3, device="cuda")
a @ a; a @ b; pydlx.bmm(wide, wide); a[:, ::2] @ a[::2]; a[:8] @ a
F.conv2d(image, weight)
pydlx.backends.cuda.matmul.allow_tf32 = True
a @ a
F.conv2d(image, weight)
pydlx.backends.cuda.matmul.allow_tf32 = False
a @ a
pydlx.backends.cudnn.allow_tf32 = True
a @ a
F.conv2d(image, weight)
pydlx.set_float32_matmul_precision("highest")
a @ a
F.conv2d(image, weight)
"""


def test_choice_of_the_units():
    lines = [line for word in ("matmul", "bmm") for line in choices(PROGRAM, f"pydlx: {word}")]
    three, one = "mma.sync, three products, 64 x 64 tiles", "mma.sync, TF32, 64 x 64 tiles"
    expected = [three, three + ", word by word", "operands by positions", None, one, three, three, None]
    expected += ["three products, 128 x 128 tiles"]
    assert len(lines) == len(expected), lines
    for line, text in zip(lines, expected):
        assert text in line if text else "mma" not in line, (line, text)
    images = choices(PROGRAM, "pydlx: conv2d", PYDLX_CUDA_CONV="own")
    expected = ["three products", "TF32", "TF32", None]
    assert len(images) == len(expected), images
    for line, text in zip(images, expected):
        assert text in line if text else "mma" not in line, (line, text)
