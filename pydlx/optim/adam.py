"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import Tensor, zeros_like
from .._C import fused_adam_
from ._checks import check_adam_options
from ._fused import Bucket, FusedOptimizer
from .optimizer import ParamsT

__all__ = ["Adam", "AdamW"]


class Adam(FusedOptimizer):
    r"""Adam: steps scaled by running estimates of the gradient's mean and square; one native call per group.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Args:
        params: parameters or groups. lr: learning rate :math:`\eta` >= 0. betas: decay rates in [0, 1).
        eps: :math:`\epsilon` >= 0. weight_decay: added to the gradient, or with ``decoupled_weight_decay`` taken from
            the parameter: ``p *= 1 - lr * weight_decay``. amsgrad: divide by the largest :math:`v` seen so far.
        maximize: climb instead of descend. foreach, capturable, fused: accepted for compatibility; the step is always
            fused. differentiable: must be False.

    Raises:
        ValueError: an option outside its range.

    Sources: Kingma and Ba, Adam, 2015; Reddi et al., On the convergence of Adam and beyond, 2018 (amsgrad).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_adam_options(type(self).__name__, group)

    def _flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return (group["amsgrad"],)

    def _slots(self, group: dict[str, Any]) -> list[tuple[str, bool, Callable[[Tensor], Tensor]]]:
        return [
            ("exp_avg", True, _zeros),
            ("exp_avg_sq", True, _zeros),
            ("max_exp_avg_sq", bool(group["amsgrad"]), _zeros),
        ]

    def _launch(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        beta1, beta2 = group["betas"]
        exp_avgs, exp_avg_sqs, max_exp_avg_sqs = bucket.slots
        fused_adam_(
            bucket.params,
            grads,
            exp_avgs,
            exp_avg_sqs,
            max_exp_avg_sqs,
            bucket.step,
            float(group["lr"]),
            float(beta1),
            float(beta2),
            group["eps"],
            float(group["weight_decay"]),
            group["decoupled_weight_decay"],
            group["amsgrad"],
            group["maximize"],
            bucket.live,
        )


class AdamW(Adam):
    r"""Adam with decoupled weight decay: ``p *= 1 - lr * weight_decay`` before the Adam step.

    Args:
        weight_decay: 0.01 by default. The others as in :class:`Adam`.

    Source: Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a checkpoint of plain Adam must not switch the decay's meaning
            group["decoupled_weight_decay"] = True


def _zeros(p: Tensor) -> Tensor:
    return zeros_like(p)
