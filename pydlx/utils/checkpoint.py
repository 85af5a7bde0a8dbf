"""Trading time for memory: a checkpointed part of a network keeps its inputs only and runs again in backward."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from .. import _C
from .._C import GradientError, Tensor
from ..amp import autocast
from ..autograd import enable_grad, is_grad_enabled
from ..autograd.graph import saved_tensors_hooks
from ..random import fork_rng, get_rng_states, set_rng_states

__all__ = ["checkpoint", "checkpoint_sequential", "noop_context_fn"]

_Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


class _Kept:
    """Stands in the graph for a tensor of the first run; gets the tensor of the second run when backward asks for one."""

    __slots__ = ("__weakref__", "place", "tensor")

    def __init__(self, place: int) -> None:
        self.place = place
        self.tensor: Tensor | None = None


class _Complete(Exception):
    """Ends a second run that has made everything the graph still holds."""


class _Arguments:
    """Arguments of the second run. Tensors that belong to an enclosing checkpoint are kept by that one."""

    def __init__(self, args: Sequence[Any]) -> None:
        self._args = list(args)
        self._versions = {i: arg._version for i, arg in enumerate(args) if isinstance(arg, Tensor)}
        hooks = _C._saved_tensors_hooks()
        self._unpack = hooks[1] if hooks else None
        self._needs_grad = {i: args[i].requires_grad for i in self._versions}
        if hooks:
            for i in self._versions:
                self._args[i] = hooks[0](args[i].detach())

    def get(self) -> list[Any]:
        args = list(self._args)
        for i, version in self._versions.items():
            if self._unpack:
                args[i] = self._unpack(args[i])
            elif args[i]._version != version:
                raise GradientError(
                    f"[checkpoint] argument {i}: expected the tensor of the first run, but it was changed in place; clone() it before"
                )
            args[i] = args[i].detach().requires_grad_(self._needs_grad[i])
        return args


class _Region:
    """A call whose saved tensors are made again when backward wants the first of them."""

    def __init__(self, call: Callable[..., Any], args: Sequence[Any], keep_random: bool, again: Any) -> None:
        self._call, self._args, self._again = call, _Arguments(args), again
        self._random = get_rng_states() if keep_random else None
        self._casts = [(device, _C._autocast_dtype(device), _C._autocast_enabled(device)) for device in ("cpu", "cuda")]
        self._kept: list[weakref.ref[_Kept]] = []
        self._count = 0  # tensors of the second run

    def pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(len(self._kept))
        self._kept.append(weakref.ref(kept))
        return kept

    def unpack(self, kept: _Kept) -> Tensor:
        if kept.tensor is None:
            self._run_again()
        if kept.tensor is None:
            raise GradientError(
                f"[checkpoint] function: expected the second run to do what the first did, but it kept only {self._count} of "
                f"{len(self._kept)} tensors for backward; it must not depend on anything that changes between the runs"
            )
        return kept.tensor

    def _run_again(self) -> None:
        self._count, last = 0, max(i for i, kept in enumerate(self._kept) if kept() is not None)

        def pack(tensor: Tensor) -> None:
            place, self._count = self._count, self._count + 1
            kept = self._kept[place]() if place < len(self._kept) else None
            if kept is not None:
                kept.tensor = tensor.detach()
            if place >= last:
                raise _Complete

        def unpack(_: None) -> Tensor:
            raise GradientError("[checkpoint] function: expected no backward pass inside a checkpointed function")

        with ExitStack() as stack:
            stack.enter_context(enable_grad())
            stack.enter_context(fork_rng(enabled=self._random is not None))
            if self._random is not None:
                set_rng_states(self._random)
            for device, dtype, enabled in self._casts:
                stack.enter_context(autocast(device, dtype, enabled))
            stack.enter_context(self._again)
            args = self._args.get()
            stack.enter_context(saved_tensors_hooks(pack, unpack))
            with contextlib.suppress(_Complete):
                self._call(*args)


def noop_context_fn() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The ``context_fn`` that does nothing."""
    return contextlib.nullcontext(), contextlib.nullcontext()


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: _Contexts = noop_context_fn,
    preserve_rng_state: bool = True,
    determinism_check: str = "default",
    debug: bool = False,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """Calls ``function(*args, **kwargs)`` without keeping what lies between its inputs and outputs.

    Backward runs the function a second time, under the same autocast, when it wants the first of the intermediate values
    (Chen et al., 2016). The graph is that of the plain call: gradients flow to whatever the function uses and from whatever
    it makes, with ``backward()`` and ``autograd.grad``, and may be differentiated again. Checkpoints may lie inside others.

    Args:
        function: a module or function that does the same when it is called twice.
        args, kwargs: its arguments.
        context_fn: returns two context managers, for the first and for the second run.
        preserve_rng_state: the second run draws the same random numbers (dropout), on every device. Default: ``True``.
        use_reentrant, determinism_check, debug, early_stop: accepted for compatibility; there is one implementation.

    Returns:
        The function's result.

    Raises:
        GradientError: in backward, if the second run keeps other tensors than the first, or an argument was changed in place.
    """
    first, again = context_fn()
    if not is_grad_enabled():
        with first:
            return function(*args, **kwargs)
    region = _Region(lambda *values: function(*values, **kwargs), args, preserve_rng_state, again)
    with first, saved_tensors_hooks(region.pack, region.unpack):
        return function(*args, **kwargs)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Runs a Sequential in ``segments`` parts of equal length, all but the last of them checkpointed.

    Args:
        functions: ``nn.Sequential`` or a list of modules or functions.
        segments: number of parts, from 1 to the number of functions.
        input: argument of the first.
        kwargs: ``preserve_rng_state``.
    """
    layers: Sequence[Callable[[Any], Any]] = list(functions.children() if hasattr(functions, "children") else functions)
    if not 1 <= segments <= len(layers):
        raise ValueError(f"[checkpoint_sequential] segments: expected 1 to {len(layers)}, got {segments}")

    def part(start: int, end: int) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for layer in layers[start:end]:
                value = layer(value)
            return value

        return run

    size = len(layers) // segments
    for i in range(segments - 1):
        input = checkpoint(part(i * size, (i + 1) * size), input, use_reentrant=use_reentrant, **kwargs)
    return part((segments - 1) * size, len(layers))(input)
