"""Trading time for memory: a checkpointed part of a network keeps its inputs only and runs again in backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._C import Tensor, empty
from ..autograd import Function, backward, enable_grad, is_grad_enabled
from ..random import fork_rng, get_rng_state, set_rng_state

__all__ = ["checkpoint", "checkpoint_sequential"]


class _Checkpoint(Function):
    """Runs without recording and repeats the run with recording when the gradient arrives."""

    @staticmethod
    def forward(ctx: Any, call: Callable[..., Any], keep_random: bool, _gate: Tensor, *args: Any) -> Any:
        ctx.call = call
        ctx.random = get_rng_state() if keep_random else None
        ctx.places = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
        ctx.args = [None if isinstance(arg, Tensor) else arg for arg in args]
        ctx.save_for_backward(*[args[i] for i in ctx.places])
        return call(*args)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        args = list(ctx.args)
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            args[place] = tensor.detach().requires_grad_(tensor.requires_grad)
        with enable_grad(), fork_rng(enabled=ctx.random is not None):
            if ctx.random is not None:
                set_rng_state(ctx.random)
            outputs = ctx.call(*args)
        outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
        wanted = [
            (out, grad)
            for out, grad in zip(outputs, grads, strict=True)
            if isinstance(out, Tensor) and out.requires_grad and grad is not None
        ]
        if wanted:
            backward([out for out, _ in wanted], [grad for _, grad in wanted])
        return None, None, None, *(arg.grad if isinstance(arg, Tensor) else None for arg in args)


def checkpoint(
    function: Callable[..., Any],
    *args: Any,
    use_reentrant: bool | None = None,
    preserve_rng_state: bool = True,
    determinism_check: str = "default",
    debug: bool = False,
    **kwargs: Any,
) -> Any:
    """Calls ``function(*args, **kwargs)`` without keeping what lies between its inputs and outputs.

    Backward runs the function a second time to get the intermediate values (Chen et al., 2016). The parameters it
    uses receive their gradients in ``.grad`` during that second run, so use ``backward()``, not ``autograd.grad``,
    for them; gradients of gradients are not available.

    Args:
        function: a module or function of tensors that gives the same result when called twice.
        args, kwargs: its arguments. Gradients flow to tensors among ``args``, not to those inside lists or ``kwargs``.
        preserve_rng_state: the second run draws the same random numbers (dropout). Default: ``True``.
        use_reentrant, determinism_check, debug: accepted for compatibility; there is one implementation.

    Returns:
        The function's result: a tensor or a tuple.
    """
    trained = [p for p in function.parameters() if p.requires_grad] if hasattr(function, "parameters") else [None]
    tensors = [arg for arg in args if isinstance(arg, Tensor) and arg.requires_grad]
    if not is_grad_enabled() or not (trained or tensors):
        return function(*args, **kwargs)
    gate = empty(0).requires_grad_()  # has backward called although no argument may need a gradient
    return _Checkpoint.apply(lambda *values: function(*values, **kwargs), preserve_rng_state, gate, *args)


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
