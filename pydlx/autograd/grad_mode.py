"""Context managers and decorators that switch recording on and off."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from .. import _C

F = TypeVar("F", bound=Callable[..., Any])


def is_grad_enabled() -> bool:
    """Whether operations are recorded in this thread."""
    return _C._is_grad_enabled()


def is_inference_mode_enabled() -> bool:
    """Whether this thread is in inference mode."""
    return _C._is_inference_mode()


def _is_generator_function(function: Any) -> bool:  # inspect's is the same, but importing inspect costs 10 ms
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and bool(code.co_flags & 0x20)  # CO_GENERATOR


class _ModeDecorator:
    """A context manager that also decorates functions and generators; every use gets a fresh instance."""

    def clone(self) -> _ModeDecorator:
        return type(self)()

    def __enter__(self) -> Any:
        raise NotImplementedError(f"[{type(self).__name__}] use a subclass")

    def __exit__(self, *exc: object) -> None:
        raise NotImplementedError(f"[{type(self).__name__}] use a subclass")

    def __call__(self, function: F) -> F:
        if _is_generator_function(function):

            @functools.wraps(function)
            def generate(*args: Any, **kwargs: Any) -> Any:
                # The mode holds while the generator's own code runs, not while its consumer does.
                generator = function(*args, **kwargs)
                try:
                    with self.clone():
                        item = next(generator)
                    while True:
                        try:
                            sent = yield item
                        except GeneratorExit:
                            generator.close()
                            raise
                        except BaseException as error:
                            with self.clone():
                                item = generator.throw(error)
                        else:
                            with self.clone():
                                item = generator.send(sent)
                except StopIteration as stop:
                    return stop.value

            return cast(F, generate)

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self.clone():
                return function(*args, **kwargs)

        return cast(F, wrapped)


class no_grad(_ModeDecorator):
    """Nothing is recorded inside: results do not require gradients. ``with no_grad():`` or ``@no_grad()``."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        self = super().__new__(cls)
        return self if function is None else self(function)

    def __enter__(self) -> None:
        self._previous = _C._is_grad_enabled()
        _C._set_grad_enabled(False)

    def __exit__(self, *exc: object) -> None:
        _C._set_grad_enabled(self._previous)


class enable_grad(_ModeDecorator):
    """Recording is on inside, also within ``no_grad``."""

    def __new__(cls, function: Callable[..., Any] | None = None) -> Any:
        self = super().__new__(cls)
        return self if function is None else self(function)

    def __enter__(self) -> None:
        self._previous = _C._is_grad_enabled()
        _C._set_grad_enabled(True)

    def __exit__(self, *exc: object) -> None:
        _C._set_grad_enabled(self._previous)


class set_grad_enabled(_ModeDecorator):
    """Switches recording at once; as a context manager it restores the earlier state."""

    def __init__(self, mode: bool) -> None:
        if not isinstance(mode, bool):
            raise TypeError(f"[set_grad_enabled] mode: expected True or False, got {mode!r}")
        self._mode = mode
        self._previous = _C._is_grad_enabled()
        _C._set_grad_enabled(mode)

    def clone(self) -> set_grad_enabled:
        return set_grad_enabled(self._mode)

    def __call__(self, function: F) -> F:
        _C._set_grad_enabled(self._previous)  # used as a decorator: nothing changes now
        return super().__call__(function)

    def __enter__(self) -> None:
        _C._set_grad_enabled(self._mode)

    def __exit__(self, *exc: object) -> None:
        _C._set_grad_enabled(self._previous)


class inference_mode(_ModeDecorator):
    """Like ``no_grad``, and results can never enter a recorded graph, which catches mistakes."""

    def __new__(cls, mode: Any = True) -> Any:
        self = super().__new__(cls)
        if callable(mode):
            self._mode = True
            return self(mode)
        return self

    def __init__(self, mode: bool = True) -> None:
        self._mode = mode

    def clone(self) -> inference_mode:
        return inference_mode(self._mode)

    def __enter__(self) -> None:
        self._previous = (_C._is_inference_mode(), _C._is_grad_enabled())
        _C._set_inference_mode(self._mode)
        if self._mode:
            _C._set_grad_enabled(False)

    def __exit__(self, *exc: object) -> None:
        _C._set_inference_mode(self._previous[0])
        _C._set_grad_enabled(self._previous[1])
