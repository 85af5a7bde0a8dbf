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


CONVOLUTIONS = {
    "1-D": (nn.Conv1d, nn.BatchNorm1d, (2, 3, 40)),
    "2-D": (nn.Conv2d, nn.BatchNorm2d, (2, 3, 17, 19)),
    "3-D": (nn.Conv3d, nn.BatchNorm3d, (1, 3, 6, 7, 8)),
}


def settle(net):
    """Statistics and scales that are not those of a fresh network."""
    for module in net.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                with pydlx.no_grad():
                    module.weight.normal_()
                    module.bias.normal_()
    return net


@pytest.mark.parametrize("kind", list(CONVOLUTIONS))
def test_convolution_normalisation_and_relu(kind):
    """In evaluation without gradients a normalisation is a scale and a shift of the sums; otherwise only ReLU joins."""
    pydlx.manual_seed(4)
    conv, norm, shape = CONVOLUTIONS[kind]
    net = nn.Sequential(
        *(conv(3, 8, 3, padding="same"), norm(8), nn.ReLU()),
        *(conv(8, 6, 3, stride=2, bias=False), norm(6, affine=False)),
        *(conv(6, 4, 1, groups=2), nn.ReLU(inplace=True)),
        *(conv(4, 4, 1), norm(4, track_running_stats=False), nn.ReLU()),
        *(conv(4, 2, 1, padding=1, padding_mode="circular"), nn.ReLU(), conv(2, 2, 1)),
    )
    x = pydlx.randn(*shape)
    settle(net).eval()
    pydlx.testing.assert_close(net(x), one_by_one(net, x), rtol=0, atol=0)
    with pydlx.no_grad():
        pydlx.testing.assert_close(net(x), one_by_one(net, x), rtol=1e-5, atol=1e-5)
    net.train()
    twin = copy.deepcopy(net)
    pydlx.testing.assert_close(net(x), one_by_one(twin, x), rtol=0, atol=0)
    for got, want in zip(net.buffers(), twin.buffers(), strict=True):
        assert got.equal(want)  # running statistics are those of separate calls


def test_only_what_is_fixed_is_folded():
    """Each row makes the two modules run by themselves: an error, a hook or a result tells."""
    x = pydlx.randn(2, 3, 8, 8)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
    net = settle(nn.Sequential(conv, norm)).eval()
    with pydlx.no_grad():
        want = norm(conv(x))
        (seen,) = calls_of(net, x, conv)
        assert seen.equal(conv(x))
        with pytest.raises(ValueError, match=r"\[BatchNorm2d\] input: expected 4 axes"):
            net(x[0])
        with pytest.raises(ValueError, match=r"\[conv2d\] input: expected 3 channels.*Sequential\.0 \(Conv2d\)"):
            net(x[:, :2])
        assert not settle(nn.Sequential(conv, nn.BatchNorm2d(4).train()))(x).equal(want)
        half = net.to(pydlx.bfloat16)
        pydlx.testing.assert_close(half(x.bfloat16()).float(), want, rtol=0.1, atol=0.1)
