"""Stopping a run when its validation metric has stalled."""

from __future__ import annotations

import math
from typing import Any, Literal

from .. import Tensor

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Remembers the best value of a metric, the weights that reached it, and how long ago that was.

    Args:
        patience: epochs without improvement after which ``should_stop`` turns True.
        mode: ``"min"`` or ``"max"``, which way is better.
        min_delta: an improvement must be larger than this.

    Example::

        stopper = EarlyStopping(patience=10, mode="max")
        for epoch in range(100):
            train(); stopper.step(validate(), model)
            if stopper.should_stop:
                break
        stopper.restore(model)
    """

    def __init__(self, patience: int = 10, mode: Literal["min", "max"] = "min", min_delta: float = 0.0) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(f"[EarlyStopping] patience: expected an integer >= 1, got {patience!r}")
        if mode not in ("min", "max"):
            raise ValueError(f"[EarlyStopping] mode: expected 'min' or 'max', got {mode!r}")
        if not min_delta >= 0:
            raise ValueError(f"[EarlyStopping] min_delta: expected a number >= 0, got {min_delta!r}")
        self.patience, self.mode, self.min_delta = patience, mode, min_delta
        self.best = math.inf if mode == "min" else -math.inf
        self.best_epoch = -1
        self.epoch = -1
        self.best_state: dict[str, Any] | None = None

    def step(self, metric: float, model: Any = None) -> bool:
        """Note the metric of one more epoch; NaN never counts as an improvement.

        Args:
            metric: this epoch's value. model: its ``state_dict`` is copied when the metric improved.

        Returns:
            Whether the metric improved.
        """
        value = float(metric)
        self.epoch += 1
        improved = value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta
        if improved:
            self.best, self.best_epoch = value, self.epoch
            if model is not None:
                self.best_state = {
                    name: t.detach().clone() if isinstance(t, Tensor) else t for name, t in model.state_dict().items()
                }
        return improved

    @property
    def should_stop(self) -> bool:
        """Whether ``patience`` epochs have passed since the best one."""
        return self.epoch - self.best_epoch >= self.patience

    def restore(self, model: Any) -> None:
        """Load the best weights into ``model``; ValueError if none were kept."""
        if self.best_state is None:
            raise ValueError("[EarlyStopping.restore] expected weights from step(metric, model), got none")
        model.load_state_dict(self.best_state)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue in another process."""
        return dict(self.__dict__)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.__dict__.update(state_dict)
