"""Adagrad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import Tensor, float32, full_like, tensor
from .._C import fused_adagrad_
from ._checks import check_flag_unsupported, check_lr, check_nonnegative
from ._fused import Bucket, FusedOptimizer
from .optimizer import ParamsT

__all__ = ["Adagrad"]


class Adagrad(FusedOptimizer):
    r"""Adagrad: gradients divided by the root of the sum of all squares so far; one native call per group.

    .. math::
        s \leftarrow s + g^2, \qquad
        p \leftarrow p - \frac{\eta}{1 + (t - 1) \delta} \cdot \frac{g}{\sqrt{s} + \epsilon}

    Args:
        params: parameters or groups. lr: learning rate :math:`\eta` >= 0. lr_decay: :math:`\delta` >= 0.
        weight_decay: added to the gradient. initial_accumulator_value: where :math:`s` starts, >= 0.
        eps: :math:`\epsilon` >= 0. maximize: climb instead of descend.
        foreach, fused: accepted for compatibility; the step is always fused. differentiable: must be False.

    Raises:
        ValueError: an option outside its range.

    Source: Duchi, Hazan and Singer, Adaptive subgradient methods for online learning, 2011.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; Adagrad's sums exist from the start, as in PyTorch."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        start = float(group["initial_accumulator_value"])
        for p in group["params"]:
            self.state[p] = {"step": tensor(0.0, dtype=float32), "sum": full_like(p, start)}

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Adagrad", group["lr"])
        for name in ("lr_decay", "weight_decay", "initial_accumulator_value", "eps"):
            check_nonnegative("Adagrad", name, group[name])
        check_flag_unsupported("Adagrad", "differentiable", group["differentiable"])

    def _flags(self, group: dict[str, Any]) -> tuple[Any, ...]:
        return ()

    def _slots(self, group: dict[str, Any]) -> list[tuple[str, bool, Callable[[Tensor], Tensor]]]:
        start = float(group["initial_accumulator_value"])
        return [("sum", True, lambda p: full_like(p, start))]

    def _launch(self, group: dict[str, Any], bucket: Bucket, grads: list[Tensor]) -> None:
        fused_adagrad_(
            bucket.params,
            grads,
            bucket.slots[0],
            bucket.step,
            float(group["lr"]),
            group["lr_decay"],
            group["eps"],
            float(group["weight_decay"]),
            group["maximize"],
            bucket.live,
        )
