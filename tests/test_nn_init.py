"""Initialisers: statistics, structure, and the distributions modules start from."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import pydlx
from pydlx import nn
from pydlx.nn import init


@pytest.fixture(autouse=True)
def seed():
    pydlx.manual_seed(11)


def fill(name, *args, shape=(300, 200), **kwargs):
    t = pydlx.empty(*shape)
    assert getattr(init, name)(t, *args, **kwargs) is t
    return t.numpy().astype(np.float64)


UNIFORM = {
    ("uniform_", -0.3, 0.7): (-0.3, 0.7),
    ("xavier_uniform_", 2.0): (-2 * math.sqrt(6 / 500), 2 * math.sqrt(6 / 500)),
    ("kaiming_uniform_",): (-math.sqrt(6 / 200), math.sqrt(6 / 200)),
    ("kaiming_uniform_", 0, "fan_out", "relu"): (-math.sqrt(6 / 300), math.sqrt(6 / 300)),
    ("kaiming_uniform_", math.sqrt(5)): (-1 / math.sqrt(200), 1 / math.sqrt(200)),
}
NORMAL = {
    ("normal_", 0.5, 2.0): (0.5, 2.0),
    ("xavier_normal_",): (0, math.sqrt(2 / 500)),
    ("kaiming_normal_",): (0, math.sqrt(2 / 200)),
    ("kaiming_normal_", 0.1, "fan_out"): (0, math.sqrt(2 / (1 + 0.01) / 300)),
}


@pytest.mark.parametrize("call", UNIFORM, ids=str)
def test_uniform(call):
    low, high = UNIFORM[call]
    values = fill(*call)
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    assert stats.kstest(values.ravel()[:20000], "uniform", (low, high - low)).pvalue > 1e-4


@pytest.mark.parametrize("call", NORMAL, ids=str)
def test_normal(call):
    assert stats.kstest(fill(*call).ravel()[:20000], "norm", NORMAL[call]).pvalue > 1e-4


@pytest.mark.parametrize("call", [(0.2, 1.5, -1.0, 2.0), (0.0, 0.02), (0.0, 1.0, 0.1, 0.3), (0.0, 1.0, 1.9, 2.5)])
def test_trunc_normal(call):
    mean, std, low, high = (*call, -2.0, 2.0)[:4] if len(call) == 2 else call
    values = fill("trunc_normal_", *call)
    assert values.min() >= low - 1e-6
    assert values.max() <= high + 1e-6
    law = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert stats.kstest(values.ravel()[:20000], law.cdf).pvalue > 1e-4


def test_trunc_normal_warns_far_out():
    with pytest.warns(UserWarning, match="mean"):
        values = fill("trunc_normal_", 9.0, 2.0, shape=(5, 5))
    assert values.max() <= 2


def test_constants_and_structure():
    assert (fill("constant_", 3.5) == 3.5).all()
    assert (fill("ones_") == 1).all()
    assert (fill("zeros_") == 0).all()
    np.testing.assert_array_equal(fill("eye_", shape=(3, 5)), np.eye(3, 5))
    for shape, groups in (((6, 4, 3), 1), ((6, 2, 3, 5), 2), ((4, 4, 3, 3, 4), 1)):
        mine, reference = pydlx.empty(*shape), torch.empty(*shape)
        init.dirac_(mine, groups)
        torch.nn.init.dirac_(reference, groups)
        np.testing.assert_array_equal(mine.numpy(), reference.numpy())
    values = fill("sparse_", 0.25, 2.0, shape=(100, 50))
    assert ((values == 0).sum(0) == 25).all()
    assert abs(values[values != 0].std() - 2) < 0.1


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3)])
def test_orthogonal(shape):
    t = pydlx.empty(*shape, dtype=pydlx.float64)
    init.orthogonal_(t, gain=2.0)
    m = t.numpy().reshape(shape[0], -1)
    product = m @ m.T if m.shape[0] <= m.shape[1] else m.T @ m
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-9)


def test_gain_matches_torch():
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)
    with pytest.raises(ValueError, match="nonlinearity"):
        init.calculate_gain("cosine")
    with pytest.raises(ValueError, match="param"):
        init.calculate_gain("leaky_relu", "x")


def test_errors():
    for call in (
        lambda: init.eye_(pydlx.empty(3)),
        lambda: init.dirac_(pydlx.empty(3, 3)),
        lambda: init.dirac_(pydlx.empty(3, 3, 3), 2),
        lambda: init.xavier_normal_(pydlx.empty(3)),
        lambda: init.kaiming_normal_(pydlx.empty(3, 3), mode="fan"),
        lambda: init.orthogonal_(pydlx.empty(3)),
        lambda: init.sparse_(pydlx.empty(3), 0.5),
    ):
        with pytest.raises(ValueError, match=r"^\["):
            call()
    with pytest.warns(UserWarning, match="empty"):
        init.kaiming_normal_(pydlx.empty(0, 3))


def test_no_history_and_generator():
    p = nn.Parameter(pydlx.empty(20, 20))
    init.xavier_uniform_(p)
    assert p.grad_fn is None
    assert p.requires_grad
    draws = []
    for _ in range(2):
        init.normal_(p, generator=pydlx.Generator().manual_seed(5))
        draws.append(p.detach().clone().numpy())
    np.testing.assert_array_equal(draws[0], draws[1])


MODULES = {
    "Linear": lambda nn: nn.Linear(64, 100),
    "Bilinear": lambda nn: nn.Bilinear(20, 30, 40),
    "Conv2d": lambda nn: nn.Conv2d(16, 32, 3, groups=2),
    "ConvTranspose1d": lambda nn: nn.ConvTranspose1d(16, 32, 3),
    "Embedding": lambda nn: nn.Embedding(50, 40, padding_idx=3),
    "LSTM": lambda nn: nn.LSTM(20, 30, 2, bidirectional=True, proj_size=10),
    "GRUCell": lambda nn: nn.GRUCell(20, 30),
    "MultiheadAttention": lambda nn: nn.MultiheadAttention(32, 4, add_bias_kv=True),
    "MultiheadAttention_sizes": lambda nn: nn.MultiheadAttention(32, 4, kdim=20, vdim=24),
    "Transformer": lambda nn: nn.Transformer(32, 4, 1, 1, 64),
    "BatchNorm2d": lambda nn: nn.BatchNorm2d(5),
    "LayerNorm": lambda nn: nn.LayerNorm(5),
    "PReLU": lambda nn: nn.PReLU(5),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_start_from_the_same_distribution(name):
    mine, reference = MODULES[name](nn).state_dict(), MODULES[name](torch.nn).state_dict()
    assert list(mine) == list(reference)
    for key in mine:
        a, b = mine[key].numpy().ravel(), reference[key].numpy().ravel()
        if np.unique(b).size == 1:
            np.testing.assert_array_equal(a, b, err_msg=key)
        elif a.size >= 30:
            assert stats.ks_2samp(a, b).pvalue > 1e-4, key
            if a.size >= 200 and "Embedding" not in name:  # uniform: the bounds agree too
                np.testing.assert_allclose(np.abs(a).max(), np.abs(b).max(), rtol=0.1, err_msg=key)


def test_same_seed_same_weights():
    states = []
    for _ in range(2):
        pydlx.manual_seed(3)
        states.append(nn.Transformer(16, 2, 1, 1, 32).state_dict())
    for key in states[0]:
        np.testing.assert_array_equal(states[0][key].numpy(), states[1][key].numpy())
