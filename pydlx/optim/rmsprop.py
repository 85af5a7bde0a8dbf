"""RMSprop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import Tensor, zeros_like
from .._C import fused_rmsprop_
from ._checks import check_flag_unsupported, check_lr, check_nonnegative
from ._fused import Bucket, FusedOptimizer
from .optimizer import ParamsT

__all__ = ["RMSprop"]


class RMSprop(FusedOptimizer):
    r"""RMSprop: gradients divided by a running root mean square; one native call per group.

    .. math::
        v \leftarrow \alpha v + (1 - \alpha) g^2, \qquad
        p \leftarrow p - \eta\, g / (\sqrt{v} + \epsilon)

    Args:
        params: parameters or groups. lr: learning rate :math:`\eta` >= 0. alpha: decay of the average, >= 0.
        eps: :math:`\epsilon` >= 0, outside the root. weight_decay: added to the gradient.
        momentum: > 0 accumulates the scaled gradients, :math:`b \leftarrow \mu b + g / (\sqrt v + \epsilon)`.
        centered: subtract the squared running mean from :math:`v`, so gradients are scaled by their deviation.
        maximize: climb instead of descend. capturable, foreach: accepted for compatibility. differentiable: must be
            False.

    Raises:
        ValueError: an option outside its range.

    Source: Hinton, Neural networks for machine learning, lecture 6, 2012; Graves, Generating sequences with recurrent
    neural networks, 2013 (centered).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("RMSprop", group["lr"])
        for name in ("alpha", "eps", "weight_decay", "momentum"):
            check_nonnegative("RMSprop", name, group[name])
        check_flag_unsupported("RMSprop", "differentiable", group["differentiable"])

    def _flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return group["centered"], group["momentum"] > 0

    def _slots(self, group: dict[str, Any]) -> list[tuple[str, bool, Callable[[Tensor], Tensor]]]:
        return [
            ("square_avg", True, _zeros),
            ("momentum_buffer", group["momentum"] > 0, _zeros),
            ("grad_avg", bool(group["centered"]), _zeros),
        ]

    def _launch(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        square_avgs, momentum_buffers, grad_avgs = bucket.slots
        fused_rmsprop_(
            bucket.params,
            grads,
            square_avgs,
            grad_avgs,
            momentum_buffers,
            float(group["lr"]),
            group["alpha"],
            group["eps"],
            float(group["weight_decay"]),
            group["momentum"],
            group["centered"],
            group["maximize"],
            bucket.live,
        )


def _zeros(p: Tensor) -> Tensor:
    return zeros_like(p)
