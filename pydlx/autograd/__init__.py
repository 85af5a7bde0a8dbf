"""Automatic differentiation: backward, grad, gradient modes, custom functions, checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import _C
from .._C import Tensor
from .anomaly_mode import detect_anomaly, set_detect_anomaly
from .function import Function, once_differentiable
from .grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
)
from .gradcheck import gradcheck, gradgradcheck

__all__ = [
    "Function",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "no_grad",
    "once_differentiable",
    "set_detect_anomaly",
    "set_grad_enabled",
]

_Tensors = Tensor | Sequence[Tensor]


def backward(
    tensors: _Tensors,
    grad_tensors: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: _Tensors | None = None,
) -> None:
    """Adds the gradients of ``sum_i <tensors[i], grad_tensors[i]>`` to the ``.grad`` of leaves (or of ``inputs`` only)."""
    keep = create_graph if retain_graph is None else retain_graph
    _C._backward(tensors, grad_tensors, keep, create_graph, inputs)


def grad(
    outputs: _Tensors,
    inputs: _Tensors,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor, ...]:
    """Gradients of ``sum_i <outputs[i], grad_outputs[i]>`` with respect to ``inputs``, leaving every ``.grad`` alone.

    ``only_inputs`` is accepted for compatibility; other leaves never receive gradients.

    Raises:
        GradientError: an input the outputs do not depend on, unless ``allow_unused`` (then None) or ``materialize_grads`` (then zeros).
    """
    if is_grads_batched:
        raise NotImplementedError("[grad] is_grads_batched: not available; call grad once per cotangent")
    if materialize_grads and allow_unused is False:
        raise ValueError("[grad] allow_unused: expected True or None together with materialize_grads=True")
    wanted = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    keep = create_graph if retain_graph is None else retain_graph
    result = _C._grad(outputs, wanted, grad_outputs, keep, create_graph)
    if materialize_grads:
        return tuple(_C.zeros_like(i) if g is None else g for g, i in zip(result, wanted))
    if not allow_unused:
        for position, g in enumerate(result):
            if g is None:
                raise _C.GradientError(
                    f"[grad] inputs: the outputs do not depend on input {position}; pass allow_unused=True to get None for it"
                )
    return result


from . import functional, graph
