"""Matrix products on ``device="cuda"``: every layout, sizes around the tiles, both kinds of units, split sums."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

# m, n, k: below, at and above a tile of 128 x 128 x 32; not multiples of eight; long sums that are split
SIZES = [
    (128, 128, 32),
    (120, 136, 40),
    (136, 120, 24),
    (32, 32, 16),
    (64, 256, 72),
    (33, 40, 48),
    (40, 40, 2048),
    (1, 64, 64),
]
LAYOUTS = ["nn", "nt", "tn", "tt"]


def operand(rng, rows, cols, transposed, dtype):
    a = rng.standard_normal((cols, rows) if transposed else (rows, cols)).astype(np.float32)
    t = pydlx.from_numpy(a).to(dtype).cuda()
    return t.t() if transposed else t


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("dtype", [pydlx.bfloat16, pydlx.float16, pydlx.float32], ids=str)
def test_layouts(size, layout, dtype):
    m, n, k = size
    rng = np.random.default_rng(m * n + k)
    a, b = operand(rng, m, k, layout[0] == "t", dtype), operand(rng, k, n, layout[1] == "t", dtype)
    got = (a @ b).cpu().double().numpy()
    want = a.cpu().double().numpy() @ b.cpu().double().numpy()
    unit = {"float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.9e-3}[str(dtype).split(".")[1]]
    # One rounding of the result, and sums of k products in float.
    assert np.abs(got - want).max() <= unit * np.abs(want).max() + 1.2e-7 * 4 * k**0.5 * np.sqrt(k)


def test_batches_and_epilogue():
    rng = np.random.default_rng(1)
    x = pydlx.from_numpy(rng.standard_normal((3, 40, 64)).astype(np.float32)).bfloat16().cuda()
    w = pydlx.from_numpy(rng.standard_normal((48, 64)).astype(np.float32)).bfloat16().cuda()
    bias = pydlx.from_numpy(rng.standard_normal(48).astype(np.float32)).bfloat16().cuda()
    got = pydlx.nn.functional.linear(x, w, bias).cpu().double().numpy()
    want = x.cpu().double().numpy() @ w.cpu().double().numpy().T + bias.cpu().double().numpy()
    assert np.abs(got - want).max() < 8e-3 * np.abs(want).max()
    y = pydlx.from_numpy(rng.standard_normal((3, 64, 40)).astype(np.float32)).bfloat16().cuda()
    got = pydlx.bmm(x, y).cpu().double().numpy()
    want = x.cpu().double().numpy() @ y.cpu().double().numpy()
    assert np.abs(got - want).max() < 8e-3 * np.abs(want).max()


def test_same_bits_every_time():
    a, b = pydlx.randn(40, 4096).cuda(), pydlx.randn(4096, 40).cuda()
    first = (a @ b).cpu()
    assert all(((a @ b).cpu() == first).all().item() for _ in range(3))
