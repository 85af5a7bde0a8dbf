"""Convolutions whose groups have few channels on ``device="cuda"``: kernels of their own for either order of channels."""

from __future__ import annotations

import pytest
from cuda_program import choices

import pydlx
import pydlx.nn.functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

inf, nan = float("inf"), float("nan")
DTYPES = [pydlx.float32, pydlx.float64, pydlx.float16, pydlx.bfloat16]

# name: (function, shape of x, shape of w, arguments)
CASES = {
    "3 x 3": ("conv2d", (2, 16, 14, 14), (16, 1, 3, 3), {"padding": 1, "groups": 16}),
    "3 x 3, stride 2": ("conv2d", (2, 16, 15, 14), (16, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 16}),
    "5 x 5": ("conv2d", (1, 8, 13, 20), (8, 1, 5, 5), {"padding": 2, "groups": 8}),
    "5 x 5, stride 2": ("conv2d", (1, 8, 16, 17), (8, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 8}),
    "7 x 7": ("conv2d", (1, 8, 12, 16), (8, 1, 7, 7), {"padding": 3, "groups": 8}),
    "7 x 7, stride 2": ("conv2d", (1, 8, 12, 13), (8, 1, 7, 7), {"padding": 3, "stride": 2, "groups": 8}),
    "no padding": ("conv2d", (2, 8, 11, 9), (8, 1, 3, 3), {"groups": 8}),
    "more padding than taps": ("conv2d", (1, 8, 5, 6), (8, 1, 3, 3), {"padding": (4, 5), "groups": 8}),
    "stride 2, even padding": ("conv2d", (1, 8, 10, 11), (8, 1, 3, 3), {"padding": (0, 2), "stride": 2, "groups": 8}),
    "rows that no tap sees": ("conv2d", (1, 8, 12, 10), (8, 1, 3, 3), {"stride": 2, "groups": 8}),
    "wide": ("conv2d", (1, 8, 5, 530), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    "many small images": ("conv2d", (5, 48, 7, 7), (48, 1, 3, 3), {"padding": 1, "groups": 48}),
    "one pixel": ("conv2d", (3, 8, 1, 1), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    "dilation": ("conv2d", (2, 8, 13, 12), (8, 1, 3, 3), {"padding": 2, "dilation": 2, "groups": 8}),
    "stride and dilation": (
        "conv2d",
        (2, 8, 15, 13),
        (8, 1, 3, 4),
        {"padding": (1, 5), "stride": (2, 3), "dilation": (1, 2), "groups": 8},
    ),
    "common factor of stride and dilation": (
        "conv2d",
        (1, 8, 17, 19),
        (8, 1, 3, 3),
        {"padding": 3, "stride": (2, 4), "dilation": (2, 6), "groups": 8},
    ),
    "even kernel": ("conv2d", (2, 8, 9, 10), (8, 1, 2, 4), {"padding": 1, "groups": 8}),
    "pointwise": ("conv2d", (2, 8, 6, 7), (8, 1, 1, 1), {"groups": 8}),
    "odd channels": ("conv2d", (2, 11, 9, 9), (11, 1, 3, 3), {"padding": 1, "groups": 11}),
    "multiplier": ("conv2d", (2, 6, 10, 9), (18, 1, 3, 3), {"padding": 1, "groups": 6}),
    "multiplier, stride 2": ("conv2d", (2, 6, 10, 9), (12, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 6}),
    "few channels per group": ("conv2d", (2, 12, 9, 10), (8, 3, 3, 3), {"padding": 1, "groups": 4}),
    "few channels, one group": ("conv2d", (2, 3, 9, 10), (4, 3, 3, 3), {"padding": 1}),
    "few channels, dilation": ("conv2d", (1, 6, 9, 10), (8, 3, 3, 2), {"dilation": 2, "groups": 2}),
    "one axis": ("conv1d", (2, 16, 50), (16, 1, 4), {"padding": 3, "groups": 16}),
    "one axis, multiplier": ("conv1d", (2, 5, 31), (10, 1, 9), {"stride": 2, "groups": 5}),
    "one axis, one tap": ("conv1d", (2, 8, 20), (8, 1, 1), {"groups": 8}),
    "one axis, before": ("conv1d", (3, 24, 37), (24, 1, 4), {"padding": 3, "groups": 24}),
    "one axis, 31 taps": ("conv1d", (2, 8, 104), (8, 1, 31), {"padding": 15, "groups": 8}),
    "one axis, 31 taps, odd": ("conv1d", (3, 5, 47), (5, 1, 31), {"padding": 15, "groups": 5}),
    "one axis, 32 taps": ("conv1d", (1, 4, 40), (4, 1, 32), {"groups": 4}),
    "one axis, 33 taps": ("conv1d", (1, 4, 40), (4, 1, 33), {"padding": 4, "groups": 4}),
    "one axis, long": ("conv1d", (1, 2, 4700), (2, 1, 9), {"padding": 4, "groups": 2}),
    "one axis, many short rows": ("conv1d", (300, 6, 3), (6, 1, 3), {"padding": 1, "groups": 6}),
    "one axis, more padding than taps": ("conv1d", (2, 4, 9), (4, 1, 5), {"padding": 7, "groups": 4}),
    "one axis, dilation": ("conv1d", (2, 8, 60), (8, 1, 7), {"padding": 9, "dilation": 3, "groups": 8}),
    "one axis of two": ("conv2d", (2, 8, 1, 60), (8, 1, 1, 7), {"padding": (0, 3), "groups": 8}),
    "one axis, transposed": ("conv_transpose1d", (2, 8, 21), (8, 1, 7), {"padding": 3, "groups": 8}),
    "three axes": ("conv3d", (1, 8, 5, 6, 7), (8, 1, 3, 3, 3), {"padding": 1, "groups": 8}),
    "three axes, stride": (
        "conv3d",
        (1, 8, 5, 6, 7),
        (8, 1, 2, 3, 3),
        {"padding": 1, "stride": (1, 2, 2), "groups": 8},
    ),
    "transposed": ("conv_transpose2d", (2, 8, 6, 7), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    "transposed, stride 2": (
        "conv_transpose2d",
        (2, 8, 6, 7),
        (8, 1, 3, 3),
        {"padding": 1, "stride": 2, "output_padding": 1, "groups": 8},
    ),
    "transposed, stride 3": ("conv_transpose2d", (1, 8, 6, 7), (8, 1, 5, 5), {"stride": 3, "groups": 8}),
    "no images": ("conv2d", (0, 8, 9, 10), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
}
LAST = [name for name, case in CASES.items() if len(case[1]) > 3]


def operands(case, dtype, last):
    function, x, w, arguments = case
    pydlx.manual_seed(1)
    channels = w[1] * arguments.get("groups", 1) if "transpose" in function else w[0]
    made = [pydlx.randn(*shape, dtype=pydlx.float64).to(dtype) for shape in (x, w, (channels,))]
    if last:
        made[0] = made[0].contiguous(memory_format=pydlx.channels_last_3d if len(x) == 5 else pydlx.channels_last)
    return made


def run(case, device, made, dtype):
    """Output and gradients, of operands that are handed over as ``dtype``."""
    function, _, _, arguments = case
    inputs = [t.to(device, dtype).requires_grad_() for t in made]
    out = getattr(F, function)(*inputs, **arguments)
    pydlx.manual_seed(2)
    grad = pydlx.randn(*out.shape, dtype=pydlx.float64).to(made[0].dtype).to(device, dtype)
    return out, pydlx.autograd.grad(out, inputs, grad)


def check(case, dtype, last=False):
    made = operands(case, dtype, last)
    out, grads = run(case, "cuda", made, dtype)
    want_out, want_grads = run(case, "cpu", made, pydlx.float64)
    for what, x, y in zip(("output", "x", "weight", "bias"), (out, *grads), (want_out, *want_grads)):
        x, y = x.detach().cpu().to(pydlx.float64), y.detach()
        assert x.shape == y.shape
        if x.numel() == 0:
            continue
        error = ((x - y).abs() / (y.abs() + 1e-2 * y.abs().max() + 1e-300)).max().item()
        bound = {pydlx.float32: 500, pydlx.float64: 500}.get(dtype, 0.6)  # two orders of a sum, or only its rounding
        assert error < bound * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"
    return out, grads


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu_in_float64(name, dtype):
    out, grads = check(CASES[name], dtype)
    assert all(t.is_contiguous() for t in (out, *grads))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAST)
def test_channels_last_equals_the_cpu_in_float64(name, dtype):
    out, _ = check(CASES[name], dtype, last=True)
    if out.numel() > 0:
        assert out.is_contiguous(memory_format=pydlx.channels_last_3d if out.dim() == 5 else pydlx.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", ["3 x 3", "3 x 3, stride 2", "stride and dilation", "multiplier"])
def test_scale_and_relu(name, last, dtype):
    _, _, _, arguments = CASES[name]
    x, w, bias = operands(CASES[name], dtype, last)
    scale = pydlx.linspace(-2, 2, len(bias), dtype=pydlx.float64).to(dtype)

    def end(options, device, as_dtype):
        given = {k: v.to(device, as_dtype) if k == "scale" else v for k, v in options.items()}
        made = [t.to(device, as_dtype) for t in (x, w, bias)]
        return F.conv_activation(*made, **arguments, **given).cpu().to(pydlx.float64)

    for options in ({"activation": "relu"}, {"scale": scale}, {"scale": scale, "activation": "relu"}):
        got, want = end(options, "cuda", dtype), end(options, "cpu", pydlx.float64)
        error = ((got - want).abs() / (want.abs() + 1e-2 * want.abs().max())).max().item()
        bound = {pydlx.float32: 500, pydlx.float64: 500}.get(dtype, 0.6)
        assert error < bound * pydlx.finfo(dtype).eps, f"{options}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", ["3 x 3", "3 x 3, stride 2", "dilation"])
def test_extreme_values(name, last, dtype):
    """Infinities and NaN reach what sees them and nothing else; subnormal and huge values survive."""
    case = CASES[name]
    made = operands(case, dtype, last)
    finfo = pydlx.finfo(dtype)
    x = made[0].abs()
    made[1] = (pydlx.arange(made[1].numel(), dtype=pydlx.float64).reshape(*made[1].shape) % 3 + 1).to(dtype)
    x[0, 4], x[0, 5] = finfo.tiny / 4, finfo.max

    def compare(function, *operands, **arguments):
        operands[0][0, 1, 3, 4], operands[0][0, 2, 0, 0], operands[0][1, 3, 6, 5] = inf, -inf, nan
        got, want = (
            function(*[t.to(device, kind) for t in operands], **arguments).cpu().to(dtype)
            for device, kind in (("cuda", dtype), ("cpu", pydlx.float64))
        )
        assert (got.isnan() == want.isnan()).all().item()
        assert (got.isinf() == want.isinf()).all().item()
        finite = ~(want.isnan() | want.isinf())
        near, exact = got[finite].to(pydlx.float64), want[finite].to(pydlx.float64)
        unit = exact.abs() * finfo.eps + finfo.tiny * finfo.eps  # subnormal results are multiples of that
        assert ((near - exact).abs() <= 4 * unit).all().item()

    compare(F.conv2d, x, made[1], **case[3])
    if "dilation" in case[3] or case[3].get("stride", 1) == 1:
        compare(F.conv_transpose2d, x, made[1], **case[3])
    else:
        compare(F.conv_transpose2d, x, made[1], output_padding=1, **case[3])


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("skip", [1, 2, 8])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_images_at_odd_addresses(last, skip, dtype):
    case = ("conv2d", (2, 16, 12, 16), (16, 1, 3, 3), {"padding": 1, "groups": 16})
    made = operands(case, dtype, last)
    on_gpu = [t.to("cuda") for t in made]
    memory = pydlx.empty(made[0].numel() + skip, dtype=dtype, device="cuda")
    place = memory[skip:].as_strided(made[0].shape, made[0].stride(), skip)
    place.copy_(on_gpu[0])
    got, want = F.conv2d(place, *on_gpu[1:], **case[3]), F.conv2d(*on_gpu, **case[3])
    assert (got == want).all().item()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_split_sums_are_the_same_every_time(kernel, last):
    case = ("conv2d", (8, 8, 40, 40), (8, 1, kernel, kernel), {"padding": 1, "groups": 8})
    first, *others = (check(case, pydlx.float32, last)[1] for _ in range(2))
    assert all((x == y).all().item() for other in others for x, y in zip(first, other))


PROGRAM = """
import pydlx
import pydlx.nn.functional as F
def pass_over(dtype, last, groups=16, each=1, kernel=3):
    x = pydlx.ones(2, groups * each, 8, 8, dtype=dtype, device="cuda")
    w = pydlx.ones(groups * each, each, kernel, kernel, dtype=dtype, device="cuda").requires_grad_()
    x = x.contiguous(memory_format=pydlx.channels_last) if last else x
    F.conv2d(x.requires_grad_(), w, padding=kernel // 2, groups=groups).sum().backward()
for dtype in (pydlx.float32, pydlx.float64, pydlx.float16, pydlx.bfloat16):
    pass_over(dtype, False)
    pass_over(dtype, True)
    pass_over(dtype, True, kernel=4)
    pass_over(dtype, True, groups=5)
    pass_over(dtype, False, groups=4, each=4)
    pass_over(dtype, False, groups=4, each=5)
for dtype in (pydlx.float32, pydlx.float64, pydlx.float16, pydlx.bfloat16):
    for taps, options in ((4, {}), (31, {}), (33, {}), (4, {"dilation": 2}), (4, {"stride": 2})):
        x = pydlx.ones(2, 4, 80, dtype=dtype, device="cuda").requires_grad_()
        w = pydlx.ones(4, 1, taps, dtype=dtype, device="cuda").requires_grad_()
        F.conv1d(x, w, groups=4, **options).sum().backward()
"""


def test_choice_of_the_kernel():
    lines = choices(PROGRAM, "pass ", PYDLX_CUDA_CONV="own")
    expected = [
        ["few channels, rows in shared memory", "few channels, rows in shared memory", "few channels, rows"],
        ["patches of pixels", "patches of pixels", "rows of taps"],
        ["channels last, tap by tap"] * 3,
        ["few channels"] * 3,
        ["few channels"] * 3,
        [None] * 3,
    ]
    lines, along = lines[: 4 * 18], lines[4 * 18 :]
    assert len(lines) == 4 * 18 and len(along) == 4 * 15
    for i, line in enumerate(along):
        assert ("rows along one axis" in line) == (i % 15 < 6), line
    for i, line in enumerate(lines):
        passes = ("forward", "input gradient", "weight gradient")
        text = expected[i % 18 // 3][next(k for k, name in enumerate(passes) if name in line)]
        assert (text in line) if text else "channels" not in line.split("pass ")[1], line


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_taps_that_see_nothing_infinite_have_finite_gradients(kernel, stride, last):
    """Strips and patches reach beyond the last results; what lies there must not meet the inputs that do exist."""
    pydlx.manual_seed(3)
    x = pydlx.randn(2, 8, 13, 13)
    x[0, 2, 12, 3], x[1, 5, 4, 12], x[1, 6, 11, 11] = float("inf"), float("nan"), -float("inf")
    x = x.contiguous(memory_format=pydlx.channels_last) if last else x
    w = pydlx.randn(8, 1, kernel, kernel)
    got, want = [], []
    for device, grads in (("cuda", got), ("cpu", want)):
        weight = w.to(device).requires_grad_()
        out = pydlx.nn.functional.conv2d(x.to(device), weight, stride=stride, groups=8)
        pydlx.manual_seed(4)
        out.backward(pydlx.randn(out.shape).to(device))
        grads.append(weight.grad.cpu())
    assert (got[0].isfinite() == want[0].isfinite()).all().item()
    near = want[0].isfinite()
    assert (got[0][near] - want[0][near]).abs().max().item() < 1e-4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("length", "taps"), [(45, 4), (64, 7), (33, 31)])
def test_extreme_values_along_one_axis(length, taps, dtype):
    """Infinities and NaN reach the results that see them and nothing else, and the gradients of taps that meet them."""
    finfo = pydlx.finfo(dtype)
    x = pydlx.randn(2, 6, length, dtype=pydlx.float64).abs().to(dtype)
    x[0, 1, 3], x[0, 2, 0], x[1, 3, length - 1] = inf, -inf, nan
    x[0, 4], x[0, 5] = finfo.tiny / 4, finfo.max
    w = (pydlx.arange(6 * taps, dtype=pydlx.float64).reshape(6, 1, taps) % 3 + 1).to(dtype)
    seen = []
    for device, kind in (("cuda", dtype), ("cpu", pydlx.float64)):
        on = [t.to(device, kind).requires_grad_() for t in (x, w)]
        out = F.conv1d(*on, groups=6)
        grads = pydlx.autograd.grad(out, on, pydlx.ones_like(out))
        seen.append([t.detach().cpu().to(dtype) for t in (out, *grads)])
    for got, want in zip(*seen, strict=True):
        assert (got.isnan() == want.isnan()).all().item()
        assert (got.isinf() == want.isinf()).all().item()
        finite = ~(want.isnan() | want.isinf())
        near, exact = got[finite].to(pydlx.float64), want[finite].to(pydlx.float64)
        unit = exact.abs() * finfo.eps + finfo.tiny * finfo.eps
        assert ((near - exact).abs() <= 8 * unit).all().item()
