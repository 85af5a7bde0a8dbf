"""NAdam."""

from __future__ import annotations

from typing import Any

from .. import Tensor, float32, tensor, zeros_like
from ._checks import check_adam_options, check_nonnegative
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["NAdam"]


class NAdam(ComposedOptimizer):
    r"""NAdam: Adam with Nesterov's momentum and a momentum that warms up.

    .. math::
        \mu_t = \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad
        \hat m = \frac{\mu_{t+1} m}{1 - \prod_{i \le t+1} \mu_i} + \frac{(1 - \mu_t) g}{1 - \prod_{i \le t} \mu_i},
        \quad p \leftarrow p - \eta \frac{\hat m}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. betas: decay rates in [0, 1). eps: >= 0.
        weight_decay: added to the gradient, or with ``decoupled_weight_decay`` taken from the parameter.
        momentum_decay: :math:`\psi` >= 0. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Dozat, Incorporating Nesterov momentum into Adam, 2016.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam_options(type(self).__name__, group)
        check_nonnegative(type(self).__name__, "momentum_decay", group["momentum_decay"])

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "mu_product": tensor(1.0, dtype=float32),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        lr, psi = float(group["lr"]), group["momentum_decay"]
        if group["weight_decay"] != 0:
            if group["decoupled_weight_decay"]:
                p.mul_(1 - lr * group["weight_decay"])
            else:
                grad = grad.add(p, alpha=group["weight_decay"])
        mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * psi))
        mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * psi))
        state["mu_product"].mul_(mu)
        mu_product = float(state["mu_product"].item())
        exp_avg, exp_avg_sq = state["exp_avg"], state["exp_avg_sq"]
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denom = exp_avg_sq.div(1 - beta2**t).sqrt_().add_(group["eps"])
        p.addcdiv_(grad, denom, value=-lr * (1 - mu) / (1 - mu_product))
        p.addcdiv_(exp_avg, denom, value=-lr * mu_next / (1 - mu_product * mu_next))
