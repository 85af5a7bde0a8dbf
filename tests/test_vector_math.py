"""Activations on explicit vectors: accuracy in ULP, special values, and the same bits whatever the length and layout."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pydlx
import pydlx.nn.functional as F

from .test_ulp import ulp_errors

erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# name: (function, bound in ULP, float64 reference, lowest and highest argument)
TABLE = {
    "exp": (pydlx.exp, 1.0, np.exp, -110, 95),
    "exp2": (pydlx.exp2, 1.2, np.exp2, -155, 130),
    "sigmoid": (pydlx.sigmoid, 2.5, sigmoid, -110, 110),
    "silu": (F.silu, 3.0, lambda x: x * sigmoid(x), -80, 110),
    "gelu": (F.gelu, 6.0, lambda x: x * 0.5 * erfc(-x / math.sqrt(2)), -12.9, 20),
    "softplus": (F.softplus, 2.5, lambda x: np.where(x > 20, x, softplus(x)), -100, 40),
    "logsigmoid": (F.logsigmoid, 2.5, lambda x: -softplus(-x), -40, 100),
}


@pytest.mark.parametrize("name", TABLE)
def test_bound(name, isa):
    function, bound, reference, low, high = TABLE[name]
    small = np.exp2(np.linspace(-60, 0, 2000))
    x = np.concatenate([np.linspace(low, high, 100_001), np.linspace(-6, 6, 100_001), small, -small]).astype(np.float32)
    x = x[(x >= low) & (x <= high)]
    error = ulp_errors(function(pydlx.from_numpy(x)).numpy(), reference(x.astype(np.float64)))
    worst = int(np.argmax(error))
    if name == "gelu" and isa.startswith("avx512"):  # tables instead of a quotient
        bound = 2.5
    assert error[worst] <= bound, f"{name}({x[worst]!r}): {error[worst]:.2f} ULP"


@pytest.mark.parametrize("name", TABLE)
def test_lengths_and_layouts(name, isa):
    function = TABLE[name][0]
    x = np.random.default_rng(0).normal(0, 4, (41, 2)).astype(np.float32)
    x[3], x[7], x[11] = np.inf, -np.inf, np.nan
    whole = function(pydlx.from_numpy(x[:, 0].copy())).numpy()
    for n in range(1, 41):
        part = function(pydlx.from_numpy(x[:n, 0].copy())).numpy()
        assert np.array_equal(part, whole[:n], equal_nan=True), n
    strided = function(pydlx.from_numpy(x)[:, 0]).numpy()
    assert np.array_equal(strided, whole, equal_nan=True)


def test_gelu_beside_far_elements(isa):
    """Elements far below zero take another way; those beside them in a vector do not notice."""
    ends = np.float32([-6.99, -7.8, 6.99, -13, -np.inf, np.nan, -1e30, 1e30, -1e-45, -0.0, 0.0])
    steps = np.sqrt(2 * np.arange(32) + 2, dtype=np.float32) - 1  # the ends of the table's intervals
    x = np.concatenate([ends, -steps, steps, np.linspace(-9, 9, 97, dtype=np.float32)])
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(-20))])
    np.random.default_rng(0).shuffle(x)
    whole = F.gelu(pydlx.from_numpy(x)).numpy()
    alone = np.concatenate([F.gelu(pydlx.from_numpy(x[i : i + 1])).numpy() for i in range(len(x))])
    np.testing.assert_array_equal(whole.view(np.int32), alone.view(np.int32))
    wide = x[np.abs(x) < 13].astype(np.float64)
    error = ulp_errors(whole[np.abs(x) < 13], TABLE["gelu"][2](wide))
    assert error.max() <= TABLE["gelu"][1]


@pytest.mark.parametrize("name", ["silu", "gelu", "softplus", "logsigmoid"])
def test_gradients(name, isa):
    """The fused backward pass against differences of the float64 forward one."""
    function, _, reference, _, _ = TABLE[name]
    x = np.random.default_rng(1).normal(0, 3, 1003).astype(np.float32)
    g = np.random.default_rng(2).normal(0, 1, 1003).astype(np.float32)
    t = pydlx.from_numpy(x).requires_grad_()
    function(t).backward(pydlx.from_numpy(g))
    wide = x.astype(np.float64)
    slope = (reference(wide + 1e-5) - reference(wide - 1e-5)) / 2e-5
    np.testing.assert_allclose(t.grad.numpy(), g * slope, rtol=2e-5, atol=2e-6)


def test_special_values(isa):
    x = pydlx.tensor([np.inf, -np.inf, np.nan, 0.0, -0.0])
    nan = np.nan
    expected = {
        "exp": [np.inf, 0, nan, 1, 1],
        "sigmoid": [1, 0, nan, 0.5, 0.5],
        "silu": [np.inf, nan, nan, 0, 0],
        "gelu": [np.inf, nan, nan, 0, 0],
        "softplus": [np.inf, 0, nan, np.log(2), np.log(2)],
        "logsigmoid": [0, -np.inf, nan, -np.log(2), -np.log(2)],
    }
    for name, want in expected.items():
        got = TABLE[name][0](x).numpy()
        np.testing.assert_allclose(got, np.array(want, np.float32), rtol=2e-7, err_msg=name)


@pytest.mark.parametrize("n", [33, 63, 64, 65, 100, 197, 4095, 4097, 9000])
def test_rows(n, isa):
    """Softmax and cross-entropy over rows that end in the middle of a vector, with infinities and NaN."""
    rng = np.random.default_rng(n)
    x = rng.normal(0, 5, (7, n)).astype(np.float32)
    x[1, : n // 2] = -np.inf
    x[2] = -np.inf
    x[3, n - 1] = np.nan
    x[4, 5] = np.inf
    t = pydlx.from_numpy(x).requires_grad_()
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        shifted = wide - wide.max(1, keepdims=True)
        total = np.exp(shifted).sum(1, keepdims=True)
        soft, log_soft = np.exp(shifted) / total, shifted - np.log(total)
    np.testing.assert_allclose(F.softmax(t, -1).detach().numpy(), soft, rtol=3e-6, atol=1e-30)
    np.testing.assert_allclose(F.log_softmax(t, -1).detach().numpy(), log_soft, rtol=3e-6, atol=3e-6)
    target = np.full(7, n - 1)
    loss = F.cross_entropy(t, pydlx.from_numpy(target), reduction="none")
    np.testing.assert_allclose(loss.detach().numpy(), -log_soft[:, -1], rtol=3e-6, atol=3e-6)
    loss.backward(pydlx.ones(7))
    one_hot = np.eye(n)[target]
    np.testing.assert_allclose(t.grad.numpy(), soft - one_hot, rtol=3e-5, atol=1e-7)
