"""Padding and nearest neighbours as one copy of planes: sizes around vectors, every number of axes and element size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx
import pydlx.nn.functional as F

MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}  # NumPy's: PyTorch's


def filled(shape, dtype="float32"):
    return (np.arange(int(np.prod(shape))).reshape(shape) % 251 - (dtype != "uint8") * 100).astype(dtype)


def padded(x, pads, mode):
    """NumPy's padding for (front, back) pairs that start with the last axis."""
    width = [(0, 0)] * (x.ndim - len(pads) // 2) + [(pads[i], pads[i + 1]) for i in range(len(pads) - 2, -1, -2)]
    return np.pad(x, width, mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [4, 7, 8, 15, 16, 17, 31, 33, 64, 100])
def test_rows_of_every_width(width, mode, isa):
    for dtype in ("uint8", "int16", "float32", "float64"):
        x = filled((2, 3, width), dtype)
        for pads in [(1, 1), (3, 2), (0, 3), (3, 0)]:
            got = F.pad(pydlx.from_numpy(x), pads, mode=MODES[mode])
            np.testing.assert_array_equal(got.numpy(), padded(x, pads, mode))


@pytest.mark.parametrize("width", [8, 9, 16, 20, 48, 49, 500, 950, 1020, 1030])
def test_borders_of_whole_vectors(width, isa):
    """Ends of rows that take one vector or several, are nothing but border, or are longer than any input vector."""
    for dtype in ("int16", "float32", "float64"):
        x = filled((2, 3, width), dtype)
        for pads in [(1, 0), (7, 9), (16, 0), (0, 17), (40, 33), (64, 80)]:
            for mode in MODES:
                if max(pads) < width or mode in ("constant", "edge"):
                    got = F.pad(pydlx.from_numpy(x), pads, mode=MODES[mode])
                    np.testing.assert_array_equal(got.numpy(), padded(x, pads, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(2, 1, 3, 0), (0, 0, 1, 2), (1, 0, 0, 0, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_axes(pads, mode, isa):
    x = filled((2, 3, 5, 6, 7)[: 2 + len(pads) // 2])
    for t in (pydlx.from_numpy(x), pydlx.from_numpy(np.ascontiguousarray(x.swapaxes(0, -1))).transpose(0, -1)):
        np.testing.assert_array_equal(F.pad(t, pads, mode=MODES[mode]).numpy(), padded(x, pads, mode))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("pads", [(-1, 2), (2, -3), (-2, -2), (-1, 2, 3, -1)])
def test_negative_amounts(pads, mode, isa):
    x = filled((2, 3, 9, 11)[: 2 + len(pads) // 2])
    want = torch.nn.functional.pad(torch.from_numpy(x), pads, mode=mode).numpy()
    np.testing.assert_array_equal(F.pad(pydlx.from_numpy(x), pads, mode=mode).numpy(), want)


def test_constant_values_and_shapes(isa):
    for shape in [(5,), (1, 1), (3, 4), (2, 3, 4), (2, 3, 4, 5), (2, 2, 2, 2, 3), (0, 4), (4, 0)]:
        for pads in [(1, 2), (0, 0), (-1, 1), (3, 0, 1, 1), (1, 0, 0, 1, 1, 0), (1, 1, 1, 1, 1, 1, 2, 0)]:
            if len(pads) // 2 > len(shape) or (shape[-1] == 0 and pads[0] < 0):
                continue
            x = filled(shape)
            want = torch.nn.functional.pad(torch.from_numpy(x), pads, value=-2.5).numpy()
            np.testing.assert_array_equal(F.pad(pydlx.from_numpy(x), pads, value=-2.5).numpy(), want)
    for dtype, value in [("bool", True), ("int64", 2**40 + 1), ("uint8", 200), ("float16", 1.5), ("bfloat16", -3.0)]:
        t = pydlx.ones(2, 3).to(getattr(pydlx, dtype))
        got = F.pad(t, (1, 1), value=value)
        assert got.dtype == t.dtype
        assert got[0, 0].item() == value and got[1, -1].item() == value and got[1, 2].item() == t[1, 1].item()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_gradients(mode):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 6))
    results = []
    for T in (pydlx, torch):
        t = T.from_numpy(x.copy()).requires_grad_()
        y = T.nn.functional.pad(t, (2, 1, 3, 0), mode=mode)
        (g,) = T.autograd.grad((y * y).sum(), [t], create_graph=True)
        (h,) = T.autograd.grad((g * g * g).sum(), [t])
        results.append((g.detach().numpy(), h.numpy()))
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("factor", [2, 3, 0.5, 1.7, 1])
def test_nearest(factor, mode, isa):
    for shape in [(2, 3, 1), (1, 2, 17), (2, 2, 33), (2, 3, 5, 7), (1, 2, 16, 40), (1, 2, 3, 4, 5)]:
        if factor == 0.5 and min(shape[2:]) < 2:
            continue
        x = filled(shape)
        want = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=factor, mode=mode).numpy()
        for dtype in ("float32", "float64", "float16"):
            t = pydlx.from_numpy(x).to(getattr(pydlx, dtype))
            got = F.interpolate(t, scale_factor=factor, mode=mode)
            assert got.dtype == t.dtype
            np.testing.assert_array_equal(got.float().numpy(), want)


@pytest.mark.parametrize("size", [(7, 3), (1, 1), (10, 33), (5, 64)])
def test_nearest_gradients(size):
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 16))
    results = []
    for T in (pydlx, torch):
        t = T.from_numpy(x.copy()).requires_grad_()
        y = T.nn.functional.interpolate(t, size=size)
        (y * y).sum().backward()
        results.append(t.grad.numpy())
    np.testing.assert_allclose(*results, rtol=1e-12)


def test_threads():
    x = pydlx.from_numpy(filled((6, 5, 50, 61)))
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            pydlx.set_num_threads(threads)
            padding = F.pad(x, (3, 3, 3, 3), mode="reflect")
            results.append((padding.numpy(), F.interpolate(x, scale_factor=2).numpy(), F.pad(x, (1, 2, 3, 4)).numpy()))
    finally:
        pydlx.set_num_threads(before)
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("width", [4, 7, 8, 9, 33, 255, 257, 520])
def test_rows_of_every_length_are_resized(mode, width, isa):
    """Neighbours of as many taps are summed together, up to 256 of them; the ends have fewer taps."""
    rng = np.random.default_rng(width)
    for size in ((6, 2 * width), (4, width + 3), (3, max(1, width // 3))):
        x = rng.standard_normal((2, 3, 5, width))
        options = {"size": size, "mode": mode} | ({} if mode == "nearest" else {"align_corners": False})
        want_x = torch.from_numpy(x).requires_grad_()
        want = torch.nn.functional.interpolate(want_x, **options)
        g = rng.standard_normal(want.shape)
        want.backward(torch.from_numpy(g))
        for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-12)):
            got_x = pydlx.from_numpy(x.astype(dtype)).requires_grad_()
            got = pydlx.nn.functional.interpolate(got_x, **options)
            got.backward(pydlx.from_numpy(g.astype(dtype)))
            # float32 finds the source pixels in its own precision, as PyTorch does
            np.testing.assert_allclose(got.detach().numpy(), want.detach().numpy(), atol=tolerance * width, rtol=0)
            np.testing.assert_allclose(got_x.grad.numpy(), want_x.grad.numpy(), atol=tolerance * width, rtol=0)
