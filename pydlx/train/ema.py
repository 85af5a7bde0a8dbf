"""A running average of a model's weights."""

from __future__ import annotations

import copy
from typing import Any

from ..autograd import no_grad

__all__ = ["ModelEMA"]


class ModelEMA:
    r"""An exponential moving average of the weights, which usually generalises better than the last weights.

    .. math:: \bar w \leftarrow d\, \bar w + (1 - d)\, w, \qquad d = \min(decay, (1 + t) / (10 + t))

    The decay grows with the number of updates t, so the random initial weights are forgotten at once. Floating-point
    buffers (the running statistics of batch norm) are averaged too, other buffers are copied.

    Args:
        model: the model to follow; ``ema.module`` starts as a copy of it, in evaluation mode.
        decay: in [0, 1); 0.999 averages over about a thousand steps.

    Source: Polyak and Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    def __init__(self, model: Any, decay: float = 0.999) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"[ModelEMA] decay: expected a number in [0, 1), got {decay!r}")
        self.decay = decay
        self.updates = 0
        self.module = copy.deepcopy(model).eval()
        for p in self.module.parameters():
            p.requires_grad_(False)

    def update(self, model: Any) -> None:
        """Take the model's current weights into the average; call after every optimiser step."""
        self.updates += 1
        weight = 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        source = model.state_dict()
        with no_grad():
            for name, average in self.module.state_dict().items():
                if average.is_floating_point():
                    average.lerp_(source[name], weight)
                else:
                    average.copy_(source[name])

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and the number of updates."""
        return {"module": self.module.state_dict(), "updates": self.updates, "decay": self.decay}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.module.load_state_dict(state_dict["module"])
        self.updates, self.decay = state_dict["updates"], state_dict["decay"]
