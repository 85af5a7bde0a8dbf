"""Convolution of 16-bit floats on ``device="cuda"`` (tensor cores where their tiles are filled) against the CPU in float32."""

from __future__ import annotations

import pytest
from cuda_program import python

import pydlx
import pydlx.nn.functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

# name: (function, shape of x, shape of w, arguments)
CASES = {
    "partly filled tiles": ("conv2d", (2, 16, 9, 7), (40, 16, 3, 3), {"padding": 1}),
    "more than a tile": ("conv2d", (1, 8, 14, 14), (130, 8, 3, 3), {}),
    "depth of one panel": ("conv2d", (3, 32, 8, 8), (33, 32, 1, 1), {}),
    "stride and dilation": ("conv2d", (2, 33, 15, 13), (32, 33, 3, 2), {"stride": 2, "dilation": (1, 3), "padding": 2}),
    "groups": ("conv2d", (2, 66, 8, 8), (64, 33, 3, 3), {"groups": 2}),
    "split weight gradient": ("conv2d", (4, 35, 16, 16), (37, 35, 1, 1), {}),
    "few channels: ordinary units": ("conv2d", (2, 3, 8, 8), (5, 3, 3, 3), {}),
    "one axis": ("conv1d", (2, 32, 50), (48, 32, 5), {"padding": 2}),
    "one axis, groups": ("conv1d", (3, 80, 41), (112, 40, 5), {"stride": 2, "groups": 2}),
    "one axis, transposed": ("conv_transpose1d", (2, 70, 40), (70, 66, 4), {"stride": 2}),
    "three channels": ("conv2d", (2, 3, 21, 20), (68, 3, 7, 7), {"stride": 2, "padding": 3}),
    "odd channels": ("conv2d", (1, 67, 9, 9), (101, 67, 3, 3), {"padding": 1}),
    "three axes": ("conv3d", (1, 16, 5, 6, 7), (32, 16, 2, 3, 2), {"padding": 1}),
    "transposed": ("conv_transpose2d", (2, 32, 6, 6), (32, 40, 3, 3), {"stride": 2, "padding": 1}),
}


def run(case, device, dtype, rounded):
    """Output and gradients, of operands that were rounded to ``rounded`` and are handed over as ``dtype``."""
    function, x, w, arguments = case
    pydlx.manual_seed(1)
    channels = w[1] * arguments.get("groups", 1) if "transpose" in function else w[0]
    made = [pydlx.randn(x), pydlx.randn(w) / w[1], pydlx.randn(channels)]
    inputs = [t.to(rounded).to(device, dtype).requires_grad_() for t in made]
    out = getattr(F, function)(*inputs, **arguments)
    grads = pydlx.autograd.grad(out, inputs, pydlx.randn(out.shape).to(rounded).to(device, dtype))
    # Also where the kernels worked on copies with the channels last.
    assert all(t.is_contiguous() for t in (out, *grads))
    return [t.cpu().float() for t in (out.detach(), *grads)]


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu_in_float32(name, dtype):
    """Products are exact and sums are float32: only the result is rounded, by half a unit."""
    got, want = run(CASES[name], "cuda", dtype, dtype), run(CASES[name], "cpu", pydlx.float32, dtype)
    for what, x, y in zip(("output", "x", "weight", "bias"), got, want):
        error = ((x - y).abs() / (y.abs() + 1e-2 * y.abs().max())).max().item()
        assert error < 0.6 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


# Channels of a group that are multiples of eight, so that images with the channels last are read in chunks of 16 bytes;
# then some that are not.
LAST_CASES = {
    "one tile": ("conv2d", (2, 32, 8, 8), (32, 32, 1, 1), {}),
    "partly filled tiles": ("conv2d", (2, 40, 9, 7), (72, 40, 3, 3), {"padding": 1}),
    "more than a tile": ("conv2d", (1, 136, 14, 14), (200, 136, 3, 3), {}),
    "few pixels": ("conv2d", (2, 64, 4, 4), (64, 64, 3, 3), {"padding": 1}),
    "stride and dilation": (
        "conv2d",
        (2, 32, 15, 13),
        (40, 32, 3, 2),
        {"stride": (2, 3), "dilation": (1, 3), "padding": 2},
    ),
    "groups": ("conv2d", (2, 80, 8, 8), (96, 40, 3, 3), {"groups": 2, "padding": 1}),
    "split weight gradient": ("conv2d", (4, 40, 16, 16), (48, 40, 1, 1), {}),
    "three axes": ("conv3d", (1, 32, 5, 6, 7), (40, 32, 2, 3, 2), {"padding": 1}),
    "transposed": ("conv_transpose2d", (2, 32, 6, 6), (32, 40, 3, 3), {"stride": 2, "padding": 1}),
    "few channels": ("conv2d", (2, 8, 12, 12), (16, 8, 3, 3), {"padding": 1}),
    "odd channels": ("conv2d", (2, 36, 8, 8), (36, 36, 3, 3), {"padding": 1}),
}


