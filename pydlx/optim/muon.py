"""Muon."""

from __future__ import annotations

import math
from typing import Any

from .. import Tensor, bfloat16, float32, zeros_like
from ._checks import as_number, as_numbers, check_lr, check_nonnegative
from ._composed import ComposedOptimizer
from .optimizer import ParamsT

__all__ = ["Muon"]


class Muon(ComposedOptimizer):
    r"""Muon: momentum, orthogonalised by Newton-Schulz iterations, for the weight matrices of hidden layers.

    .. math::
        B \leftarrow \mu B + (1 - \mu) G, \quad X_0 = U / \lVert U \rVert, \quad
        X \leftarrow a X + (b A + c A^2) X \text{ with } A = X X^T, \quad
        P \leftarrow (1 - \eta \lambda) P - \eta \gamma X

    where :math:`U` is :math:`B`, or its Nesterov blend with :math:`G`. Biases, norms, embeddings and the output layer
    belong to AdamW.

    Args:
        params: matrices or groups of them. lr: :math:`\eta` >= 0. weight_decay: :math:`\lambda`, decoupled.
        momentum: :math:`\mu` >= 0. nesterov: blend momentum and gradient. ns_coefficients: :math:`(a, b, c)`.
        eps: floor of the norm. ns_steps: iterations, 1 to 99.
        adjust_lr_fn: None or ``"original"`` for :math:`\gamma = \sqrt{\max(1, rows / columns)}`;
            ``"match_rms_adamw"`` for :math:`0.2 \sqrt{\max(rows, columns)}`, which lets AdamW's learning rate be
                reused.

    Raises:
        ValueError: a parameter that is not a matrix, or an option outside its range.

    Sources: Jordan et al., Muon, 2024; Liu et al., Muon is scalable for LLM training, 2025.
    """

    _counts = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_lr("Muon", group["lr"])
        for name in ("weight_decay", "momentum", "eps"):
            check_nonnegative("Muon", name, group[name])
        as_numbers("Muon", "ns_coefficients", group["ns_coefficients"], 3)
        if not 1 <= as_number("Muon", "ns_steps", group["ns_steps"]) < 100:
            raise ValueError(f"[Muon] ns_steps: expected 1 to 99, got {group['ns_steps']}")
        if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise ValueError(
                f"[Muon] adjust_lr_fn: expected None, 'original' or 'match_rms_adamw', got {group['adjust_lr_fn']!r}"
            )
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(
                    f"[Muon] params: expected matrices, got shape {tuple(p.shape)}; give vectors and kernels to AdamW"
                )

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": zeros_like(p)}

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        buffer: Tensor = state["momentum_buffer"]
        buffer.lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        update = _orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1.0, rows / columns))
        lr = float(group["lr"])
        p.mul_(1 - lr * group["weight_decay"])
        p.add_(update.to(p.dtype), alpha=-lr * scale)


def _orthogonalize(g: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Push the singular values of a matrix towards 1 with a quintic polynomial.

    bfloat16 is enough and twice as fast on a GPU; a CPU gains nothing from it and keeps float32.
    """
    a, b, c = coefficients
    wide = g.shape[0] <= g.shape[1]
    x = (g if wide else g.T).to(bfloat16 if g.device.type == "cuda" else float32)
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x if wide else x.T
