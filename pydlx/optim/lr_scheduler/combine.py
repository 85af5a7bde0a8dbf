"""Schedules that listen to a metric or are made of other schedules."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, SupportsFloat

from ..optimizer import Optimizer
from .base import LRScheduler, check_number, expand, set_option

__all__ = ["ChainedScheduler", "ReduceLROnPlateau", "SequentialLR"]


class ReduceLROnPlateau(LRScheduler):
    """Multiply the rate by ``factor`` when a metric has not improved for ``patience`` epochs.

    Args:
        mode: ``"min"`` or ``"max"``, which way is better. factor: below 1. patience: bad epochs tolerated.
        threshold, threshold_mode: an improvement must exceed the best by this part (``"rel"``) or amount (``"abs"``).
        cooldown: epochs to wait after a reduction. min_lr: floor, or one per group. eps: smallest change worth making.

    ``step(metric)`` takes the metric; NaN counts as a bad epoch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        op = "ReduceLROnPlateau"
        check_number(op, "factor", factor)
        if not factor < 1.0:
            raise ValueError(f"[{op}] factor: expected a number < 1, got {factor}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"[{op}] optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        if mode not in ("min", "max"):
            raise ValueError(f"[{op}] mode: expected 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"[{op}] threshold_mode: expected 'rel' or 'abs', got {threshold_mode!r}")
        self.factor = factor
        self.optimizer = optimizer
        if isinstance(min_lr, (list, tuple)):
            self.default_min_lr: float | None = None
        else:
            self.default_min_lr = min_lr
        self.min_lrs = expand(op, "min_lr", min_lr, len(optimizer.param_groups))
        self.patience = patience
        self.cooldown = cooldown
        self.eps = eps
        self.last_epoch = 0
        self._last_lr = self._lrs()
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self._reset()

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether epochs after a reduction are still being waited for."""
        return self.cooldown_counter > 0

    def _is_better(self, value: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "rel":
            bound = self.best * (1.0 - sign * self.threshold)
        else:
            bound = self.best - sign * self.threshold
        return value < bound if self.mode == "min" else value > bound

    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Note this epoch's metric and lower the rates if it has stalled."""
        value = float(metrics)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(value):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = self._lrs()

    def _reduce(self) -> None:
        groups = self.optimizer.param_groups
        if len(self.min_lrs) != len(groups):  # groups were added after construction
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"[ReduceLROnPlateau] min_lr: expected {len(groups)} values, got {len(self.min_lrs)}; "
                    "extend min_lrs after adding parameter groups"
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, old, floor in zip(groups, self._lrs(), self.min_lrs, strict=True):
            new = max(old * self.factor, floor)
            if old - new > self.eps:
                set_option(group, "lr", new)


class SequentialLR(LRScheduler):
    """One schedule after the other; schedule ``i + 1`` takes over at epoch ``milestones[i]``.

    Raises:
        ValueError: milestones do not number one less than the schedules, or a schedule drives another optimiser or
            needs a metric.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        _check_members("SequentialLR", optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"[SequentialLR] milestones: expected {len(schedulers) - 1}, one between each pair of schedulers, "
                f"got {len(milestones)}"
            )
        if any(b < a for a, b in pairwise(milestones)):
            raise ValueError(f"[SequentialLR] milestones: expected increasing epochs, got {milestones}")
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        # Every member set its own first rate when it was made; start again from the initial rates with one of them.
        for group in optimizer.param_groups:
            set_option(group, "lr", float(group["initial_lr"]))
        _step_back(self._schedulers)
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def _initial_step(self) -> None:
        """Begin again with the first member, as part of another SequentialLR."""
        self.last_epoch += 1
        first = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Move the schedule in charge to its next epoch."""
        self._update_lr(self.last_epoch + 1)

    def _update_lr(self, epoch: float | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else int(epoch)
        index = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[index]
        if self.last_epoch == 0 or (index > 0 and self._milestones[index - 1] == self.last_epoch):
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser, with the members' states."""
        return _save_members(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        _load_members(self, state_dict)


class ChainedScheduler(LRScheduler):
    """Several schedules at once: every ``step`` steps them all, each scaling what the one before left."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        if len(schedulers) < 1:
            raise ValueError("[ChainedScheduler] schedulers: expected at least one, got none")
        optimizer = schedulers[0].optimizer if optimizer is None else optimizer
        _check_members("ChainedScheduler", optimizer, schedulers)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = self._lrs()

    def step(self) -> None:  # type: ignore[override]
        """Step every member."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self._lrs()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser, with the members' states."""
        return _save_members(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        _load_members(self, state_dict)


def _check_members(op: str, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
    if len(schedulers) < 1:
        raise ValueError(f"[{op}] schedulers: expected at least one, got none")
    for i, scheduler in enumerate(schedulers):
        if not isinstance(scheduler, LRScheduler):
            raise TypeError(f"[{op}] schedulers[{i}]: expected a scheduler, got {type(scheduler).__name__}")
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(f"[{op}] schedulers[{i}]: expected a schedule without a metric, got ReduceLROnPlateau")
        if scheduler.optimizer is not optimizer:
            raise ValueError(f"[{op}] schedulers[{i}]: expected the same optimiser for all, got another")


def _step_back(schedulers: Sequence[LRScheduler]) -> None:
    for scheduler in schedulers:
        members = getattr(scheduler, "_schedulers", None)
        if members is not None:
            _step_back(members)
        if hasattr(scheduler, "last_epoch"):
            scheduler.last_epoch -= 1


def _save_members(scheduler: Any) -> dict[str, Any]:
    saved = {k: v for k, v in scheduler.__dict__.items() if k not in ("optimizer", "_schedulers")}
    saved["_schedulers"] = [member.state_dict() for member in scheduler._schedulers]
    return saved


def _load_members(scheduler: Any, state_dict: dict[str, Any]) -> None:
    state = dict(state_dict)
    for member, saved in zip(scheduler._schedulers, state.pop("_schedulers"), strict=True):
        member.load_state_dict(saved)
    scheduler.__dict__.update(state)
