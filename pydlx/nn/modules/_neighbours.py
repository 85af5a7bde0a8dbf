"""Neighbouring modules that run as one operation, so that what passes between them is written or read once less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._C import Tensor, _autocast_enabled
from .. import functional as F
from ._hooks import _add_module_path
from .activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from .linear import Linear
from .normalization import LayerNorm

_NAMES: dict[type, Callable[[Any], str | None]] = {
    ReLU: lambda module: "relu",
    GELU: lambda module: {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate),
    SiLU: lambda module: "silu",
    Sigmoid: lambda module: "sigmoid",
    Tanh: lambda module: "tanh",
}


def _plain(module: Any) -> bool:
    """Whether calling the module is calling its class's ``forward``: no hooks, no replaced method."""
    return not module._hooked and "forward" not in module.__dict__


def activation_of(module: Any) -> str | None:
    """The name under which operations apply this module or function to their result; None if they cannot."""
    name = _NAMES.get(type(module))
    if name is not None:
        return name(module) if _plain(module) else None
    return "relu" if module is F.relu else "gelu" if module is F.gelu else None


def linear_activation(linear: Any, activation: Any, input: Any) -> Any:
    """``activation(linear(input))``."""
    name = activation_of(activation)
    if name is None or type(linear) is not Linear or not _plain(linear):
        return activation(linear(input))
    try:
        return F.linear_activation(input, linear.weight, linear.bias, activation=name)
    except Exception as error:
        _add_module_path(error, linear)
        raise


def add_norm(norm: Any, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """``x + residual``, and ``norm`` of it."""
    if (
        type(norm) is LayerNorm
        and _plain(norm)
        and x.shape == residual.shape
        and x.dtype == residual.dtype
        and not _autocast_enabled(x.device.type)
    ):
        try:
            return F.add_layer_norm(x, residual, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        except Exception as error:
            _add_module_path(error, norm)
            raise
    total = x + residual
    return total, norm(total)


def run(modules: list[Any], input: Any) -> Any:
    """The output of the modules called in a row."""
    i, count = 0, len(modules)
    while i < count:
        module = modules[i]
        i += 1
        if type(module) is Linear and i < count:
            input = linear_activation(module, modules[i], input)
            i += 1
        else:
            input = module(input)
    return input
