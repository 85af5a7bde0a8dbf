"""Kernels on explicit vectors whose last vector is a partial one: extrema, layer_norm, gathers, 16-bit casts.

Every length around a vector and a block of them, special values in every position, on every instruction set.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx
import pydlx.nn.functional as F

LENGTHS = [1, 2, 7, 15, 16, 17, 31, 33, 37, 63, 64, 65, 79, 127, 129, 200, 1000, 4095, 4097]


def both(x, dtype="float32"):
    return pydlx.from_numpy(x).to(getattr(pydlx, dtype)), torch.from_numpy(x).to(getattr(torch, dtype))


def values(t):
    return (t.float() if t.is_floating_point() else t).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", LENGTHS)
def test_extrema_of_rows(n, dtype, isa):
    x = np.random.default_rng(n).normal(0, 10, (5, n)).astype(np.float32)
    x[1] = -np.inf
    x[2] = np.inf
    x[3] = np.round(x[3] / 10)  # ties
    a, b = both(x, dtype)
    for name in ("amax", "amin"):
        np.testing.assert_array_equal(values(getattr(a, name)(1)), values(getattr(b, name)(1)))
        np.testing.assert_array_equal(values(getattr(a, name)()), values(getattr(b, name)()))
    wide = values(a)
    for name in ("max", "min"):
        got, at = getattr(a, name)(1)
        np.testing.assert_array_equal(values(got), getattr(wide, name)(1))
        np.testing.assert_array_equal(at.numpy(), getattr(wide, "arg" + name)(1))  # the first of equals
        np.testing.assert_array_equal(getattr(a, "arg" + name)(1).numpy(), at.numpy())
        assert getattr(a, name)().item() == getattr(wide, name)()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 64, 65, 130])
def test_extrema_of_rows_with_one_nan(n, dtype, isa):
    """Row k holds a NaN at k: no position is overlooked, whatever lies around it."""
    for fill in (0.0, np.inf, -np.inf):
        x = np.full((n, n), fill, np.float32)
        np.fill_diagonal(x, np.nan)
        t = pydlx.from_numpy(x).to(getattr(pydlx, dtype))
        for result in (t.amax(1), t.amin(1), t.max(1)[0], t.min(1)[0]):
            assert np.isnan(values(result)).all()
        for at in (t.argmax(1), t.argmin(1), t.max(1)[1], t.min(1)[1]):
            np.testing.assert_array_equal(at.numpy(), np.arange(n))
        for result in (t.max(), t.min(), t.amax(), t.amin()):
            assert np.isnan(result.item())


def test_extrema_of_zeros_and_of_integers(isa):
    for n in LENGTHS:
        x = np.zeros((2, n), np.float32)
        x[0] = -0.0
        x[1, ::2] = -0.0
        t = pydlx.from_numpy(x)
        for result in (t.amax(1), t.amin(1)):
            np.testing.assert_array_equal(result.numpy(), [0, 0])
            assert np.signbit(result.numpy()[0])
        for dtype in ("uint8", "int8", "int16", "int32", "int64"):
            info = np.iinfo(dtype)
            v = np.random.default_rng(n).integers(info.min, info.max, (3, n), dtype, endpoint=True)
            u = pydlx.from_numpy(v)
            np.testing.assert_array_equal(u.amax(1).numpy(), v.max(1))
            np.testing.assert_array_equal(u.amin(1).numpy(), v.min(1))
            np.testing.assert_array_equal(u.argmax(1).numpy(), v.argmax(1))


def test_extrema_of_nothing():
    assert pydlx.zeros(0, 3).amax(1).shape == (0,)
    for f in (lambda t: t.amax(1), lambda t: t.argmax(1), lambda t: t.max(1)):
        with pytest.raises((RuntimeError, IndexError)):
            f(pydlx.zeros(3, 0))


@pytest.mark.parametrize("n", LENGTHS)
def test_layer_norm_of_short_rows(n, isa):
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(6, n)) * 3 + 1).astype(np.float32)
    x[1] += 100
    w, b = rng.normal(size=n).astype(np.float32), rng.normal(size=n).astype(np.float32)
    wide = x.astype(np.float64)
    hat = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-2)
    rms = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-2)
    tx, tw, tb = (pydlx.from_numpy(v) for v in (x, w, b))
    for weight, bias, want in [
        (None, None, hat),
        (tw, None, hat * w),
        (None, tb, hat + b),
        (tw, tb, hat * w + b),
    ]:
        got = F.layer_norm(tx, (n,), weight, bias, 1e-2).numpy()
        np.testing.assert_allclose(got[[0, 2, 3, 4, 5]], want[[0, 2, 3, 4, 5]], rtol=3e-6, atol=3e-6)
        np.testing.assert_allclose(got[1], want[1], rtol=3e-5, atol=1e-4)  # the mean is 30 times the deviation
    np.testing.assert_allclose(F.rms_norm(tx, (n,), tw, 1e-2).numpy(), rms * w, rtol=3e-6, atol=3e-6)
    x[2, n - 1], x[4, 0] = np.nan, np.inf
    got = F.layer_norm(pydlx.from_numpy(x), (n,), None, None, 1e-2).numpy()
    assert np.isnan(got[2]).all() and np.isnan(got[4]).any()
    np.testing.assert_allclose(got[[0, 3, 5]], hat[[0, 3, 5]], rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("n", [1, 3, 15, 17, 64, 129])
def test_gather_along_rows(n, dtype, isa):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 100, (4, 37)).astype(dtype)
    index = rng.integers(0, 37, (4, n))
    want = np.take_along_axis(x, index, 1)
    got = pydlx.gather(pydlx.from_numpy(x), 1, pydlx.from_numpy(index))
    np.testing.assert_array_equal(got.numpy(), want)
    got = pydlx.gather(pydlx.from_numpy(x), 1, pydlx.from_numpy(np.repeat(index, 2, 1))[:, ::2])
    np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(
        pydlx.index_select(pydlx.from_numpy(x), 1, pydlx.from_numpy(index[0])).numpy(), x[:, index[0]]
    )
    np.testing.assert_array_equal(pydlx.from_numpy(x)[0][pydlx.from_numpy(index[0] - 37)].numpy(), x[0, index[0]])


@pytest.mark.parametrize("n", [1, 5, 16, 33, 130])
def test_scatter_along_rows_in_order(n, isa):
    """Repeated destinations meet their contributions in ascending order: integers in float32 that do not commute."""
    rng = np.random.default_rng(n)
    x = rng.integers(0, 100, (3, 9)).astype(np.float32)
    index = rng.integers(0, 9, (3, n))
    source = (rng.normal(size=(3, n)) * 10.0 ** rng.integers(-6, 6, (3, n))).astype(np.float32)
    want, last = x.copy(), x.copy()
    for r in range(3):
        for i in range(n):
            want[r, index[r, i]] += source[r, i]
            last[r, index[r, i]] = source[r, i]
    t, k, s = pydlx.from_numpy(x), pydlx.from_numpy(index), pydlx.from_numpy(source)
    np.testing.assert_array_equal(pydlx.scatter_add(t, 1, k, s).numpy(), want)
    np.testing.assert_array_equal(pydlx.scatter(t, 1, k, s).numpy(), last)


@pytest.mark.parametrize("place", [0, 3, 15, 16, 40])
@pytest.mark.parametrize("wrong", [9, -10, 2**40, -(2**63)])
def test_indices_out_of_range_along_rows(place, wrong, isa):
    index = np.zeros((2, 41), np.int64)
    index[1, place] = wrong
    t, k, s = pydlx.zeros(2, 9), pydlx.from_numpy(index), pydlx.ones(2, 41)
    for f in (
        lambda: pydlx.gather(t, 1, k),
        lambda: pydlx.scatter_add(t, 1, k, s),
        lambda: pydlx.scatter(t, 1, k, s),
        lambda: pydlx.index_select(t, 1, k[1]),
        lambda: pydlx.take(t, k * 3),
    ):
        with pytest.raises((IndexError, RuntimeError)):
            f()
    assert t.sum().item() == 0


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_casts_from_every_16_bit_float(name, isa):
    bits = np.arange(65536, dtype=np.uint16).view(np.int16)
    for start in (0, 1, 5):
        a = pydlx.from_numpy(bits[start:]).view(getattr(pydlx, name)).float().numpy()
        b = torch.from_numpy(bits[start:]).view(getattr(torch, name)).float().numpy()
        np.testing.assert_array_equal(a, b)
        nan = np.isnan(b)
        np.testing.assert_array_equal(a.view(np.uint32)[~nan], b.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_casts_to_16_bit_floats(name, isa):
    """All exponents and signs, ties to even (patterns that end in 8 or 10 followed by zeros), and their neighbours."""
    bits = np.arange(0, 2**32, 4099, dtype=np.uint64).astype(np.uint32)
    ties = (
        np.arange(0, 2**32, 2**12, dtype=np.uint64).astype(np.uint32)[:, None] + np.array([0, 1, 0xFFFFFFFF], np.uint32)
    ).ravel()
    x = np.concatenate([bits, ties]).view(np.float32)
    for part in (x, x[3:], x[:37]):
        a = pydlx.from_numpy(part).to(getattr(pydlx, name)).view(pydlx.int16).numpy().view(np.uint16)
        b = torch.from_numpy(part).to(getattr(torch, name)).view(torch.int16).numpy().view(np.uint16)
        nan = np.isnan(part)
        np.testing.assert_array_equal(a[~nan], b[~nan])
        quiet = pydlx.from_numpy(a[nan].view(np.int16)).view(getattr(pydlx, name)).float().numpy()
        assert np.isnan(quiet).all()


@pytest.mark.parametrize("n", [1, 15, 17, 33, 1000])
def test_casts_between_layouts(n, isa):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    t = pydlx.from_numpy(x)
    for name in ("float16", "bfloat16"):
        half = getattr(pydlx, name)
        want = torch.from_numpy(x).to(getattr(torch, name)).float().numpy()
        np.testing.assert_array_equal(t.to(half).float().numpy(), want)
        np.testing.assert_array_equal(t[:, 1].to(half).float().numpy(), want[:, 1])
        np.testing.assert_array_equal(t.t().to(half).float().numpy(), want.T)
        np.testing.assert_array_equal(t.to(half)[:, 0].double().numpy(), want[:, 0])
        other = pydlx.bfloat16 if name == "float16" else pydlx.float16
        np.testing.assert_array_equal(
            t.to(half).to(other).float().numpy(), pydlx.from_numpy(want).to(other).float().numpy()
        )
        np.testing.assert_array_equal(
            (t * 50).to(half).to(pydlx.int32).numpy(),
            torch.from_numpy(x * 50).to(getattr(torch, name)).to(torch.int32).numpy(),
        )


@pytest.mark.parametrize("channels", [16, 17, 31, 33, 63, 64, 65, 81, 130])
def test_max_pool_of_channels(channels, isa):
    """Channels-last images: vectors of channels, alone and by four; NaN, infinities and ties, windows cut by the border."""
    x = np.random.default_rng(channels).integers(-3, 4, (2, channels, 9, 7)).astype(np.float32)
    x[0, ::5, 3, 2:4] = np.nan
    x[1, ::3] = -np.inf
    for window in ((2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), ((2, 4), (1, 3), (1, 2), 1)):
        results = []
        for T in (pydlx, torch):
            images = T.from_numpy(x).contiguous(memory_format=T.channels_last)
            y, index = T.nn.functional.max_pool2d(images, *window, return_indices=True)
            results.append((y.numpy(), index.numpy(), T.nn.functional.max_pool2d(images, *window).numpy()))
        for got, want in zip(*results, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", LENGTHS)
def test_gradients_behind_masks(n, dtype, isa):
    """Where relu is 0, or a bound has cut, infinities and NaN are dropped, too; where relu is NaN, all passes."""
    rng = np.random.default_rng(n)
    x, g = (rng.integers(-3, 4, n).astype(np.float32) for _ in range(2))
    x[:: max(1, n // 3)] = np.nan
    g[1::5] = np.inf
    g[2::5] = np.nan
    (a, b), (ga, gb) = both(x, dtype), both(g, dtype)
    a.requires_grad_(), b.requires_grad_()
    pydlx.relu(a).backward(ga)
    torch.relu(b).backward(gb)
    np.testing.assert_array_equal(values(a.grad), values(b.grad))
    a, b = (t.detach().nan_to_num(0.0).requires_grad_() for t in (a, b))
    for f in (lambda M, t: M.clamp(t, -1, 2), lambda M, t: M.nn.functional.hardtanh(t, -1, 2)):
        a.grad = b.grad = None
        f(pydlx, a).backward(ga)
        f(torch, b).backward(gb)
        np.testing.assert_array_equal(values(a.grad), values(b.grad))
