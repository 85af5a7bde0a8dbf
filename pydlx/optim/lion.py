"""Lion."""

from __future__ import annotations

from typing import Any

from .. import Tensor, zeros_like
from ._checks import check_betas, check_lr, check_nonnegative
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Lion"]


class Lion(ComposedOptimizer):
    r"""Lion: the sign of an interpolated momentum, half of Adam's memory. Use about a tenth of AdamW's learning rate.

    .. math::
        p \leftarrow (1 - \eta \lambda) p - \eta\, \mathrm{sign}(\beta_1 m + (1 - \beta_1) g), \quad
        m \leftarrow \beta_2 m + (1 - \beta_2) g

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. betas: interpolation and decay in [0, 1).
        weight_decay: :math:`\lambda`, decoupled. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Chen et al., Symbolic discovery of optimization algorithms, 2023.
    """

    _counts = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Lion", group["lr"])
        check_betas("Lion", group["betas"])
        check_nonnegative("Lion", "weight_decay", group["weight_decay"])

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        lr = float(group["lr"])
        if group["weight_decay"] != 0:
            p.mul_(1 - lr * group["weight_decay"])
        p.add_(state["exp_avg"].lerp(grad, 1 - beta1).sign(), alpha=-lr)
        state["exp_avg"].lerp_(grad, 1 - beta2)
