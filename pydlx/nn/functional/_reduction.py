"""Reduction of elementwise losses, and the two older arguments that chose it."""

from __future__ import annotations

from ..._C import Tensor


def choose(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Translates the older ``size_average``/``reduce`` pair, which overrides ``reduction`` when given."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def apply(loss: Tensor, reduction: str, op: str) -> Tensor:
    """``"none"``: the loss itself; ``"mean"`` over all elements; ``"sum"``."""
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction == "none":
        return loss
    raise ValueError(f"[{op}] reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
