"""ASGD."""

from __future__ import annotations

from typing import Any

from .. import Tensor, float32, tensor, zeros_like
from ._checks import as_number, check_flag_unsupported, check_lr, check_nonnegative
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["ASGD"]


class ASGD(ComposedOptimizer):
    r"""Averaged stochastic gradient descent: plain steps, and in ``state[p]["ax"]`` the average of their results.

    .. math::
        p \leftarrow (1 - \lambda \eta_t) p - \eta_t g, \quad \eta_t = \frac{\eta}{(1 + \lambda \eta t)^\alpha}, \quad
        a \leftarrow a + \mu_t (p - a), \quad \mu_t = \frac{1}{\max(1, t - t_0)}

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. lambd: decay :math:`\lambda`. alpha: power of the schedule.
        t0: step after which averaging starts. weight_decay: added to the gradient. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("ASGD", group["lr"])
        check_nonnegative("ASGD", "weight_decay", group["weight_decay"])
        for name in ("lambd", "alpha", "t0"):
            as_number("ASGD", name, group[name])
        check_flag_unsupported("ASGD", "differentiable", group["differentiable"])

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "eta": tensor(float(group["lr"]), dtype=float32),
            "mu": tensor(1.0, dtype=float32),
            "ax": zeros_like(p),
        }

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        lr, lambd = float(group["lr"]), group["lambd"]
        eta, mu = float(state["eta"].item()), float(state["mu"].item())
        if group["weight_decay"] != 0:
            grad = grad.add(p, alpha=group["weight_decay"])
        p.mul_(1 - lambd * eta)
        p.add_(grad, alpha=-eta)
        average = state["ax"]
        if mu == 1:
            average.copy_(p)
        else:
            average.add_(p.sub(average), alpha=mu)
        state["eta"].fill_(lr / (1 + lambd * lr * t) ** group["alpha"])
        state["mu"].fill_(1 / max(1, t - group["t0"]))
