"""Argument checks the optimisers share; every message is ``[op] argument: expected ..., got ...``."""

from __future__ import annotations

from typing import Any

from .. import Tensor

__all__ = [
    "as_count",
    "as_number",
    "as_numbers",
    "check_adam_options",
    "check_betas",
    "check_flag_unsupported",
    "check_lr",
    "check_nonnegative",
    "check_unit",
]


def as_number(op: str, name: str, value: Any) -> float:
    """The value of a number or of a tensor with one element; refuse everything else."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"[{op}] {name}: expected a number or a tensor with one element, got shape {tuple(value.shape)}"
            )
        return float(value.item())
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"[{op}] {name}: expected a number, got {type(value).__name__}")
    return float(value)


def as_count(op: str, name: str, value: Any) -> int:
    """An integer of at least one; refuse everything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"[{op}] {name}: expected an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"[{op}] {name}: expected at least 1, got {value}")
    return value


def as_numbers(op: str, name: str, values: Any, count: int) -> list[float]:
    """The values of ``count`` numbers; refuse everything else."""
    if not isinstance(values, (tuple, list)) or len(values) != count:
        raise ValueError(f"[{op}] {name}: expected {count} numbers, got {values!r}")
    return [as_number(op, f"{name}[{i}]", value) for i, value in enumerate(values)]


def check_nonnegative(op: str, name: str, value: Any) -> None:
    """Refuse numbers below zero and NaN."""
    if not as_number(op, name, value) >= 0.0:
        raise ValueError(f"[{op}] {name}: expected a number >= 0, got {value}")


def check_lr(op: str, value: Any) -> None:
    """Refuse learning rates below zero and NaN; a one-element tensor is accepted."""
    check_nonnegative(op, "lr", value)


def check_unit(op: str, name: str, value: Any, *, closed: bool = False) -> None:
    """Refuse numbers outside [0, 1), or outside [0, 1] when ``closed``."""
    number = as_number(op, name, value)
    if not (0.0 <= number < 1.0 or (closed and number == 1.0)):
        raise ValueError(f"[{op}] {name}: expected a number in [0, 1{']' if closed else ')'}, got {value}")


def check_betas(op: str, betas: Any, count: int = 2) -> None:
    """Refuse anything but ``count`` decay rates in [0, 1)."""
    for i, beta in enumerate(as_numbers(op, "betas", betas, count)):
        check_unit(op, f"betas[{i}]", beta)


def check_flag_unsupported(op: str, name: str, value: Any) -> None:
    """Refuse ``differentiable=True``: the fused step writes in place and records nothing."""
    if value:
        raise ValueError(
            f"[{op}] {name}: expected False, got {value!r}; the fused step is not recorded, write the update with "
            "tensor operations (p - lr * grad) and autograd.grad(create_graph=True) to differentiate through it"
        )


def check_adam_options(op: str, group: dict[str, Any]) -> None:
    """Check lr, betas, eps, weight_decay and differentiable, which all relatives of Adam share."""
    check_lr(op, group["lr"])
    check_betas(op, group["betas"])
    check_nonnegative(op, "eps", group["eps"])
    check_nonnegative(op, "weight_decay", group["weight_decay"])
    check_flag_unsupported(op, "differentiable", group["differentiable"])
