"""PyTorch with its compiler: the function of a forward row, or the model of a training step, goes through torch.compile."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

__version__ = f"{torch.__version__} compiled"


def __getattr__(name: str) -> Any:
    return getattr(torch, name)


def bench_model(model: Any) -> Any:
    """The compiled model; its first call takes the compiler's time."""
    return torch.compile(model)


def bench_step(step: Any) -> Any:
    """The compiled function of a forward row; other steps as they are (training steps compile their model)."""
    if not isinstance(step, partial):
        return step
    function, (_, *tensors) = step.func, step.args
    compiled = torch.compile(lambda *given: function(torch, *given))
    return lambda: compiled(*tensors)
