"""Averages of a model's weights over training: stochastic weight averaging and moving averages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

from .. import Tensor, int64, tensor
from ..autograd import no_grad
from ..nn import Module
from .lr_scheduler import LRScheduler
from .lr_scheduler.base import check_positive_int, expand
from .optimizer import Optimizer

__all__ = ["SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "update_bn"]

_Average = Callable[[Tensor, Tensor, Any], Tensor]


def get_ema_avg_fn(decay: float = 0.999) -> _Average:
    """``decay * average + (1 - decay) * value``, for ``AveragedModel(avg_fn=...)``."""
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"[get_ema_avg_fn] decay: expected a number in [0, 1], got {decay}")

    def average(averaged: Tensor, value: Tensor, _: Any) -> Tensor:
        return averaged * decay + value * (1 - decay)

    return average


def get_swa_avg_fn() -> _Average:
    """The equal average of all values so far (Izmailov et al., 2018)."""

    def average(averaged: Tensor, value: Tensor, count: Any) -> Tensor:
        return averaged + (value - averaged) / (float(count) + 1)

    return average


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable[[list[Tensor], list[Tensor], Any], None]:
    """:func:`get_ema_avg_fn` for whole lists, for ``AveragedModel(multi_avg_fn=...)``."""
    one = get_ema_avg_fn(decay)

    def average(averaged: list[Tensor], values: list[Tensor], count: Any) -> None:
        for old, value in zip(averaged, values, strict=True):
            old.copy_(one(old, value, count) if old.is_floating_point() else value)

    return average


class AveragedModel(Module):
    """A copy of a model whose parameters average those of the original: call ``update_parameters`` after steps.

    Args:
        model: the model to copy.
        device: where the copy lives. Default: where the model does.
        avg_fn: ``(average, value, number averaged so far) -> average``. Default: the equal average.
        multi_avg_fn: the same for lists of tensors, in place; instead of ``avg_fn``.
        use_buffers: average the buffers too; otherwise they are copied. Default: ``False``.
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device: Any = None,
        avg_fn: _Average | None = None,
        multi_avg_fn: Callable[[list[Tensor], list[Tensor], Any], None] | None = None,
        use_buffers: bool = False,
    ) -> None:
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ValueError("[AveragedModel] avg_fn: expected one of avg_fn and multi_avg_fn, got both")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", tensor(0, dtype=int64, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the averaged copy computes."""
        return self.module(*args, **kwargs)

    def _averaged(self, model: Module) -> list[Tensor]:
        tensors: list[Tensor] = list(model.parameters())
        return tensors + list(model.buffers()) if self.use_buffers else tensors

    def update_parameters(self, model: Module) -> None:
        """Takes the present parameters of ``model`` into the average; the first call copies them."""
        with no_grad():
            mine, theirs = self._averaged(self.module), self._averaged(model)
            if int(self.n_averaged) == 0:
                for old, value in zip(mine, theirs, strict=True):
                    old.copy_(value)
            elif self.multi_avg_fn is not None:
                self.multi_avg_fn(mine, theirs, self.n_averaged)
            else:
                average = self.avg_fn or get_swa_avg_fn()
                for old, value in zip(mine, theirs, strict=True):
                    old.copy_(average(old, value.to(old.device), self.n_averaged))
            if not self.use_buffers:
                for old, value in zip(self.module.buffers(), model.buffers(), strict=True):
                    old.copy_(value)
            self.n_averaged.add_(1)


def update_bn(loader: Iterable[Any], model: Module, device: Any = None) -> None:
    """Recomputes the running statistics of batch normalisation as the average over one pass of ``loader``.

    Args:
        loader: batches; of a tuple or list the first element is the model's input.
        model: brought back to the mode it was in.
    """
    layers = [m for m in model.modules() if hasattr(m, "running_mean") and m.running_mean is not None]
    if not layers:
        return
    momenta = {layer: layer.momentum for layer in layers}
    was_training = model.training
    model.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with no_grad():
        for batch in loader:
            input = batch[0] if isinstance(batch, (list, tuple)) else batch
            model(input if device is None else input.to(device))
    for layer, momentum in momenta.items():
        layer.momentum = momentum
    model.train(was_training)


class SWALR(LRScheduler):
    """Moves every learning rate to ``swa_lr`` within ``anneal_epochs`` steps and keeps it there.

    Args:
        swa_lr: the final rate, one or one per group.
        anneal_epochs: steps of the transition; 0 jumps. Default: 10.
        anneal_strategy: ``"cos"`` or ``"linear"``. Default: ``"cos"``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Any,
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"[SWALR] anneal_strategy: expected 'cos' or 'linear', got {anneal_strategy!r}")
        check_positive_int("SWALR", "anneal_epochs", anneal_epochs, least=0)
        groups = optimizer.param_groups
        for group, rate in zip(groups, expand("SWALR", "swa_lr", swa_lr, len(groups)), strict=True):
            group["swa_lr"] = rate
        self.anneal_epochs = anneal_epochs
        self.anneal_strategy = anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, step: int) -> float:
        """How far the transition is after ``step`` steps, from 0 to 1."""
        t = max(0.0, min(1.0, step / max(1, self.anneal_epochs)))
        return t if self.anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2

    def get_lr(self) -> list[Any]:
        """From the present rate back to the starting rate, then on to the share of this step."""
        step = self._step_count - 1 if self.anneal_epochs else max(1, self._step_count - 1)
        before, now = self._share(max(0, step - 1)), self._share(step)
        rates = []
        for group in self.optimizer.param_groups:
            target, rate = group["swa_lr"], group["lr"]
            start = target if before == 1 else (rate - before * target) / (1 - before)
            rates.append(target * now + start * (1 - now))
        return rates
