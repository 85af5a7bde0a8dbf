"""Rprop."""

from __future__ import annotations

from typing import Any

from .. import Tensor, full_like, zeros_like
from ._checks import as_numbers, check_flag_unsupported, check_lr
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Rprop"]


class Rprop(ComposedOptimizer):
    r"""Resilient backpropagation: steps that depend on the sign of the gradient only, for full-batch training.

    Each element has its own step size, multiplied by :math:`\eta^+` while its gradient keeps its sign and by
    :math:`\eta^-` when it changes, in which case the element rests for one step.

    Args:
        params: parameters or groups. lr: first step size. etas: :math:`(\eta^-, \eta^+)`, below and above 1.
        step_sizes: smallest and largest step size. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Riedmiller and Braun, A direct adaptive method for faster backpropagation learning, 1993.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Rprop", group["lr"])
        low, high = as_numbers("Rprop", "etas", group["etas"], 2)
        if not 0.0 < low < 1.0 < high:
            raise ValueError(f"[Rprop] etas: expected 0 < first < 1 < second, got {group['etas']}")
        as_numbers("Rprop", "step_sizes", group["step_sizes"], 2)
        check_flag_unsupported("Rprop", "differentiable", group["differentiable"])

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"prev": zeros_like(p), "step_size": full_like(p, float(group["lr"]))}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        (shrink, grow), (least, most) = group["etas"], group["step_sizes"]
        agreement = grad * state["prev"]
        turned = agreement < 0
        factor = full_like(p, 1.0).masked_fill(agreement > 0, grow).masked_fill(turned, shrink)
        state["step_size"].mul_(factor).clamp_(least, most)
        grad = grad.masked_fill(turned, 0.0)
        p.addcmul_(grad.sign(), state["step_size"], value=-1)
        state["prev"].copy_(grad)
