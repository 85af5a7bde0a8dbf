"""Dropout: rates, scaling, the same mask in backward, reproducibility, errors."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx import _C


def ones(*shape, dtype="float32"):
    return pydlx.from_numpy(np.ones(shape)).to(getattr(pydlx, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_rate_and_scale(dtype):
    pydlx.manual_seed(1)
    y = _C.dropout(ones(100_003, dtype=dtype), 0.3).double().numpy()
    assert set(np.unique(y)) == {0.0, float(pydlx.from_numpy(np.array(1 / 0.7)).to(getattr(pydlx, dtype)))}
    assert abs((y == 0).mean() - 0.3) < 0.01


def test_backward_uses_the_same_mask():
    x = pydlx.randn(7, 1001, requires_grad=True)
    y = _C.dropout(x, 0.5)
    g = pydlx.randn(7, 1001)
    (dx,) = pydlx.autograd.grad(y, x, g)
    kept = y.detach().numpy() != 0
    assert np.array_equal(dx.numpy() != 0, kept)
    assert np.allclose(dx.numpy(), np.where(kept, 2 * g.numpy(), 0))
    x64 = pydlx.randn(5, 4, dtype=pydlx.float64, requires_grad=True)
    y = _C.dropout(x64, 0.5)
    (dx,) = pydlx.autograd.grad(y, x64, (y * y).detach().requires_grad_(True), create_graph=True)
    assert dx.requires_grad  # linear in the cotangent


def test_modes():
    x = pydlx.randn(50)
    assert _C.dropout(x, 0.5, False) is x
    assert _C.dropout(x, 0.0, True) is x
    assert (_C.dropout(x, 1.0).numpy() == 0).all()
    y = x.clone()
    assert _C.dropout(y, 0.5, True, True) is y
    assert (y.numpy() == 0).any()
    assert _C.dropout(pydlx.randn(0, 3), 0.5).shape == (0, 3)
    strided = pydlx.randn(6, 8).transpose(0, 1)
    pydlx.manual_seed(3)
    a = _C.dropout(strided, 0.5).numpy()
    pydlx.manual_seed(3)
    b = _C.dropout(strided.contiguous(), 0.5).numpy()
    assert np.array_equal(a, b)


def test_in_place_gradient():
    x = pydlx.randn(1000, requires_grad=True)
    y = _C.dropout(x * 2, 0.5, True, True)
    y.sum().backward()
    assert np.array_equal(x.grad.numpy(), np.where(y.detach().numpy() != 0, 4.0, 0.0))


def test_threads():
    before = pydlx.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            pydlx.set_num_threads(n)
            pydlx.manual_seed(5)
            results.append(_C.dropout(ones(100_003), 0.3).numpy())
    finally:
        pydlx.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_channels():
    pydlx.manual_seed(2)
    y = _C.dropout2d(ones(50, 20, 3, 3), 0.25).numpy().reshape(1000, 9)
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).mean() - 0.25) < 0.05
    assert np.allclose(y.max(), 4 / 3)
    assert _C.dropout1d(ones(4, 5), 0.5).shape == (4, 5)
    with pytest.raises(ValueError, match=r"\[dropout2d\] input"):
        _C.dropout2d(ones(4, 5), 0.5)


def test_alpha():
    pydlx.manual_seed(4)
    x = pydlx.randn(400_000)
    for y in (_C.alpha_dropout(x, 0.3, True), _C.feature_alpha_dropout(x.reshape(4000, 100), 0.3, True)):
        v = y.double().numpy()
        assert abs(v.mean()) < 0.01
        assert abs(v.var() - 1) < 0.02


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_bad_probability(p):
    with pytest.raises(ValueError, match=r"\[dropout\] p"):
        _C.dropout(ones(3), p)
    with pytest.raises(ValueError, match=r"\[alpha_dropout\] p"):
        _C.alpha_dropout(ones(3), p, True)
