"""Operations whose gradient is written in Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import _C
from .._C import Tensor
from .grad_mode import no_grad


class FunctionCtx:
    """What ``forward`` leaves for ``backward``. Tensors go through ``save_for_backward``; anything else may be an attribute."""

    needs_input_grad: tuple[bool, ...]

    def __init__(self) -> None:
        self._to_save: tuple[Any, ...] = ()
        self._dirty: tuple[Any, ...] = ()
        self._non_differentiable: tuple[Any, ...] = ()
        self._saved: tuple[Any, ...] | None = None
        self.materialize_grads = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keeps tensors for backward; changing them in place afterwards is detected."""
        self._to_save = tensors

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        """The tensors given to ``save_for_backward``; available in ``backward``."""
        if self._saved is None:
            raise _C.GradientError("[saved_tensors] available only inside backward of the function")
        return self._saved

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Names inputs that ``forward`` changed in place and returns."""
        self._dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Names outputs that have no gradient."""
        self._non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """With False, ``backward`` gets None instead of zeros for outputs that received no gradient."""
        self.materialize_grads = value


class Function:
    """Base class of custom operations: define ``forward(ctx, *args)`` and ``backward(ctx, *grad_outputs)`` as static methods, then call
    ``MyFunction.apply(*args)``. ``forward(*args)`` together with ``setup_context(ctx, inputs, output)`` works too.

    ``backward`` returns one gradient (or None) per argument of ``forward``. Written with differentiable operations it can itself be
    differentiated.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("[Function] forward: define it as a static method of your subclass")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        raise NotImplementedError("[Function] backward: define it as a static method of your subclass")

    setup_context: Callable[..., None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(
            f"[{type(self).__name__}] custom functions are not instantiated; call {type(self).__name__}.apply(...)"
        )

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Runs ``forward`` and records the operation."""
        ctx = FunctionCtx()
        recording = _C._is_grad_enabled()
        ctx.needs_input_grad = tuple(recording and isinstance(a, Tensor) and a.requires_grad for a in args)
        with no_grad():
            if cls.setup_context is not None:
                outputs = cls.forward(*args, **kwargs)
                cls.setup_context(ctx, args, outputs)
            else:
                outputs = cls.forward(ctx, *args, **kwargs)
        if not any(ctx.needs_input_grad):
            return outputs
        result = _C._record_function(cls, ctx, args, outputs, ctx._to_save, ctx._dirty, ctx._non_differentiable)
        ctx._to_save = ctx._dirty = ctx._non_differentiable = ()
        return result


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a ``backward`` that cannot be differentiated again: its result then requires no gradient."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Any) -> Any:
        with no_grad():
            return backward(ctx, *grads)

    return wrapped
