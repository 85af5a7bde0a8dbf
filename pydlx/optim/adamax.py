"""Adamax."""

from __future__ import annotations

from typing import Any

from .. import Tensor, maximum, zeros_like
from ._checks import check_adam_options
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Adamax"]


class Adamax(ComposedOptimizer):
    r"""Adamax: Adam with the infinity norm in place of the root mean square.

    .. math::
        m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad u \leftarrow \max(\beta_2 u, |g| + \epsilon), \quad
        p \leftarrow p - \frac{\eta}{1 - \beta_1^t} \frac{m}{u}

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. betas: decay rates in [0, 1). eps: >= 0.
        weight_decay: added to the gradient. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Kingma and Ba, Adam, 2015, section 7.1.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam_options(type(self).__name__, group)

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": zeros_like(p), "exp_inf": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        if group["weight_decay"] != 0:
            grad = grad.add(p, alpha=group["weight_decay"])
        exp_avg, exp_inf = state["exp_avg"], state["exp_inf"]
        exp_avg.lerp_(grad, 1 - beta1)
        exp_inf.copy_(maximum(exp_inf.mul_(beta2), grad.abs().add_(group["eps"])))
        p.addcdiv_(exp_avg, exp_inf, value=-float(group["lr"]) / (1 - beta1**t))
