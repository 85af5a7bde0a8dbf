"""Hooks of modules: forward, backward, of one module and of all."""

import pytest
import torch

import pydlx
from pydlx import nn


class Scale(nn.Module):
    def __init__(self, by=2.0):
        super().__init__()
        self.by = nn.Parameter(pydlx.tensor([by]))

    def forward(self, x, bias=0.0):
        return x * self.by + bias


def test_forward_hooks():
    m, seen = Scale(), []
    x = pydlx.ones(1)
    with m.register_forward_pre_hook(lambda mod, args: seen.append(("pre", len(args))) or (args[0] + 1,)):
        assert m(x).item() == 4
    handle = m.register_forward_hook(lambda mod, args, out: seen.append(("post", out.item())) or out * 10)
    first = m.register_forward_hook(lambda mod, args, out: seen.append("first"), prepend=True)
    assert m(x).item() == 20
    assert seen == [("pre", 1), "first", ("post", 2.0)]
    handle.remove()
    handle.remove()
    first.remove()
    assert m(x).item() == 2
    assert m(x).item() == 2
    assert m._hooked is False
    with m.register_forward_pre_hook(lambda mod, a, k: (a, {**k, "bias": k["bias"] + 1}), with_kwargs=True):
        assert m(x, bias=3.0).item() == 6
    with m.register_forward_hook(lambda mod, a, k, out: out + k["bias"], with_kwargs=True):
        assert m(x, bias=3.0).item() == 8
    with (
        m.register_forward_pre_hook(lambda mod, a, k: "wrong", with_kwargs=True),
        pytest.raises(RuntimeError, match="hook"),
    ):
        m(x)


def test_always_called_and_global_hooks():
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("mine")

    m, seen = Broken(), []
    m.register_forward_hook(lambda mod, args, out: seen.append(out), always_call=True)
    m.register_forward_hook(lambda mod, args, out: seen.append("never"))
    with pytest.raises(KeyError):
        m(1)
    assert seen == [None]
    calls = []
    from pydlx.nn.modules import module as modules

    handle = modules.register_module_forward_hook(lambda mod, args, out: calls.append(type(mod).__name__))
    nn.Sequential(Scale(), nn.Identity())(pydlx.ones(1))
    handle.remove()
    Scale()(pydlx.ones(1))
    assert calls == ["Scale", "Identity", "Sequential"]
    assert nn.Module._hooked is False


def test_backward_hooks_match_torch():
    def run(lib):
        m = lib.nn.Linear(3, 2)
        with lib.no_grad():
            m.weight.fill_(0.5)
            m.bias.fill_(0.25)
        seen = []
        m.register_full_backward_pre_hook(lambda mod, g: seen.append([t.tolist() for t in g]) or (g[0] * 2,))
        m.register_full_backward_hook(lambda mod, gi, go: seen.append([gi[0].tolist(), go[0].tolist()]) or (gi[0] + 1,))
        x = lib.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
        (m(x) * lib.tensor([[1.0, -3.0]])).sum().backward()
        return seen, x.grad.tolist(), m.weight.grad.tolist()

    assert run(pydlx) == run(torch)


def test_backward_hook_without_input_gradient():
    def run(lib):
        m, seen = lib.nn.Linear(3, 2), []
        m.register_full_backward_hook(lambda mod, gi, go: seen.append((gi, [tuple(g.shape) for g in go])))
        m(lib.ones(1, 3)).sum().backward()
        return seen

    assert run(pydlx) == run(torch) == [((None,), [(1, 2)])]

    class Pair(nn.Module):
        def forward(self, x, y):
            return x * y, x + y

    m, seen = Pair(), []
    m.register_full_backward_hook(lambda mod, gi, go: seen.append([None if g is None else g.item() for g in gi + go]))
    x, y = pydlx.tensor([2.0], requires_grad=True), pydlx.tensor([3.0])
    m(x, y)[0].backward(retain_graph=True)
    assert seen[0][:2] == [3.0, None]
    assert seen[0][2] == 1.0
    with pydlx.no_grad():
        m(x, y)
    assert len(seen) == 1
    with pytest.raises(NotImplementedError, match="register_full_backward_hook"):
        m.register_backward_hook(print)
