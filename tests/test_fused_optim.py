"""The native optimiser steps against the formulas in float64: flags, sizes around chunk edges, layouts, dtypes, threads, ISA paths, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import pydlx
from pydlx import _C

SHAPES = [(5, 3), (0,), (), (16384,), (40001,), (7,), (100, 101)]


def draw(seed, kind, positive=False):
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(rng.standard_normal(s)) for s in SHAPES]
    return [np.asarray(np.abs(a) if positive else a).astype(kind) for a in arrays]


def wrapped(arrays):
    return [pydlx.from_numpy(a) for a in arrays]


def exact(p, g, states, formula, options):
    """The formula in float64 on every tensor; returns the lists of new parameters and states."""
    rows = [formula(*(np.asarray(x).astype(np.float64) for x in row), **options) for row in zip(p, g, *states)]
    return [list(column) for column in zip(*rows)]


def signed(g, p, weight_decay, maximize):
    return (-g if maximize else g) + weight_decay * p


def sgd(p, g, b, lr, momentum, dampening, weight_decay, nesterov, maximize, first_step):
    g = signed(g, p, weight_decay, maximize)
    if momentum:
        b = g if first_step else momentum * b + (1 - dampening) * g
        g = g + momentum * b if nesterov else b
    return p - lr * g, b


def adam(p, g, m, v, w, step, lr, beta1, beta2, eps, weight_decay, decoupled, amsgrad, maximize):
    g = signed(g, p, 0 if decoupled else weight_decay, maximize)
    p = p * (1 - lr * weight_decay) if decoupled else p
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    w = np.maximum(w, v) if amsgrad else w
    scale = np.sqrt(w if amsgrad else v) / np.sqrt(1 - beta2**step) + eps
    return p - lr / (1 - beta1**step) * m / scale, m, v, w


def rmsprop(p, g, v, a, b, lr, alpha, eps, weight_decay, momentum, centered, maximize):
    g = signed(g, p, weight_decay, maximize)
    v = alpha * v + (1 - alpha) * g * g
    a = alpha * a + (1 - alpha) * g if centered else a
    scale = np.sqrt(np.maximum(v - a * a, 0) if centered else v) + eps
    b = momentum * b + g / scale if momentum else b
    return p - lr * (b if momentum else g / scale), v, a, b


def adagrad(p, g, s, step, lr, lr_decay, eps, weight_decay, maximize):
    g = signed(g, p, weight_decay, maximize)
    s = s + g * g
    return p - lr / (1 + (step - 1) * lr_decay) * g / (np.sqrt(s) + eps), s


def grid(**choices):
    return [dict(zip(choices, values)) for values in itertools.product(*choices.values())]


FLAGS = {"weight_decay": [0.0, 0.1], "maximize": [False, True]}
# name, formula, number of states, which states are squares, options
CASES = [
    *(("fused_sgd_", sgd, 1, [], {"lr": 0.1, **o}) for o in grid(
        momentum=[0.0, 0.9], dampening=[0.0, 0.3], **FLAGS, nesterov=[False, True], first_step=[False, True])),
    *(("fused_adam_", adam, 3, [1, 2], {"step": 3, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3, **o}) for o in grid(
        **FLAGS, decoupled=[False, True], amsgrad=[False, True])),
    *(("fused_rmsprop_", rmsprop, 3, [0], {"lr": 0.1, "alpha": 0.5, "eps": 0.1, **o}) for o in grid(
        **FLAGS, momentum=[0.0, 0.9], centered=[False, True])),
    *(("fused_adagrad_", adagrad, 1, [0], {"lr": 0.1, "eps": 1e-3, **o}) for o in grid(
        step=[1, 5], lr_decay=[0.0, 0.2], **FLAGS)),
]  # fmt: skip
IDS = [f"{name}{i}" for i, (name, *_) in enumerate(CASES)]


def used(name, options, states):
    """The state lists the options ask for; the others are passed empty."""
    keep = {
        "fused_sgd_": [options.get("momentum")],
        "fused_adam_": [True, True, options.get("amsgrad")],
        "fused_rmsprop_": [True, options.get("centered"), options.get("momentum")],
        "fused_adagrad_": [True],
    }[name]
    return [s if k else [] for s, k in zip(states, keep)]


def run(name, count, squares, options, kind):
    p, g = draw(0, kind), draw(1, kind)
    states = [draw(2 + i, kind, positive=i in squares) for i in range(count)]
    if name == "fused_rmsprop_":
        states[1] = [
            np.asarray(a * 0.1).astype(kind) for a in states[1]
        ]  # a mean no larger than the mean square allows
        states[0] = [np.asarray(a + 1).astype(kind) for a in states[0]]
    before = [[x.copy() for x in column] for column in (p, g, *states)]
    getattr(_C, name)(wrapped(p), wrapped(g), *map(wrapped, used(name, options, states)), **options)
    return before, p, states


@pytest.mark.parametrize(("name", "formula", "count", "squares", "options"), CASES, ids=IDS)
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 4e-6), ("float64", 1e-14)])
def test_values(name, formula, count, squares, options, kind, tolerance):
    (p0, g0, *s0), p, states = run(name, count, squares, options, kind)
    expected = exact(p0, g0, s0, formula, options)
    for mine, right in zip([p, *states], expected):
        for a, b in zip(mine, right):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["float16"])
def test_half(kind):
    (p0, g0, *s0), p, states = run("fused_adam_", 3, [1, 2], CASES[64][4], kind)
    expected = exact(p0, g0, s0, adam, CASES[64][4])
    for a, b in zip([*p, *states[0]], [*expected[0], *expected[1]]):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("index", [0, 5, 13, 31, 64, 70, 79, 80, 95, 96, 103])
def test_bits_do_not_depend_on_threads(index):
    name, _, count, squares, options = CASES[index]
    threads = pydlx.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            pydlx.set_num_threads(n)
            _, p, states = run(name, count, squares, options, "float32")
            results.append([a.tobytes() for column in (p, *states) for a in column])
    finally:
        pydlx.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


def test_layouts():
    """A transposed parameter, a gradient in another order, an expanded gradient, sliced state."""
    base = np.arange(6.0).reshape(2, 3)
    transposed = pydlx.from_numpy(base).transpose(0, 1)
    plain = np.ones((3, 2))
    sliced = np.zeros((4, 6))
    p = [transposed, pydlx.from_numpy(plain), pydlx.from_numpy(sliced)[::2, ::2]]
    g = [
        pydlx.from_numpy(np.arange(6.0).reshape(3, 2)),
        pydlx.from_numpy(np.arange(6.0).reshape(2, 3)).transpose(0, 1),
        pydlx.from_numpy(np.array([[1.0, 2.0, 3.0]])).expand(2, 3),
    ]
    buffers = [pydlx.from_numpy(np.zeros((3, 2))), pydlx.from_numpy(np.zeros((2, 3))).transpose(0, 1),
               pydlx.from_numpy(np.zeros((2, 3)))]  # fmt: skip
    versions = [t._version for t in p]
    _C.fused_sgd_(p, g, buffers, 1.0, 0.5, 0.0, 0.0, False, False, False)
    assert base.tolist() == (np.arange(6.0).reshape(2, 3) - np.arange(6.0).reshape(3, 2).T).tolist()
    assert plain.tolist() == (1 - np.arange(6.0).reshape(2, 3).T).tolist()
    expected = np.zeros((4, 6))
    expected[::2, ::2] = [-1, -2, -3]
    assert sliced.tolist() == expected.tolist()
    assert buffers[1].contiguous().numpy().tolist() == np.arange(6.0).reshape(2, 3).T.tolist()
    assert [t._version > v for t, v in zip(p, versions)] == [True] * 3


def test_infinite_parameter_without_decay():
    p = np.array([np.inf, 1.0])
    _C.fused_sgd_(wrapped([p]), wrapped([np.zeros(2)]), [], 0.1, 0.0, 0.0, 0.0, False, False, False)
    assert p.tolist() == [np.inf, 1.0]


def test_no_parameters():
    assert _C.fused_adam_([], [], [], [], [], 1, 0.1, 0.9, 0.99, 1e-8, 0.0, False, False, False) is None


ADAM = (1, 0.1, 0.9, 0.99, 1e-8, 0.0, False, False, False)


def test_errors():
    a, b = np.zeros(3), np.zeros(4)

    def call(p, g, m, v, w=(), options=ADAM):
        _C.fused_adam_(wrapped(p), wrapped(g), wrapped(m), wrapped(v), wrapped(w), *options)

    with pytest.raises(ValueError, match=r"\[fused_adam_\] grads: expected 1 tensors, got 0"):
        call([a], [], [a], [a])
    with pytest.raises(ValueError, match=r"\[fused_adam_\] exp_avg_sqs: expected 1 tensors, got 2"):
        call([a], [a], [a], [a, a])
    with pytest.raises(ValueError, match=r"\[fused_adam_\] max_exp_avg_sqs: expected 0 tensors, got 1"):
        call([a], [a], [a], [a], [a])
    with pytest.raises(
        ValueError, match=r"\[fused_adam_\] grads: expected shape \(3,\) like the parameter, got \(4,\)"
    ):
        call([a], [b], [a], [a])
    with pytest.raises(TypeError, match=r"\[fused_adam_\] exp_avgs: expected .*float64.*, got .*float32"):
        call([a], [a], [a.astype("float32")], [a])
    with pytest.raises(TypeError, match=r"\[fused_adam_\] params: expected floating point tensors"):
        call([a.astype(int)], [a.astype(int)], [a.astype(int)], [a.astype(int)])
    with pytest.raises(ValueError, match=r"\[fused_adam_\] step: expected a count >= 1, got 0"):
        call([a], [a], [a], [a], options=(0, *ADAM[1:]))
    wide = pydlx.from_numpy(np.zeros(1)).expand(3)
    with pytest.raises(ValueError, match=r"\[fused_adam_\] params: expected tensors without repeated elements"):
        _C.fused_adam_([wide], wrapped([a]), wrapped([a]), wrapped([a]), [], *ADAM)
    frozen = np.zeros(3)
    frozen.flags.writeable = False
    with pytest.raises(RuntimeError, match=r"\[fused_adam_\] params: expected writable tensors"):
        call([frozen], [a], [a.copy()], [a.copy()])
    with pytest.raises(TypeError, match=r"\[fused_adam_\] params: expected a list of tensors, got int"):
        _C.fused_adam_([3], [], [], [], [], *ADAM)
    assert a.tolist() == [0.0, 0.0, 0.0]
