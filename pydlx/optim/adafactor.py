"""Adafactor."""

from __future__ import annotations

import math
from typing import Any

from .. import Tensor, finfo, zeros_like
from ._checks import as_number, check_lr, check_nonnegative
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Adafactor"]


class Adafactor(ComposedOptimizer):
    r"""Adafactor: Adam's scaling from row and column sums of the squared gradients, memory O(rows + columns).

    .. math::
        V \approx \frac{r\, c^T}{\mathrm{mean}(r)}, \quad U = G / \sqrt V, \quad
        p \leftarrow (1 - \eta \lambda) p
            - \max(\epsilon_2, \mathrm{rms}(p)) \rho_t \frac{U}{\max(1, \mathrm{rms}(U) / d)}

    with :math:`\rho_t = \min(\eta, 1 / \sqrt t)` and decay :math:`1 - t^{\beta}`.

    Args:
        params: parameters or groups. lr: :math:`\eta` >= 0. beta2_decay: :math:`\beta` <= 0.
        eps: :math:`(\epsilon_1, \epsilon_2)`; the first, None for the dtype's epsilon, keeps squares from zero.
        d: clipping threshold >= 1. weight_decay: :math:`\lambda`, decoupled. maximize: climb instead of descend.

    Raises:
        ValueError: an option outside its range.

    Source: Shazeer and Stern, Adafactor: adaptive learning rates with sublinear memory cost, 2018.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Adafactor", group["lr"])
        check_nonnegative("Adafactor", "weight_decay", group["weight_decay"])
        if not as_number("Adafactor", "beta2_decay", group["beta2_decay"]) <= 0:
            raise ValueError(f"[Adafactor] beta2_decay: expected a number <= 0, got {group['beta2_decay']}")
        if not isinstance(group["eps"], (tuple, list)) or len(group["eps"]) != 2:
            raise ValueError(f"[Adafactor] eps: expected two numbers, the first may be None, got {group['eps']!r}")
        for i, eps in enumerate(group["eps"]):
            if eps is not None or i == 1:
                check_nonnegative("Adafactor", f"eps[{i}]", eps)
        if not as_number("Adafactor", "d", group["d"]) >= 1:
            raise ValueError(f"[Adafactor] d: expected a number >= 1, got {group['d']}")

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if p.ndim > 1:
            rows, columns = list(p.shape), list(p.shape)
            rows[-1], columns[-2] = 1, 1
            return {"row_var": p.new_zeros(rows), "col_var": p.new_zeros(columns)}
        return {"variance": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        lr, (eps1, eps2) = float(group["lr"]), group["eps"]
        eps1 = finfo(p.dtype).eps if eps1 is None else eps1
        forget = t ** group["beta2_decay"]
        size = max(p.numel(), 1)
        alpha = max(eps2, p.norm().item() / math.sqrt(size)) * min(lr, 1 / math.sqrt(t))
        if group["weight_decay"] != 0:
            p.mul_(1 - lr * group["weight_decay"])
        square = grad * grad
        if p.ndim > 1:
            rows, columns = state["row_var"], state["col_var"]
            rows.lerp_(square.mean(-1, keepdim=True), forget)
            columns.lerp_(square.mean(-2, keepdim=True), forget)
            variance = (rows @ columns) / rows.mean(-2, keepdim=True).clamp(min=eps1)
        else:
            state["variance"].lerp_(square, forget)
            variance = state["variance"].clone()
        update = grad / variance.clamp(min=eps1 * eps1).sqrt()
        clip = max(1.0, update.norm().item() / (math.sqrt(size) * group["d"]))
        p.add_(update, alpha=-alpha / clip)
