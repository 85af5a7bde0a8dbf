"""softmax and cross-entropy of 16-bit floats: what float32 gives, rounded once, for every shape and length of row."""

import numpy as np
import pytest

import pydlx
from pydlx.nn import functional

LENGTHS = [1, 2, 15, 16, 17, 31, 33, 64, 65, 97, 1000, 4095, 4096, 4097, 9001]
DTYPES = pytest.mark.parametrize("dtype", [pydlx.bfloat16, pydlx.float16], ids=str)


def close(got, want, dtype):
    """Within a rounding of the 16-bit float; NaN and infinities alike."""
    step = 2.0**-8 if dtype == pydlx.bfloat16 else 2.0**-11
    got, want = got.double().numpy(), want.to(dtype).double().numpy()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    # subnormal float16 has fixed steps
    np.testing.assert_allclose(got, want, rtol=1.01 * step, atol=2.0**-24 if dtype == pydlx.float16 else 1e-38)


def values(shape, dtype, seed=0):
    x = np.random.default_rng(seed).normal(0, 3, shape).astype(np.float32)
    return pydlx.from_numpy(x).to(dtype)


def rows_with_extremes(rows, n, dtype):
    x = values((rows, n), dtype)
    x[0, n // 2] = float("inf")
    x[1] = -float("inf")
    x[2, n - 1] = float("nan")
    x[3, : n // 2] = -float("inf")
    x[4] = x[4] * 1e4
    return x


@DTYPES
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_rows_and_columns(name, n, dtype, isa):
    f = getattr(functional, name)
    rows = 70 if n <= 32 else 6
    x = rows_with_extremes(rows, n, dtype)
    close(f(x, 1), f(x.float(), 1), dtype)
    for width in (1, 17, 70, 131):
        y = values((n, width), dtype)
        y[n // 3, : min(5, width)] = pydlx.tensor([np.inf, -np.inf, np.nan, 0, 60000])[:width].to(dtype)
        close(f(y, 0), f(y.float(), 0), dtype)


@DTYPES
@pytest.mark.parametrize("n", [1, 16, 33, 1000, 4097])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gradients_of_softmax(name, n, dtype, isa):
    f = getattr(functional, name)
    for shape, axis in (((6, n), 1), ((n, 37), 0)):
        x, g = values(shape, dtype), values(shape, dtype, 1)
        y = f(x.requires_grad_(), axis)
        y.backward(g)
        a, b = y.detach().float().double(), g.double()  # the derivative is written on the rounded result
        want = b - a.exp() * b.sum(axis, keepdim=True) if name == "log_softmax" else a * (b - (a * b).sum(axis, True))
        size = want.abs().max().item()
        np.testing.assert_allclose(x.grad.double().numpy(), want.numpy(), rtol=2.0**-8, atol=2e-6 * size)


@DTYPES
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("more", ["plain", "smooth", "weighted", "both"])
def test_cross_entropy(more, n, dtype, isa):
    options = {}
    if more in ("smooth", "both"):
        options["label_smoothing"] = 0.125
    for shape in ((5, n), (2, n, 3, 7), (1, n, 130)):
        if n > 1000 and len(shape) > 2:
            continue
        x = values(shape, dtype)
        target = np.random.default_rng(2).integers(0, n, (shape[0], *shape[2:]))
        target.reshape(-1)[1] = -100
        target = pydlx.from_numpy(target)
        if more in ("weighted", "both"):
            options["weight"] = pydlx.from_numpy(np.random.default_rng(3).uniform(0.5, 2, n).astype(np.float32))
        g = values(target.shape, dtype, 4)
        results = []
        for leaf in (x.clone().requires_grad_(), x.float().requires_grad_()):
            loss = functional.cross_entropy(leaf, target, reduction="none", **options)
            loss.backward(g.to(leaf.dtype))
            results.append((loss.detach(), leaf.grad))
        (loss, dx), (want, dwant) = results
        step = 2.0**-8 if dtype == pydlx.bfloat16 else 2.0**-11
        np.testing.assert_allclose(loss.double().numpy(), want.double().numpy(), rtol=1.01 * step, atol=2e-6)
        np.testing.assert_allclose(dx.double().numpy(), dwant.double().numpy(), rtol=1.01 * step, atol=2e-7)


@DTYPES
def test_cross_entropy_of_infinite_logits(dtype, isa):
    x = rows_with_extremes(6, 50, dtype)
    target = pydlx.tensor([1, 2, 3, 40, 5, 6])
    for smoothing in (0.0, 0.1):
        got, want = (
            functional.cross_entropy(t, target, reduction="none", label_smoothing=smoothing) for t in (x, x.float())
        )
        close(got, want, dtype)
