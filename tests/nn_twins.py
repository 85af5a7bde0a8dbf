"""Runs a module of ours beside PyTorch's module of the same name, with the same parameters and inputs."""

import re

import numpy as np
import torch

import pydlx

DTYPES = {"float32": (pydlx.float32, torch.float32, 2e-5), "float64": (pydlx.float64, torch.float64, 1e-9)}


def ours(array, requires_grad=False):
    out = pydlx.tensor(array)
    return out.requires_grad_() if requires_grad else out


def theirs(array, requires_grad=False):
    out = torch.tensor(array)
    return out.requires_grad_() if requires_grad else out


def array_of(tensor):
    return np.asarray(tensor.detach().numpy())


def leaves(value):
    """The tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(value, (pydlx.Tensor, torch.Tensor)):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    if isinstance(value, (tuple, list)) or hasattr(value, "__iter__"):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def close(mine, reference, tolerance, what):
    assert tuple(mine.shape) == tuple(reference.shape), f"{what}: shape {mine.shape} != {reference.shape}"
    assert str(mine.dtype).split(".")[-1] == str(reference.dtype).split(".")[-1], f"{what}: dtype"
    np.testing.assert_allclose(array_of(mine), array_of(reference), rtol=tolerance, atol=tolerance, err_msg=what)


def same_repr(mine, reference):
    assert repr(mine) == re.sub(r"\btorch\.", "pydlx.", repr(reference)) or repr(mine) == repr(reference)


def load_from(mine, reference):
    """Copies PyTorch's state into ours; the keys and shapes must agree exactly."""
    state = reference.state_dict()
    assert list(mine.state_dict()) == list(state)
    assert {k: tuple(v.shape) for k, v in mine.state_dict().items()} == {k: tuple(v.shape) for k, v in state.items()}
    result = mine.load_state_dict({k: ours(v.numpy()) for k, v in state.items()})
    assert result.missing_keys == []
    assert result.unexpected_keys == []


def compare(call_ours, call_theirs, inputs, tolerance, params=((), ())):
    """Outputs, and gradients of floating inputs and parameters against random cotangents."""
    floating = [np.issubdtype(a.dtype, np.floating) for a in inputs]
    mine = [ours(a, g) for a, g in zip(inputs, floating, strict=True)]
    reference = [theirs(a, g) for a, g in zip(inputs, floating, strict=True)]
    out, expected = leaves(call_ours(*mine)), leaves(call_theirs(*reference))
    assert len(out) == len(expected)
    for i, (a, b) in enumerate(zip(out, expected, strict=True)):
        close(a, b, tolerance, f"output {i}")
    rng = np.random.default_rng(7)
    total, expected_total = None, None
    for a, b in zip(out, expected, strict=True):
        assert a.requires_grad == b.requires_grad
        if b.requires_grad:
            weights = np.asarray(rng.standard_normal(tuple(b.shape)), dtype=array_of(b).dtype)
            ta, tb = (a * ours(weights)).sum(), (b * theirs(weights)).sum()
            total = ta if total is None else total + ta
            expected_total = tb if expected_total is None else expected_total + tb
    if total is None:
        return
    total.backward()
    expected_total.backward()
    pairs = [(f"input {i}", a, b) for i, (a, b) in enumerate(zip(mine, reference, strict=True)) if floating[i]]
    pairs += [(name, a, b) for (name, a), (_, b) in zip(params[0], params[1], strict=True)]
    for name, a, b in pairs:
        assert (a.grad is None) == (b.grad is None), f"gradient of {name}: {a.grad is None} != {b.grad is None}"
        if b.grad is not None:
            scale = max(1.0, float(b.grad.abs().max()) if b.grad.numel() else 1.0)
            close(a.grad / scale, b.grad / scale, tolerance * 4, f"gradient of {name}")


def compare_modules(make, inputs, dtype="float64", train=True, call=None, tolerance=None):
    """Builds ``make(nn)`` in both libraries and compares everything observable."""
    mine_dtype, reference_dtype, usual = DTYPES[dtype]
    tolerance = tolerance or usual
    mine, reference = make(pydlx.nn), make(torch.nn)
    same_repr(mine, reference)
    mine, reference = mine.to(mine_dtype).train(train), reference.to(reference_dtype).train(train)
    load_from(mine, reference)
    inputs = [a.astype(dtype) if np.issubdtype(a.dtype, np.floating) else a for a in inputs]
    params = (list(mine.named_parameters()), list(reference.named_parameters()))
    assert [n for n, _ in params[0]] == [n for n, _ in params[1]]
    call = call or (lambda m, lib, *args: m(*args))
    compare(
        lambda *args: call(mine, pydlx, *args), lambda *args: call(reference, torch, *args), inputs, tolerance, params
    )
    for (name, a), (_, b) in zip(mine.named_buffers(), reference.named_buffers(), strict=True):
        close(a, b, tolerance, f"buffer {name}")
