"""Adadelta."""

from __future__ import annotations

from typing import Any

from .. import Tensor, zeros_like
from ._checks import check_flag_unsupported, check_lr, check_nonnegative, check_unit
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Adadelta"]


class Adadelta(ComposedOptimizer):
    r"""Adadelta: gradients scaled by the ratio of past step size to past gradient size.

    .. math::
        v \leftarrow \rho v + (1 - \rho) g^2, \quad
        d = \frac{\sqrt{u + \epsilon}}{\sqrt{v + \epsilon}} g, \quad
        u \leftarrow \rho u + (1 - \rho) d^2, \quad p \leftarrow p - \eta d

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. rho: decay in [0, 1]. eps: :math:`\epsilon` >= 0.
        weight_decay: added to the gradient. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Zeiler, ADADELTA: an adaptive learning rate method, 2012.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Adadelta", group["lr"])
        check_unit("Adadelta", "rho", group["rho"], closed=True)
        check_nonnegative("Adadelta", "eps", group["eps"])
        check_nonnegative("Adadelta", "weight_decay", group["weight_decay"])
        check_flag_unsupported("Adadelta", "differentiable", group["differentiable"])

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"square_avg": zeros_like(p), "acc_delta": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        rho, eps = group["rho"], group["eps"]
        if group["weight_decay"] != 0:
            grad = grad.add(p, alpha=group["weight_decay"])
        square_avg, acc_delta = state["square_avg"], state["acc_delta"]
        square_avg.mul_(rho).addcmul_(grad, grad, value=1 - rho)
        delta = acc_delta.add(eps).sqrt_().div_(square_avg.add(eps).sqrt_()).mul_(grad)
        acc_delta.mul_(rho).addcmul_(delta, delta, value=1 - rho)
        p.add_(delta, alpha=-float(group["lr"]))
