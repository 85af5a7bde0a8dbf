"""What all schedules share: the epoch counter, writing the learning rates, checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

from ... import Tensor
from ..optimizer import Optimizer

__all__ = ["LRScheduler", "check_number", "check_positive_int", "expand", "set_option"]


def set_option(group: dict[str, Any], name: str, value: float) -> None:
    """Write a group's option; a tensor option keeps its identity and gets a new value."""
    if isinstance(group[name], Tensor):
        group[name].fill_(value)
    else:
        group[name] = value


def _number(value: Any) -> Any:
    return float(value.item()) if isinstance(value, Tensor) else value


def expand(op: str, name: str, value: Any, groups: int) -> list[Any]:
    """One value per parameter group, from one value or a list of the right length."""
    if isinstance(value, (list, tuple)):
        if len(value) != groups:
            raise ValueError(f"[{op}] {name}: expected {groups} values, one per parameter group, got {len(value)}")
        values = [_number(v) for v in value]
    else:
        values = [_number(value)] * groups
    for v in values:
        if isinstance(v, bool) or not hasattr(v, "__float__"):
            raise TypeError(f"[{op}] {name}: expected numbers, got {type(v).__name__}")
    return values


def check_positive_int(op: str, name: str, value: Any, least: int = 1) -> None:
    """Refuse anything but an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"[{op}] {name}: expected an integer >= {least}, got {value!r}")


def check_number(op: str, name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse what is not a number between ``low`` and ``high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        span = "a number" if low == -math.inf and high == math.inf else f"a number in [{low:g}, {high:g}]"
        raise ValueError(f"[{op}] {name}: expected {span}, got {value!r}")


class LRScheduler:
    """Base class of the schedules: sets ``lr`` of every parameter group, once per ``step()``.

    Args:
        optimizer: the optimiser whose groups are changed; ``initial_lr`` is noted in each.
        last_epoch: number of the last finished epoch when resuming, -1 for a new run.

    Call ``step()`` after the optimiser's step, once per epoch or per batch as the schedule is meant. Subclasses define
    ``get_lr`` (the learning rates for ``last_epoch``, one per group) and, where the rate depends on the epoch alone,
    ``_get_closed_form_lr``.

    Raises:
        TypeError: ``optimizer`` is not an Optimizer. KeyError: resuming without ``initial_lr`` in the groups.
    """

    _get_lr_called_within_step: bool = False
    _is_initial: bool = False
    _last_lr: list[float]
    _get_closed_form_lr: Callable[[], list[float]]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        op = type(self).__name__
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"[{op}] optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        if isinstance(last_epoch, bool) or not isinstance(last_epoch, int):
            raise TypeError(f"[{op}] last_epoch: expected an integer, got {type(last_epoch).__name__}")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                lr = group["lr"]
                group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)
            elif "initial_lr" not in group:
                raise KeyError(
                    f"[{op}] last_epoch: expected 'initial_lr' in param_groups[{i}] when resuming, got none; "
                    "load the optimiser's state_dict first"
                )
        self.base_lrs: list[float] = [_number(group["initial_lr"]) for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._initial_step()

    def _initial_step(self) -> None:
        """Set the rates of the first epoch."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def _lrs(self) -> list[float]:
        """The current learning rates as numbers."""
        return [_number(group["lr"]) for group in self.optimizer.param_groups]

    def _scaled(self, factor: float) -> list[float]:
        return [lr * factor for lr in self._lrs()]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.__dict__.update(state_dict)

    def get_last_lr(self) -> list[float]:
        """The learning rates set by the last ``step``, one per group."""
        return self._last_lr

    def get_lr(self) -> list[float]:
        """The learning rates for ``last_epoch``; use ``get_last_lr`` to read the current ones."""
        raise NotImplementedError(f"[{type(self).__name__}] get_lr: expected the subclass to define it")

    def _warn_outside_step(self) -> None:
        if not self._get_lr_called_within_step:
            warnings.warn(
                f"[{type(self).__name__}.get_lr] expected a call from step(); read current rates with get_last_lr()",
                UserWarning,
                stacklevel=3,
            )

    def step(self, epoch: float | None = None) -> None:
        """Move to the next epoch and set its learning rates.

        Args:
            epoch: jump to this epoch (deprecated; not every schedule can).
        """
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(
                f"[{type(self).__name__}.step] expected optimizer.step() first, got the schedule's step; "
                "the first learning rate of the schedule is skipped",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(
                f"[{type(self).__name__}.step] epoch: expected no argument, got {epoch}; jumping is deprecated",
                UserWarning,
                stacklevel=2,
            )
        self._update_lr(epoch)

    def _update_lr(self, epoch: float | None = None) -> None:
        self._get_lr_called_within_step = True
        try:
            if epoch is None:
                self.last_epoch += 1
                values = self.get_lr()
            else:
                self.last_epoch = int(epoch)
                closed_form = getattr(self, "_get_closed_form_lr", None)
                values = self.get_lr() if closed_form is None else closed_form()
        finally:
            self._get_lr_called_within_step = False
        self._write(values)

    def _write(self, values: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, values, strict=True):
            set_option(group, "lr", lr)
        self._last_lr = self._lrs()
