"""RAdam."""

from __future__ import annotations

import math
from typing import Any

from .. import Tensor, zeros_like
from ._checks import check_adam_options
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["RAdam"]


class RAdam(ComposedOptimizer):
    r"""RAdam: Adam whose adaptive scale waits until its variance is trustworthy, which replaces a warm-up.

    With :math:`\rho_\infty = 2 / (1 - \beta_2) - 1` and
    :math:`\rho_t = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t)`, the step is :math:`\eta \hat m` while
    :math:`\rho_t \le 5`, and afterwards :math:`\eta r_t \hat m \sqrt{1 - \beta_2^t} / (\sqrt v + \epsilon)` with

    .. math::
        r_t = \sqrt{\frac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}}

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. betas: decay rates in [0, 1). eps: >= 0.
        weight_decay: added to the gradient, or with ``decoupled_weight_decay`` taken from the parameter.
        maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Liu et al., On the variance of the adaptive learning rate and beyond, 2020.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam_options(type(self).__name__, group)

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        if group["weight_decay"] != 0:
            if group["decoupled_weight_decay"]:
                p.mul_(1 - lr * group["weight_decay"])
            else:
                grad = grad.add(p, alpha=group["weight_decay"])
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction1, correction2 = 1 - beta1**t, 1 - beta2**t
        rho_inf = 2 / (1 - beta2) - 1
        rho = rho_inf - 2 * t * beta2**t / correction2
        if rho <= 5.0:
            p.add_(exp_avg, alpha=-lr / correction1)
            return
        rectified = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        denom = exp_avg_sq.sqrt().add_(group["eps"])
        p.addcdiv_(exp_avg, denom, value=-lr * rectified * math.sqrt(correction2) / correction1)
