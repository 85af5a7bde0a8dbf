"""Convolution of 16-bit floats on ``device="cuda"`` (tensor cores where their tiles are filled) against the CPU in float32."""

from __future__ import annotations

import pytest

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
    return [t.cpu().float() for t in (out.detach(), *grads)]


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_equals_the_cpu_in_float32(name, dtype):
    """Products are exact and sums are float32: only the result is rounded, by half a unit."""
    got, want = run(CASES[name], "cuda", dtype, dtype), run(CASES[name], "cpu", pydlx.float32, dtype)
    for what, x, y in zip(("output", "x", "weight", "bias"), got, want):
        error = ((x - y).abs() / (y.abs() + 1e-2 * y.abs().max())).max().item()
        assert error < 0.6 * pydlx.finfo(dtype).eps, f"{what}: relative error {error:.2e}"


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64], ids=str)
@pytest.mark.parametrize(
    "name", ["partly filled tiles", "groups", "few channels: ordinary units", "one axis", "three axes"]
)
def test_scaled_and_rectified_results_equal_the_cpu(name, dtype):
    _, x, w, arguments = CASES[name]
    pydlx.manual_seed(2)
    x, w, bias, scale = (
        t.to(dtype) for t in (pydlx.randn(x), pydlx.randn(w) / w[1], pydlx.randn(w[0]), pydlx.randn(w[0]))
    )
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
