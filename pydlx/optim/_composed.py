"""The base of the optimisers written with tensor operations, one parameter at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import Tensor, float32, tensor
from ..autograd import enable_grad, no_grad
from ..cuda import is_current_stream_capturing
from .optimizer import Optimizer

__all__ = ["ComposedOptimizer"]


class ComposedOptimizer(Optimizer):
    """Subclasses define ``_start`` (the state of a fresh parameter) and ``_update`` (one parameter's step)."""

    _counts = True

    def _start(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """The state of a parameter before its first update, without ``step``."""
        raise NotImplementedError

    def _update(self, p: Tensor, grad: Tensor, state: dict[str, Any], t: int, group: dict[str, Any]) -> None:
        """Update ``p`` and ``state`` in place; ``t`` counts this parameter's updates from 1."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: clears the gradients, computes the loss, calls backward and returns the loss.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if (grad := p.grad) is None:
                        continue
                    if self._counts and p.is_cuda and is_current_stream_capturing():
                        name = type(self).__name__
                        raise RuntimeError(
                            f"[{name}.step] expected to run outside of a recorded graph, because its replays would "
                            f"repeat one step count; record the backward pass alone, or use SGD, Adam, AdamW, RMSprop "
                            f"or Adagrad"
                        )
                    state = self.state[p]
                    if not state:
                        if self._counts:
                            state["step"] = tensor(0.0, dtype=float32)
                        state.update(self._start(p, group))
                    t = 0
                    if self._counts:
                        if not isinstance(state["step"], Tensor):  # a plain number in an old checkpoint
                            state["step"] = tensor(float(state["step"]), dtype=float32)
                        t = int(state["step"].item()) + 1
                        state["step"].fill_(t)
                    self._update(p, -grad if group.get("maximize", False) else grad, state, t, group)
        return loss