def run_last(case, device, dtype, rounded, weights_last, skip=0):
    """As above with the channels last; ``skip`` elements lie before the images."""
    function, x, w, arguments = case
    pydlx.manual_seed(1)
    channels = w[1] * arguments.get("groups", 1) if "transpose" in function else w[0]
    made = [t.to(rounded).to(device, dtype) for t in (pydlx.randn(x), pydlx.randn(w) / w[1], pydlx.randn(channels))]
    last = pydlx.channels_last_3d if len(x) == 5 else pydlx.channels_last
    for i in (0, 1) if weights_last else (0,):
        made[i] = made[i].contiguous(memory_format=last)
    if skip:
        memory = pydlx.empty(made[0].numel() + skip, dtype=dtype, device=device)
        place = memory[skip:].as_strided(made[0].shape, made[0].stride(), skip)
        place.copy_(made[0])
        made[0] = place
    inputs = [t.detach().requires_grad_() for t in made]
    out = getattr(F, function)(*inputs, **arguments)
    assert out.is_contiguous(memory_format=last)
    grads = pydlx.autograd.grad(out, inputs, pydlx.randn(out.shape).to(rounded).to(device, dtype))
    return [t.cpu().float().contiguous() for t in (out.detach(), *grads)]


def check_last(name, dtype, weights_last, skip=0):
    got = run_last(LAST_CASES[name], "cuda", dtype, dtype, weights_last, skip)
    want = run_last(LAST_CASES[name], "cpu", pydlx.float32, dtype, weights_last)
    for what, x, y in zip(("output", "x", "weight", "bias"), got, want):
        assert x.shape == y.shape
        error = ((x - y).abs() / (y.abs() + 1e-2 * y.abs().max())).max().item()
        assert error < 0.6 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


@pytest.mark.parametrize("weights_last", [False, True], ids=["weights first", "weights last"])
@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAST_CASES)
def test_channels_last_equals_the_cpu_in_float32(name, dtype, weights_last):
    check_last(name, dtype, weights_last)


@pytest.mark.parametrize("skip", [1, 4, 8])
def test_channels_last_images_at_odd_addresses(skip):
    check_last("partly filled tiles", pydlx.bfloat16, True, skip)


def test_channels_last_passes_are_the_same_every_time():
    first, *others = (
        run_last(LAST_CASES["split weight gradient"], "cuda", pydlx.float16, pydlx.float16, True) for _ in range(3)
    )
    assert all((x == y).all().item() for other in others for x, y in zip(first, other))


LAST_PROGRAM = """
import pydlx
import pydlx.nn.functional as F
def pass_over(cin, cout, last, kernel=3):
    x = pydlx.ones(2, cin, 8, 8, dtype=pydlx.bfloat16, device="cuda")
    w = pydlx.ones(cout, cin, kernel, kernel, dtype=pydlx.bfloat16, device="cuda").requires_grad_()
    x = x.contiguous(memory_format=pydlx.channels_last) if last else x
    F.conv2d(x.requires_grad_(), w, padding=kernel // 2).sum().backward()
pass_over(32, 40, True)
pass_over(32, 40, False)
pass_over(36, 40, True)
pass_over(64, 64, False, 1)
pass_over(3, 40, False)
"""


def test_choice_of_the_layout():
    """PYDLX_VERBOSE tells when a pass takes the channels last, and when images are copied for that."""
    done = python(LAST_PROGRAM, PYDLX_VERBOSE="1", PYDLX_CUDA_CONV="own")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "pass " in line]
    assert [("channels last" in line) for line in lines] == [True] * 9 + [False] * 6, done.stderr
    assert [("copied" in line) for line in lines] == [False] * 3 + [True] * 6 + [False] * 6, done.stderr
    assert all("copied with 40 and 40 channels" in line for line in lines[6:9]), done.stderr


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64], ids=str)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    "name",
    [
        "partly filled tiles",
        "groups",
        "few channels: ordinary units",
        "one axis",
        "three axes",
        "odd channels",
        "three channels",
    ],
)
def test_scaled_and_rectified_results_equal_the_cpu(name, last, dtype):
    _, x, w, arguments = (LAST_CASES if last and name in LAST_CASES else CASES)[name]
    pydlx.manual_seed(2)
    x, w, bias, scale = (
        t.to(dtype) for t in (pydlx.randn(x), pydlx.randn(w) / w[1], pydlx.randn(w[0]), pydlx.randn(w[0]))
    )
    if last and len(w.shape) > 3:
        x = x.contiguous(memory_format=pydlx.channels_last_3d if len(w.shape) == 5 else pydlx.channels_last)
    wide = pydlx.float64 if dtype == pydlx.float64 else pydlx.float32
    for options in ({"activation": "relu"}, {"scale": scale}, {"scale": scale, "activation": "relu"}):
        on_gpu = {k: v.to("cuda") if k == "scale" else v for k, v in options.items()}
        on_cpu = {k: v.to(wide) if k == "scale" else v for k, v in options.items()}
        got = (
            pydlx.nn.functional.conv_activation(x.to("cuda"), w.to("cuda"), bias.to("cuda"), **arguments, **on_gpu)
            .cpu()
            .to(wide)
        )
        want = pydlx.nn.functional.conv_activation(x.to(wide), w.to(wide), bias.to(wide), **arguments, **on_cpu)
        error = ((got - want).abs() / (want.abs() + 1e-2 * want.abs().max())).max().item()
        rounding = {pydlx.float32: 500, pydlx.float64: 500}.get(dtype, 0.6)  # two orders of the same sum
        assert error < rounding * pydlx.finfo(dtype).eps, f"{options}: relative error {error:.2e}"
