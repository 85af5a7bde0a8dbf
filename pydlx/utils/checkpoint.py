"""Trading time for memory: a checkpointed part of a network keeps its inputs only and runs again in backward."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from threading import RLock
from typing import Any

from .. import _C
from .._C import GradientError, Tensor
from ..amp import autocast
from ..autograd import enable_grad, is_grad_enabled, no_grad
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
    """Arguments of the second run: those of the first. Where hooks are in force, they keep tensors that are no leaves."""

    def __init__(self, args: Sequence[Any]) -> None:
        self._args = list(args)
        self._first: dict[int, int] = {}  # by position of a tensor: where it was passed first
        seen: dict[int, int] = {}
        for i, arg in enumerate(args):
            if isinstance(arg, Tensor):
                self._first[i] = seen.setdefault(id(arg), i)
        self._versions = {i: args[i]._version for i in seen.values()}
        self._packed: dict[int, tuple[Any, bool]] = {}
        hooks = _C._saved_tensors_hooks()
        if not hooks:
            return
        pack, self._unpack = hooks
        with no_grad():
            for i in seen.values():
                if not (args[i].requires_grad and args[i].is_leaf):
                    self._packed[i] = pack(args[i].detach()), args[i].requires_grad
        for i, first in self._first.items():
            if first in self._packed:
                self._args[i] = None

    def get(self) -> list[Any]:
        args = list(self._args)
        for i, first in self._first.items():
            if i != first:
                args[i] = args[first]
            elif i in self._packed:
                packed, needs_grad = self._packed[i]
                with no_grad():
                    tensor = self._unpack(packed)
                args[i] = tensor.detach().requires_grad_(needs_grad)
            elif args[i]._version != self._versions[i]:
                raise GradientError(
                    f"[checkpoint] argument {i}: expected the tensor of the first run, but it was changed in place; clone() it before"
                )
        return args


class _Region:
    """A call whose saved tensors are made again when backward wants the first of them."""

    def __init__(
        self, call: Callable[..., Any], args: Sequence[Any], keep_random: bool, stop: bool, again: Any
    ) -> None:
        self._call, self._args, self._stop, self._again = call, _Arguments(args), stop, again
        self._random = get_rng_states() if keep_random else None
        self._casts = [(device, _C._autocast_dtype(device), _C._autocast_enabled(device)) for device in ("cpu", "cuda")]
        self._kept: list[weakref.ref[_Kept]] = []
        self._lock = RLock()  # threads that go through one graph wait for one second run

    def pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(len(self._kept))
        self._kept.append(weakref.ref(kept))
        return kept

    def unpack(self, kept: _Kept) -> Tensor:
        with self._lock:
            if kept.tensor is None:
                count = self._run_again()
                if kept.tensor is None:
                    raise GradientError(
                        f"[checkpoint] function: expected the second run to do what the first did, but it kept only {count} of "
                        f"{len(self._kept)} tensors for backward; it must not depend on anything that changes between the runs"
                    )
        return kept.tensor

    def _run_again(self) -> int:
        """Fills what the graph still holds; returns how many tensors the function kept."""
        count, last = 0, max(i for i, kept in enumerate(self._kept) if kept() is not None)

        def pack(tensor: Tensor) -> Tensor:
            nonlocal count
            place, count = count, count + 1
            tensor = tensor.detach()
            kept = self._kept[place]() if place < len(self._kept) else None
            if kept is not None:
                kept.tensor = tensor
            if self._stop and place >= last:
                raise _Complete
            return tensor  # for a backward pass inside the function

        with ExitStack() as stack:
            stack.enter_context(enable_grad())
            stack.enter_context(fork_rng(enabled=self._random is not None))
            if self._random is not None:
                set_rng_states(self._random)
            for device, dtype, enabled in self._casts:
                stack.enter_context(autocast(device, dtype, enabled))
            stack.enter_context(self._again)
            args = self._args.get()
            stack.enter_context(saved_tensors_hooks(pack, lambda tensor: tensor))
            with contextlib.suppress(_Complete):
                self._call(*args)
        return count


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
    it makes, with ``backward()`` and ``autograd.grad``, and may be differentiated again. Checkpoints and backward passes may lie
    inside.

    Args:
        function: a module or function that does the same when it is called twice.
        args, kwargs: its arguments.
        context_fn: returns two context managers, for the first and for the second run.
        preserve_rng_state: the second run draws the same random numbers (dropout), on every device. Default: ``True``.
        early_stop: the second run ends when it has made what backward wants. Default: ``True``.
        use_reentrant, determinism_check, debug: accepted for compatibility; there is one implementation.

    Returns:
        The function's result.

    Raises:
        GradientError: in backward, if the second run keeps other tensors than the first, or an argument was changed in place.
    """
    first, again = context_fn()
    if not is_grad_enabled():
        with first:
            return function(*args, **kwargs)
    region = _Region(lambda *values: function(*values, **kwargs), args, preserve_rng_state, early_stop, again)
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
