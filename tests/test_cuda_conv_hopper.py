"""Convolution of 16-bit floats with the channels last by the instructions of sm_90a: all passes against float64 around the edges of
tiles, panels and taps, what lies beside the images and the results, and what the kernels refuse."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_program import check_wgmma_choice

import pydlx
import pydlx.nn.functional as F

needs_device = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")
needs_hopper = pytest.mark.skipif(
    not pydlx.cuda.is_available() or pydlx.cuda.get_device_capability()[0] != 9,
    reason="no GPU of compute capability 9.x",
)
UNITS = {pydlx.float16: 4.9e-4, pydlx.bfloat16: 3.95e-3}


def last(t):
    return t.contiguous(memory_format=pydlx.channels_last_3d if t.ndim == 5 else pydlx.channels_last)


def amid_nan(t, before=8):
    """The same channels-last tensor with NaN right before and behind its elements."""
    memory = pydlx.full((t.numel() + before + 64,), float("nan"), dtype=t.dtype, device=t.device)
    place = memory.as_strided(t.shape, t.stride(), before)
    place.copy_(t)
    return place


def check(x, w, dtype, function="conv2d", weights_last=False, **arguments):
    """Output and gradients against those in float64: a rounding of the result, and sums in float."""
    rng = np.random.default_rng(sum(x) + sum(w))
    outputs = w[1] * arguments.get("groups", 1) if "transpose" in function else w[0]
    made = [rng.standard_normal(x), rng.standard_normal(w) / w[1], rng.standard_normal(outputs)]
    narrow = [pydlx.from_numpy(m.astype(np.float32)).to(dtype).cuda() for m in made]
    narrow[0] = amid_nan(last(narrow[0]))
    if weights_last:
        narrow[1] = amid_nan(last(narrow[1]))
    wide = [t.cpu().double().contiguous().requires_grad_() for t in narrow]
    narrow = [t.detach().requires_grad_() for t in narrow]
    out, exact = getattr(F, function)(*narrow, **arguments), getattr(F, function)(*wide, **arguments)
    slope = pydlx.from_numpy(rng.standard_normal(out.shape).astype(np.float32)).to(dtype).cuda()
    slope = amid_nan(last(slope))
    got = [out, *pydlx.autograd.grad(out, narrow, slope)]
    want = [exact, *pydlx.autograd.grad(exact, wide, slope.cpu().double().contiguous())]
    assert out.is_contiguous(memory_format=pydlx.channels_last_3d if out.ndim == 5 else pydlx.channels_last)
    for what, a, b in zip(("output", "x", "weight", "bias"), got, want):
        a, b = a.detach().cpu().double().contiguous().numpy(), b.detach().numpy()
        assert a.shape == b.shape
        error = np.abs(a - b) / (np.abs(b) + 1e-2 * np.abs(b).max())
        assert error.max() < 1.3 * UNITS[dtype], f"{what}: relative error {error.max():.2e}"


@needs_device
@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("cin", [8, 56, 64, 72])
@pytest.mark.parametrize("cout", [64, 72])
def test_panels_across_taps(cin, cout, dtype):
    """64 terms are of nine taps, of two, of one; the last panel is cut."""
    check((1, cin, 9, 8), (cout, cin, 3, 3), dtype, padding=1)


@needs_device
@pytest.mark.parametrize("pixels", [63, 64, 65, 127, 128, 129])
def test_edges_of_rows(pixels):
    check((1, 64, 1, pixels), (64, 64, 1, 3), pydlx.bfloat16, padding=(0, 1))


@needs_device
@pytest.mark.parametrize("cout", [56, 64, 72, 120, 128, 136, 248, 256, 264])
def test_edges_of_columns(cout):
    check((1, 64, 8, 8), (cout, 64, 1, 2), pydlx.float16)


@needs_device
@pytest.mark.parametrize("cin", [120, 128, 136, 248, 256, 264])
def test_edges_of_columns_of_the_input(cin):
    check((1, cin, 9, 9), (64, cin, 2, 1), pydlx.bfloat16, weights_last=True)


@needs_device
@pytest.mark.parametrize(
    "arguments",
    [
        {"stride": 2},
        {"stride": (1, 3), "padding": (2, 1)},
        {"dilation": (2, 3), "padding": 3},
        {"stride": (3, 2), "dilation": 2, "padding": (0, 4)},
        {"padding": "same"},
    ],
    ids=str,
)
@pytest.mark.parametrize("weights_last", [False, True])
def test_geometry(arguments, weights_last):
    check((2, 64, 19, 17), (72, 64, 3, 3), pydlx.float16, weights_last=weights_last, **arguments)


# Pixels of the input that are seen through other taps than their neighbours, or through none.
STRIDED = {
    "one tap of four pixels": ((2, 64, 17, 16), (64, 64, 1, 1), {"stride": 2}),
    "patches": ((2, 64, 24, 24), (64, 64, 3, 3), {"stride": 3}),
    "patches and a rest": ((2, 64, 26, 25), (72, 64, 3, 3), {"stride": 3}),
    "gaps": ((2, 64, 24, 23), (64, 64, 2, 1), {"stride": (3, 2), "padding": (1, 0)}),
    "dilation with a common factor": ((2, 64, 21, 20), (64, 64, 3, 3), {"stride": 2, "dilation": 2, "padding": 2}),
    "dilation with a part in common": (
        (2, 64, 20, 27),
        (64, 64, 3, 4),
        {"stride": (4, 6), "dilation": (2, 4), "padding": (3, 5)},
    ),
    "dilation and stride without": (
        (2, 64, 20, 21),
        (64, 64, 4, 3),
        {"stride": (2, 3), "dilation": (3, 5), "padding": (4, 6)},
    ),
    "a step beyond the image": ((70, 64, 3, 4), (64, 64, 2, 3), {"stride": (9, 7)}),
    "groups": ((2, 160, 17, 16), (144, 80, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    "three axes": ((1, 64, 7, 8, 9), (64, 64, 3, 2, 3), {"stride": (2, 1, 2), "padding": 1}),
}


@needs_device
@pytest.mark.parametrize("channels", ["wide", "narrow"])
@pytest.mark.parametrize("name", STRIDED)
def test_strides(name, channels):
    """Narrow ones are left to mma.sync."""
    x, w, arguments = STRIDED[name]
    if channels == "narrow":
        groups = arguments.get("groups", 1)
        x, w = (x[0], 40 * groups, *x[2:]), (48 * groups, 40, *w[2:])
    check(x, w, pydlx.float16, f"conv{len(x) - 2}d", **arguments)


@needs_device
@pytest.mark.parametrize("weights_last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [
        ((2, 2), {"stride": 2}),
        ((4, 4), {"stride": 2, "padding": 1}),
        ((3, 2), {"stride": 3, "output_padding": 1}),
        ((3, 3), {"stride": 2, "padding": 1, "output_padding": 1, "dilation": 2}),
    ],
    ids=str,
)
def test_transposed(kernel, arguments, weights_last):
    check((2, 64, 9, 8), (64, 72, *kernel), pydlx.bfloat16, "conv_transpose2d", weights_last=weights_last, **arguments)


@needs_device
@pytest.mark.parametrize("dtype", UNITS, ids=str)
def test_groups(dtype):
    """The last columns of a group's tile are the first ones of the next group."""
    check((2, 3 * 72, 8, 7), (3 * 88, 72, 3, 3), dtype, groups=3, padding=1)


