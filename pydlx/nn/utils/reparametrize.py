"""Weight and spectral normalisation in the form that older checkpoints use: extra parameters and a forward pre-hook.

New code is better served by :mod:`pydlx.nn.utils.parametrizations`, which computes the weight whenever it is read.
"""

from __future__ import annotations

from typing import Any

from ..._C import Tensor
from ...autograd import no_grad
from .. import functional as F
from ..modules.module import Module
from ..parameter import Parameter
from .parametrizations import _norm_except

__all__ = ["remove_spectral_norm", "remove_weight_norm", "spectral_norm", "weight_norm"]


class _WeightNormHook:
    """Sets ``module.<name>`` from ``<name>_g`` and ``<name>_v`` before every forward."""

    def __init__(self, name: str, dim: int | None) -> None:
        self.name, self.dim = name, -1 if dim is None else dim

    def compute(self, module: Module) -> Tensor:
        v: Tensor = getattr(module, self.name + "_v")
        g: Tensor = getattr(module, self.name + "_g")
        return v * (g / _norm_except(v, self.dim))

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module))


def _find(module: Module, name: str, kind: type, op: str) -> tuple[int, Any]:
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, kind) and getattr(hook, "name", None) == name:
            return key, hook
    raise ValueError(f"[{op}] name: expected a normalised weight of {type(module).__name__}, got {name!r}")


def _take(module: Module, name: str, op: str) -> Parameter:
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"[{op}] name: expected a parameter of {type(module).__name__}, got {name!r}")
    del module._parameters[name]
    return weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """Learns length and direction of a weight apart: ``w = g * v / ||v||`` (Salimans and Kingma, 2016).

    The parameter is replaced by ``<name>_g`` and ``<name>_v``.

    Args:
        name: of the parameter. dim: one length for each index of this axis, None for a single one. Default: 0.
    """
    weight = _take(module, name, "weight_norm")
    hook = _WeightNormHook(name, dim)
    module.register_parameter(name + "_g", Parameter(_norm_except(weight.detach(), hook.dim), weight.requires_grad))
    module.register_parameter(name + "_v", Parameter(weight.detach(), weight.requires_grad))
    setattr(module, name, hook.compute(module))
    module.register_forward_pre_hook(hook)
    return module


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Makes the weight a plain parameter again."""
    key, hook = _find(module, name, _WeightNormHook, "remove_weight_norm")
    value = hook.compute(module).detach()
    del module._forward_pre_hooks[key]
    delattr(module, name)
    del module._parameters[name + "_g"], module._parameters[name + "_v"]
    module.register_parameter(name, Parameter(value))
    return module


class _SpectralNormHook:
    """Sets ``module.<name>`` to ``<name>_orig`` over its largest singular value before every forward."""

    def __init__(self, name: str, iterations: int, dim: int, eps: float) -> None:
        self.name, self.iterations, self.dim, self.eps = name, iterations, dim, eps

    def matrix(self, weight: Tensor) -> Tensor:
        rows = weight.movedim(self.dim, 0)
        return rows.reshape(rows.shape[0], -1)

    def compute(self, module: Module, iterate: bool) -> Tensor:
        weight: Tensor = getattr(module, self.name + "_orig")
        u: Tensor = getattr(module, self.name + "_u")
        v: Tensor = getattr(module, self.name + "_v")
        matrix = self.matrix(weight)
        if iterate:
            with no_grad():
                fixed = matrix.detach()
                for _ in range(self.iterations):
                    v.copy_(F.normalize(fixed.t().mv(u), dim=0, eps=self.eps))
                    u.copy_(F.normalize(fixed.mv(v), dim=0, eps=self.eps))
            # Copies, because a second forward before the backward would overwrite the vectors.
            u, v = u.clone(), v.clone()
        return weight / u.dot(matrix.mv(v))

    def __call__(self, module: Module, args: Any) -> None:
        setattr(module, self.name, self.compute(module, module.training))


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """Divides a weight by its largest singular value, tracked by power iteration (Miyato et al., 2018).

    The parameter is replaced by ``<name>_orig`` with the buffers ``<name>_u`` and ``<name>_v``.

    Args:
        name: of the parameter. n_power_iterations: per forward in training. Default: 1.
        eps: bound in the normalisations. Default: 1e-12.
        dim: the axis of the outputs. Default: 0, and 1 for transposed convolutions.
    """
    if n_power_iterations <= 0:
        raise ValueError(f"[spectral_norm] n_power_iterations: expected a positive number, got {n_power_iterations}")
    weight = _take(module, name, "spectral_norm")
    if dim is None:
        dim = 1 if getattr(module, "transposed", False) else 0
    hook = _SpectralNormHook(name, n_power_iterations, dim, eps)
    with no_grad():
        rows, cols = hook.matrix(weight.detach()).shape
        u = F.normalize(weight.detach().new_empty(rows).normal_(0, 1), dim=0, eps=eps)
        v = F.normalize(weight.detach().new_empty(cols).normal_(0, 1), dim=0, eps=eps)
    module.register_parameter(name + "_orig", weight)
    setattr(module, name, weight.detach())
    module.register_buffer(name + "_u", u)
    module.register_buffer(name + "_v", v)
    module.register_forward_pre_hook(hook)
    return module


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Makes the weight a plain parameter again, with the normalised value."""
    key, hook = _find(module, name, _SpectralNormHook, "remove_spectral_norm")
    with no_grad():
        value = hook.compute(module, False).detach()
    del module._forward_pre_hooks[key]
    delattr(module, name)
    for suffix in ("_u", "_v", "_orig"):
        delattr(module, name + suffix)
    module.register_parameter(name, Parameter(value))
    return module
