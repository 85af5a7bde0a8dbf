"""Modules that run together with their neighbours: the same numbers as one after the other, and no hook goes unseen."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import pydlx
from pydlx import nn
from pydlx.nn import functional as F

ACTIVATIONS = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "GELU": nn.GELU(),
    "GELU tanh": nn.GELU("tanh"),
    "SiLU": nn.SiLU(),
    "Sigmoid": nn.Sigmoid(),
    "Tanh": nn.Tanh(),
}
SIZES = [(1, 16, 1), (2, 31, 15), (6, 64, 64), (7, 65, 65), (13, 129, 127), (64, 300, 193), (0, 4, 3), (5, 0, 3)]

ISAS = pydlx._C.build_info()["cpu_isas"]


@pytest.fixture(params=ISAS)
def isa(request):
    pydlx._C._set_cpu_isa(request.param)
    yield request.param
    pydlx._C._set_cpu_isa(ISAS[-1])


def one_by_one(modules, x):
    for module in modules:
        x = module(x)
    return x


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_linear_and_activation_give_the_bits_of_two_calls(name, dtype, isa):
    pydlx.manual_seed(0)
    for rows, inner, columns in SIZES:
        for bias in (True, False):
            net = nn.Sequential(nn.Linear(inner, columns, bias), copy.deepcopy(ACTIVATIONS[name])).to(
                getattr(pydlx, dtype)
            )
            x = (3 * pydlx.randn(rows, inner)).to(getattr(pydlx, dtype))
            with pydlx.no_grad():
                got, want = net(x), one_by_one(net, x)
            assert got.equal(want), (
                f"{name} after a product of {rows} x {inner} x {columns}, bias {bias}: look at activate_region"
            )


def test_nan_and_infinities_pass_through():
    x = pydlx.tensor([[float("nan")], [float("inf")], [float("-inf")], [-0.0]])
    for name, activation in ACTIVATIONS.items():
        linear = nn.Linear(1, 40)
        with pydlx.no_grad():
            linear.weight.fill_(1)
            linear.bias.zero_()
            got, want = nn.Sequential(linear, activation)(x), activation(linear(x))
        np.testing.assert_array_equal(got.numpy(), want.numpy(), err_msg=name)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_gradients_equal_those_of_two_calls(name):
    pydlx.manual_seed(1)
    net = nn.Sequential(nn.Linear(37, 50), copy.deepcopy(ACTIVATIONS[name]), nn.Linear(50, 3)).double()
    x = pydlx.randn(11, 37, dtype=pydlx.float64)
    cotangent = pydlx.randn(11, 3, dtype=pydlx.float64)
    both = []
    for call in (net, lambda v: one_by_one(net, v)):
        leaf = x.clone().requires_grad_()
        both.append(pydlx.autograd.grad(call(leaf), [leaf, *net.parameters()], cotangent))
    for got, want in zip(*both, strict=True):
        pydlx.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_output_tells_the_activation():
    for activation, told in ((nn.ReLU(), "ReluBackward0"), (nn.Tanh(), "TanhBackward0"), (nn.GELU(), "GeluBackward0")):
        assert told in str(nn.Sequential(nn.Linear(2, 2), activation)(pydlx.ones(1, 2)).grad_fn)


def calls_of(net, x, watched):
    seen = []
    handle = watched.register_forward_hook(lambda module, args, output: seen.append(output))
    net(x)
    handle.remove()
    return seen


@pytest.mark.parametrize("index", [0, 1])
def test_hooks_see_what_they_watch(index):
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU()), pydlx.randn(5, 3)
    (seen,) = calls_of(net, x, net[index])
    assert seen.equal(one_by_one(net[: index + 1], x))


def test_replaced_methods_and_subclasses_are_called():
    class Doubled(nn.ReLU):
        def forward(self, input):
            return 2 * super().forward(input)

    linear, x = nn.Linear(3, 4), pydlx.randn(5, 3)
    assert nn.Sequential(linear, Doubled())(x).equal(2 * F.relu(linear(x)))
    relu = nn.ReLU()
    relu.forward = lambda input: input - 1
    assert nn.Sequential(linear, relu)(x).equal(linear(x) - 1)


def test_errors_name_the_module():
    with pytest.raises(ValueError, match=r"\[linear\] weight: .* \(in Sequential\.0 \(Linear\)\)"):
        nn.Sequential(nn.Linear(3, 4), nn.ReLU())(pydlx.ones(2, 5))


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_layers_give_what_hooks_make_of_them(norm_first, activation):
    """A hook on every module takes the layers apart again."""
    pydlx.manual_seed(2)
    layers = [
        nn.TransformerEncoderLayer(12, 3, 20, 0.0, activation, norm_first=norm_first),
        nn.TransformerDecoderLayer(12, 3, 20, 0.0, activation, norm_first=norm_first),
    ]
    x, memory = pydlx.randn(5, 2, 12), pydlx.randn(4, 2, 12)
    for layer, inputs in zip(layers, [(x,), (x, memory)], strict=True):
        together = layer(*inputs)
        for module in layer.modules():
            module.register_forward_hook(lambda module, args, output: None)
        pydlx.testing.assert_close(layer(*inputs), together, rtol=1e-6, atol=1e-6)


def test_sum_of_add_norm_is_a_result_of_its_own():
    """Gradients reach both operands through either result, and through both."""
    pydlx.manual_seed(3)
    x, residual, weight = (pydlx.randn(*s, dtype=pydlx.float64) for s in ((6, 9), (6, 9), (9,)))
    one, two = pydlx.randn(6, 9, dtype=pydlx.float64), pydlx.randn(6, 9, dtype=pydlx.float64)
    for a, b in ((one, None), (None, two), (one, two)):
        grads = []
        for fused in (True, False):
            leaves = [t.clone().requires_grad_() for t in (x, residual, weight)]
            if fused:
                total, y = F.add_layer_norm(leaves[0], leaves[1], (9,), leaves[2])
            else:
                total = leaves[0] + leaves[1]
                y = F.layer_norm(total, (9,), leaves[2])
            outputs = [(t, g) for t, g in ((total, a), (y, b)) if g is not None]
            grads.append(
                pydlx.autograd.grad([t for t, _ in outputs], leaves, [g for _, g in outputs], allow_unused=True)
            )
        for got, want in zip(*grads, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                pydlx.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
