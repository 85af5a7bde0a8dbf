"""Loss scaling: keeps small float16 gradients from vanishing."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from .. import _C, cuda

__all__ = ["GradScaler"]

_READY, _UNSCALED, _STEPPED = "ready", "unscaled", "stepped"


class GradScaler:
    """Multiplies the loss before ``backward`` and divides the gradients before the step, skipping steps that overflowed.

    Args:
        device: ``"cuda"`` or ``"cpu"``. A scaler for a GPU that is not there is disabled, with a warning.
        init_scale: Factor at the start. Default: 65536.
        growth_factor: Factor on the scale after ``growth_interval`` steps without overflow. Default: 2.
        backoff_factor: Factor on the scale after an overflow. Default: 0.5.
        growth_interval: Default: 2000.
        enabled: False makes every method pass through. Default: True.

    Raises:
        ValueError: ``growth_factor`` not above 1, or ``backoff_factor`` not below 1.

    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device not in ("cpu", "cuda"):
            raise ValueError(f"[GradScaler] device: expected 'cpu' or 'cuda', got {device!r}")
        if enabled and device == "cuda" and not cuda.is_available():
            warnings.warn("[GradScaler] device: no usable GPU; the scaler is disabled", stacklevel=2)
            enabled = False
        if enabled and not growth_factor > 1.0:
            raise ValueError(f"[GradScaler] growth_factor: expected more than 1, got {growth_factor}")
        if enabled and not backoff_factor < 1.0:
            raise ValueError(f"[GradScaler] backoff_factor: expected less than 1, got {backoff_factor}")
        self._device, self._enabled = device, enabled
        self._scale, self._growth_factor, self._backoff_factor = float(init_scale), growth_factor, backoff_factor
        self._growth_interval, self._growth_tracker = growth_interval, 0
        # Per optimiser: how far, and whether it overflowed.
        self._stages: dict[int, tuple[str, bool | _C.Tensor]] = {}

    def scale(self, outputs: Any) -> Any:
        """``outputs`` (a tensor, or lists and tuples of them) times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, _C.Tensor):
            return outputs * self._scale
        if isinstance(outputs, Iterable):
            scaled = [self.scale(o) for o in outputs]
            return tuple(scaled) if isinstance(outputs, tuple) else scaled
        raise ValueError(f"[GradScaler.scale] outputs: expected tensors, got {type(outputs).__name__}")

    def unscale_(self, optimizer: Any) -> None:
        """Divides the optimiser's gradients by the scale, for instance to clip them before :meth:`step`.

        Raises:
            RuntimeError: called twice for one step, or after it.
        """
        if not self._enabled:
            return
        stage, _ = self._stages.get(id(optimizer), (_READY, False))
        if stage == _UNSCALED:
            raise RuntimeError("[GradScaler.unscale_] optimizer: its gradients are already unscaled since update()")
        if stage == _STEPPED:
            raise RuntimeError("[GradScaler.unscale_] optimizer: expected a call before step(), not after it")
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not grads:
            raise RuntimeError("[GradScaler.unscale_] optimizer: expected gradients; none of its parameters has one")
        if any(grad.dtype == _C.float16 for grad in grads):
            raise ValueError(
                "[GradScaler.unscale_] optimizer: expected float32 gradients, got float16; keep the parameters "
                "float32 and use autocast"
            )
        overflowed = _C.scale_and_check_(grads, 1.0 / self._scale)  # read in step(), so that nothing waits until then
        self._stages[id(optimizer)] = (_UNSCALED, overflowed)

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step(*args, **kwargs)``, unless a gradient was infinite or NaN; unscales first when nobody has.

        Raises:
            RuntimeError: called twice without :meth:`update`, or with a closure.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("[GradScaler.step] closure: not supported; the gradients must exist before the step")
        stage, _ = self._stages.get(id(optimizer), (_READY, False))
        if stage == _STEPPED:
            raise RuntimeError("[GradScaler.step] optimizer: expected update() since its last step")
        if stage == _READY:
            self.unscale_(optimizer)
        overflowed = bool(self._stages[id(optimizer)][1])
        result = None if overflowed else optimizer.step(*args, **kwargs)
        self._stages[id(optimizer)] = (_STEPPED, overflowed)
        return result

    def update(self, new_scale: Any = None) -> None:
        """Adapts the scale after all optimisers have stepped, or sets it.

        Raises:
            RuntimeError: no gradients were unscaled since the last call.
        """
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._stages:
            raise RuntimeError("[GradScaler.update] expected step() or unscale_() before update()")
        elif any(bool(overflowed) for _, overflowed in self._stages.values()):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                grown = self._scale * self._growth_factor
                if grown < float("inf"):
                    self._scale = grown
                self._growth_tracker = 0
        self._stages.clear()

    def get_scale(self) -> float:
        """The present scale; 1 when disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """Factor on the scale after enough steps without overflow."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Sets the growth factor."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """Factor on the scale after an overflow."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Sets the backoff factor."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Steps without overflow after which the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Sets the growth interval."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether the scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` restores; empty when disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores a state.

        Raises:
            RuntimeError: the state is empty, as that of a disabled scaler.
        """
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "[GradScaler.load_state_dict] state_dict: expected a state of an enabled scaler, got an empty one"
            )
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]
