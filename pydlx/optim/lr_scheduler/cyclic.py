"""Schedules that go up and down: warm restarts, cyclic rates, one cycle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from ..optimizer import Optimizer
from .base import LRScheduler, check_number, check_positive_int, expand, set_option

__all__ = ["CosineAnnealingWarmRestarts", "CyclicLR", "OneCycleLR"]


class CosineAnnealingWarmRestarts(LRScheduler):
    r"""Half a cosine from the initial rate to ``eta_min``, restarted after :math:`T_0, T_0 T_{mult}, ...` epochs.

    ``step`` takes fractional epochs too: ``scheduler.step(epoch + batch / batches)``.

    Source: Loshchilov and Hutter, SGDR: stochastic gradient descent with warm restarts, 2017.
    """

    def __init__(
        self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        check_positive_int("CosineAnnealingWarmRestarts", "T_0", T_0)
        check_positive_int("CosineAnnealingWarmRestarts", "T_mult", T_mult)
        check_number("CosineAnnealingWarmRestarts", "eta_min", eta_min)
        self.T_0 = T_0
        self.T_i = T_0
        self.T_mult = T_mult
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        """The learning rates for ``T_cur`` epochs since the last restart."""
        self._warn_outside_step()
        factor = 1 + math.cos(math.pi * self.T_cur / self.T_i)
        return [self.eta_min + (base - self.eta_min) * factor / 2 for base in self.base_lrs]

    def step(self, epoch: float | None = None) -> None:
        """Move on by one epoch, or to ``epoch`` >= 0, which may be fractional."""
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur = self.T_cur % self.T_i
                self.T_i *= self.T_mult
        elif epoch < 0:
            raise ValueError(f"[CosineAnnealingWarmRestarts.step] epoch: expected a number >= 0, got {epoch}")
        else:
            self._place(epoch)
        self.last_epoch = math.floor(epoch)
        self._get_lr_called_within_step = True
        try:
            values = self.get_lr()
        finally:
            self._get_lr_called_within_step = False
        self._write(values)

    def _update_lr(self, epoch: float | None = None) -> None:
        self.step(epoch)

    def _place(self, epoch: float) -> None:
        """Find the restart before ``epoch``: restart n comes after T_0 (T_mult^n - 1) / (T_mult - 1) epochs."""
        if epoch < self.T_0:
            self.T_i, self.T_cur = self.T_0, epoch
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            n = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**n - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**n


def _momentum_name(op: str, optimizer: Optimizer) -> str:
    """``"betas"`` or ``"momentum"``, whichever the optimiser has for cycling."""
    if "betas" in optimizer.defaults:
        return "betas"
    if "momentum" in optimizer.defaults:
        return "momentum"
    raise ValueError(
        f"[{op}] cycle_momentum: expected an optimiser with momentum or betas, got {type(optimizer).__name__}; "
        "pass cycle_momentum=False"
    )


def _set_momentum(group: dict[str, Any], use_beta1: bool, value: float) -> None:
    if use_beta1:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


class CyclicLR(LRScheduler):
    """The rate travels between ``base_lr`` and ``max_lr`` in triangles; call ``step()`` after every batch.

    Args:
        base_lr, max_lr: the bounds, or one per group. step_size_up, step_size_down: batches on the way up and down.
        mode: ``"triangular"``; ``"triangular2"`` halves the height every cycle; ``"exp_range"`` scales it by
            ``gamma ** iteration``. scale_fn, scale_mode: an own scaling of the height by ``"cycle"`` or
            ``"iterations"``.
        cycle_momentum: move momentum (or beta1) the other way, between ``base_momentum`` and ``max_momentum``.

    Source: Smith, Cyclical learning rates for training neural networks, 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"[CyclicLR] optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        groups = optimizer.param_groups
        if last_epoch == -1:
            for group, lr in zip(groups, expand("CyclicLR", "base_lr", base_lr, len(groups)), strict=True):
                set_option(group, "lr", lr)
        self.max_lrs = expand("CyclicLR", "max_lr", max_lr, len(groups))
        down = step_size_up if step_size_down is None else step_size_down
        check_number("CyclicLR", "step_size_up", step_size_up)
        check_number("CyclicLR", "step_size_down", down)
        if not (step_size_up > 0 and down > 0):
            raise ValueError(f"[CyclicLR] step_size: expected numbers > 0, got {step_size_up} up and {down} down")
        self.total_size = float(step_size_up) + float(down)
        self.step_ratio = float(step_size_up) / self.total_size
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise ValueError(
                f"[CyclicLR] mode: expected 'triangular', 'triangular2', 'exp_range' or a scale_fn, got {mode!r}"
            )
        self.mode = mode
        self.gamma = gamma
        if scale_fn is not None and not callable(scale_fn):
            raise TypeError(f"[CyclicLR] scale_fn: expected a function of one number, got {type(scale_fn).__name__}")
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else "iterations" if mode == "exp_range" else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _momentum_name("CyclicLR", optimizer) == "betas"
            self.base_momentums = expand("CyclicLR", "base_momentum", base_momentum, len(groups))
            self.max_momentums = expand("CyclicLR", "max_momentum", max_momentum, len(groups))
            if last_epoch == -1:
                for group, top, bottom in zip(groups, self.max_momentums, self.base_momentums, strict=True):
                    _set_momentum(group, self.use_beta1, top)
                    group["max_momentum"], group["base_momentum"] = top, bottom
        super().__init__(optimizer, last_epoch)
        self.base_lrs = expand("CyclicLR", "base_lr", base_lr, len(groups))

    def scale_fn(self, x: float) -> float:
        """The height's factor in cycle or iteration ``x``."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return float(1 / (2.0 ** (x - 1)))
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[float]:
        """The learning rates for batch ``last_epoch``; also writes the momentum."""
        self._warn_outside_step()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True
            ):
                _set_momentum(group, self.use_beta1, high - (high - low) * height * scale)
        return [low + (high - low) * height * scale for low, high in zip(self.base_lrs, self.max_lrs, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser; of an own ``scale_fn``, its attributes if it is an object."""
        saved = super().state_dict()
        function = saved.pop("_scale_fn_custom")
        saved["_scale_fn_custom"] = None if function is None else dict(getattr(function, "__dict__", {})) or None
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; the ``scale_fn`` stays as given at construction."""
        state = dict(state_dict)
        attributes = state.pop("_scale_fn_custom", None)
        if attributes and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(attributes)
        super().load_state_dict(state)


class OneCycleLR(LRScheduler):
    """One rise to ``max_lr`` and one long fall far below the start; call ``step()`` after every batch.

    Args:
        max_lr: the peak, or one per group. total_steps: batches in the run, or ``epochs`` times ``steps_per_epoch``.
        pct_start: part of the run spent rising. anneal_strategy: ``"cos"`` or ``"linear"``.
        cycle_momentum: move momentum (or beta1) the other way, between ``base_momentum`` and ``max_momentum``.
        div_factor: start at ``max_lr / div_factor``. final_div_factor: end at the start over this.
        three_phase: fall to the start symmetrically first, then to the end.

    Raises:
        ValueError: steps beyond the run, or an option outside its range.

    Source: Smith and Topin, Super-convergence, 2018.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"[OneCycleLR] optimizer: expected an Optimizer, got {type(optimizer).__name__}")
        if total_steps is not None:
            check_positive_int("OneCycleLR", "total_steps", total_steps)
            self.total_steps = total_steps
        elif epochs is not None and steps_per_epoch is not None:
            check_positive_int("OneCycleLR", "epochs", epochs)
            check_positive_int("OneCycleLR", "steps_per_epoch", steps_per_epoch)
            self.total_steps = epochs * steps_per_epoch
        else:
            raise ValueError(
                "[OneCycleLR] total_steps: expected total_steps, or epochs and steps_per_epoch, got neither"
            )
        check_number("OneCycleLR", "pct_start", pct_start, 0.0, 1.0)
        check_number("OneCycleLR", "div_factor", div_factor)
        check_number("OneCycleLR", "final_div_factor", final_div_factor)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"[OneCycleLR] anneal_strategy: expected 'cos' or 'linear', got {anneal_strategy!r}")
        top = float(pct_start * self.total_steps) - 1
        phases: list[tuple[float, str, str, str, str]] = [
            (top, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        ]
        if three_phase:
            phases.append(
                (2 * pct_start * self.total_steps - 2, "max_lr", "initial_lr", "base_momentum", "max_momentum")
            )
            phases.append((self.total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"))
        else:
            phases.append((self.total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum"))
        names = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")
        self._schedule_phases: list[dict[str, Any]] = [dict(zip(names, phase, strict=True)) for phase in phases]
        self._anneal_func_type = anneal_strategy
        groups = optimizer.param_groups
        peaks = expand("OneCycleLR", "max_lr", max_lr, len(groups))
        if last_epoch == -1:
            for group, peak in zip(groups, peaks, strict=True):
                group["initial_lr"] = peak / div_factor
                group["max_lr"] = peak
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self.use_beta1 = _momentum_name("OneCycleLR", optimizer) == "betas"
            high = expand("OneCycleLR", "max_momentum", max_momentum, len(groups))
            low = expand("OneCycleLR", "base_momentum", base_momentum, len(groups))
            if last_epoch == -1:
                for group, most, least in zip(groups, high, low, strict=True):
                    _set_momentum(group, self.use_beta1, most)
                    group["max_momentum"], group["base_momentum"] = most, least
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, part: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * part + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)

    def get_lr(self) -> list[float]:
        """The learning rates for batch ``last_epoch``; also writes the momentum."""
        self._warn_outside_step()
        step = self.last_epoch
        if step > self.total_steps:
            raise ValueError(
                f"[OneCycleLR.step] expected at most {self.total_steps} steps, got {step + 1}; raise total_steps"
            )
        start = 0.0
        for i, phase in enumerate(self._schedule_phases):
            end = phase["end_step"]
            if step <= end or i == len(self._schedule_phases) - 1:
                break
            start = end
        # A phase of no length (pct_start of 0 or 1) is passed at once.
        part = (step - start) / (end - start) if end != start else 1.0
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], part))
            if self.cycle_momentum:
                momentum = self._anneal(group[phase["start_momentum"]], group[phase["end_momentum"]], part)
                _set_momentum(group, self.use_beta1, momentum)
        return lrs
