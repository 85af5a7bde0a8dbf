"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import Tensor, empty_like
from .._C import fused_sgd_
from ._checks import as_number, check_flag_unsupported, check_lr, check_nonnegative
from ._fused import Bucket, FusedOptimizer
from .optimizer import ParamsT

__all__ = ["SGD"]


class SGD(FusedOptimizer):
    r"""Stochastic gradient descent with momentum; one native call updates a whole group.

    .. math::
        g &\leftarrow g + \lambda p \\
        b &\leftarrow \mu b + (1 - \tau) g \quad (b = g \text{ at the first step}) \\
        p &\leftarrow p - \eta\, b \quad (\text{Nesterov: } g + \mu b)

    Args:
        params: parameters or groups. lr: learning rate :math:`\eta` >= 0. momentum: :math:`\mu` >= 0.
        dampening: :math:`\tau`. weight_decay: :math:`\lambda` >= 0, added to the gradient.
        nesterov: look ahead; needs momentum > 0 and dampening 0. maximize: climb instead of descend.
        foreach, fused: accepted for compatibility; the step is always fused. differentiable: must be False.

    Raises:
        ValueError: an option outside its range.

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning, 2013.
    """

    _counts = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("SGD", group["lr"])
        check_nonnegative("SGD", "momentum", group["momentum"])
        as_number("SGD", "dampening", group["dampening"])
        check_nonnegative("SGD", "weight_decay", group["weight_decay"])
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                "[SGD] nesterov: expected momentum > 0 and dampening 0, "
                f"got momentum {group['momentum']} and dampening {group['dampening']}"
            )
        check_flag_unsupported("SGD", "differentiable", group["differentiable"])

    def _flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["momentum"] != 0,)

    def _slots(self, group: dict[str, Any]) -> list[tuple[str, bool, Callable[[Tensor], Tensor]]]:
        return [("momentum_buffer", group["momentum"] != 0, lambda p: empty_like(p))]

    def _launch(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        fused_sgd_(
            bucket.params,
            grads,
            bucket.slots[0],
            float(group["lr"]),
            float(group["momentum"]),
            float(group["dampening"]),
            float(group["weight_decay"]),
            group["nesterov"],
            group["maximize"],
            bucket.fresh,
            bucket.live,
        )