@needs_device
def test_three_axes_and_transposed():
    check((1, 64, 4, 5, 6), (64, 64, 2, 3, 2), pydlx.bfloat16, "conv3d", padding=1)
    check((2, 64, 7, 6), (64, 72, 3, 3), pydlx.float16, "conv_transpose2d", stride=2, padding=1, output_padding=1)


@needs_device
def test_one_tap_is_a_product_of_matrices():
    check((2, 72, 9, 8), (136, 72, 1, 1), pydlx.bfloat16)
    check((2, 64, 9, 8), (64, 64, 1, 1), pydlx.float16, weights_last=True)


@needs_device
@pytest.mark.parametrize("weights", [(64, 64, 3, 3), (64, 64, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", UNITS, ids=str)
def test_endings(weights, dtype):
    rng = np.random.default_rng(2)
    x, w, bias, scale = (
        pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)).to(dtype).cuda()
        for s in ((2, 64, 7, 8), weights, 64, 64)
    )
    x = last(x)
    wide = [t.cpu().double().contiguous() for t in (x, w, bias, scale)]
    for options in ({"activation": "relu"}, {"scale": True}, {"scale": True, "activation": "relu"}):
        ends = [{**options, "scale": s} if "scale" in options else options for s in (scale, wide[3])]
        got = F.conv_activation(x, w, bias, padding=1, **ends[0]).cpu().double().contiguous().numpy()
        want = F.conv_activation(*wide[:3], padding=1, **ends[1]).numpy()
        assert np.abs(got - want).max() <= 1.3 * UNITS[dtype] * np.abs(want).max()


@needs_device
def test_long_sums_are_split_in_a_fixed_order():
    rng = np.random.default_rng(5)
    x, w = (
        pydlx.from_numpy(rng.standard_normal(s).astype(np.float32)).bfloat16().cuda()
        for s in ((3, 136, 16, 16), (64, 136, 3, 3))
    )
    x = last(x).requires_grad_()
    w.requires_grad_()
    slope = last(pydlx.ones(3, 64, 14, 14, dtype=pydlx.bfloat16, device="cuda"))

    def passes():
        y = F.conv2d(x, w)
        return [y.detach(), *pydlx.autograd.grad(y, (x, w), slope)]

    first = passes()
    assert all((a == b).all().item() for _ in range(2) for a, b in zip(first, passes()))
    check((3, 136, 16, 16), (64, 136, 3, 3), pydlx.bfloat16)


@needs_device
def test_what_no_pixel_sees_does_not_matter():
    """Infinities and NaN reach the outputs that look at them, and no others."""
    x = last(pydlx.ones(1, 64, 9, 16, dtype=pydlx.float16, device="cuda"))
    x[0, 3, 4, 7] = float("inf")
    x[0, 9, 0, 15] = float("nan")
    y = F.conv2d(x, pydlx.ones(64, 64, 3, 3, dtype=pydlx.float16, device="cuda"), padding=1).cpu().float()
    infinite, nan = pydlx.isinf(y).any(1).numpy()[0], pydlx.isnan(y).any(1).numpy()[0]
    assert np.argwhere(infinite).min(0).tolist() == [3, 6] and np.argwhere(infinite).max(0).tolist() == [5, 8]
    assert infinite.sum() == 9 and np.argwhere(nan).tolist() == [[0, 14], [0, 15], [1, 14], [1, 15]]


PROGRAM = """
import pydlx
import pydlx.nn.functional as F
def forward(cin, cout, size, kernel):
    x = pydlx.ones(1, cin, size, size, dtype=pydlx.bfloat16, device="cuda").contiguous(memory_format=pydlx.channels_last)
    F.conv2d(x, pydlx.ones(cout, cin, kernel, kernel, dtype=pydlx.bfloat16, device="cuda"))
forward(64, 64, 10, 3)
forward(64, 264, 10, 1)
forward(48, 48, 10, 3)
forward(64, 64, 9, 3)
forward(36, 64, 10, 3)
"""


@needs_hopper
def test_choice():
    """PYDLX_VERBOSE names the kernel, or why it was not taken; PYDLX_CUDA_WGMMA=0 turns it off."""
    expected = [
        "chunks of 16 bytes; wgmma, 128 x 64 tiles; 1 piece of k",
        "a product of matrices: wgmma, 128 x",
        "not wgmma: fewer than 64 rows, columns or terms",
        "not wgmma: fewer than 64 rows, columns or terms",
        "copied with 40 and 64 channels; channels last, chunks of 16 bytes; wgmma, 128 x 64 tiles",
    ]
    check_wgmma_choice(PROGRAM, "pass forward", expected, PYDLX_CUDA_CONV="own")
