"""Neighbouring modules that run as one operation, so that what passes between them is written or read once less."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..._C import Tensor, _autocast_enabled
from ...autograd import is_grad_enabled
from .. import functional as F
from .activation import GELU, ReLU, Sigmoid, SiLU, Tanh
from .batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .conv import Conv1d, Conv2d, Conv3d
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
    if name is not None and type(linear) is Linear and _plain(linear):
        with suppress(Exception):  # raised again below, by the module that it concerns
            return F.linear_activation(input, linear.weight, linear.bias, activation=name)
    return activation(linear(input))


def add_norm(norm: Any, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """``x + residual``, and ``norm`` of it."""
    if (
        type(norm) is LayerNorm
        and _plain(norm)
        and x.shape == residual.shape
        and x.dtype == residual.dtype
        and not _autocast_enabled(x.device.type)
    ):
        with suppress(Exception):  # raised again below
            return F.add_layer_norm(x, residual, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    total = x + residual
    return total, norm(total)


_NORM_OF: dict[type, type] = {Conv1d: BatchNorm1d, Conv2d: BatchNorm2d, Conv3d: BatchNorm3d}


def _folds(norm: Any, conv: Any, x: Any) -> bool:
    """Whether the normalisation is a fixed scale and shift per channel, of which no gradient is recorded."""
    kind: type = type(norm)
    if kind is not _NORM_OF[type(conv)] or not _plain(norm) or norm.training or norm.running_mean is None:
        return False
    tensors = [x, conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var]
    given = [t for t in tensors if t is not None]
    return (
        x.ndim == conv.weight.ndim
        and norm.num_features == conv.out_channels
        and all(t.dtype == x.dtype for t in given)
        and not (is_grad_enabled() and any(t.requires_grad for t in given))
        and not _autocast_enabled(x.device.type)
    )


def _conv(modules: list[Any], x: Tensor) -> tuple[Any, int]:
    """What a convolution and the normalisation and ReLU after it give, and how many modules these were."""
    conv, count = modules[0], 1
    bias, scale = conv.bias, None
    if not _plain(conv) or conv.padding_mode != "zeros":
        return conv(x), 1
    if _folds(modules[1], conv, x):
        norm, count = modules[1], 2
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        bias = -norm.running_mean if bias is None else bias - norm.running_mean
        bias = bias * scale if norm.bias is None else bias * scale + norm.bias
    rectified = count < len(modules) and activation_of(modules[count]) == "relu"
    if scale is None and not rectified:
        return conv(x), 1
    activation = "relu" if rectified else "none"
    with suppress(Exception):  # raised again below, by the module that it concerns
        output = F.conv_activation(
            x,
            conv.weight,
            bias,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            scale=scale,
            activation=activation,
        )
        return output, count + rectified
    return conv(x), 1


def run(modules: list[Any], input: Any) -> Any:
    """The output of the modules called in a row."""
    i, last = 0, len(modules) - 1
    while i <= last:
        module, used = modules[i], 1
        kind = type(module)
        if kind is Linear and i < last:
            input, used = linear_activation(module, modules[i + 1], input), 2
        elif kind in _NORM_OF and i < last and isinstance(input, Tensor):
            input, used = _conv(modules[i : i + 3], input)
        else:
            input = module(input)
        i += used
    return input
