"""Checking gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import _C
from .._C import Tensor


def _outputs(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Tensor]:
    result = function(*inputs)
    values = list(result) if isinstance(result, (tuple, list)) else [result]
    return [v for v in values if isinstance(v, Tensor) and v.dtype.is_floating_point]


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """Compares the full Jacobian from backward with central differences, element by element.

    Inputs that require gradients should be float64. Returns True, or raises ``GradientError`` (returns False without
    ``raise_exception``) naming input and output element.
    """
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    leaves = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    if not leaves:
        raise ValueError("[gradcheck] inputs: expected at least one tensor that requires a gradient")
    outputs = _outputs(func, args)
    for number, output in enumerate(outputs):
        if not output.requires_grad:
            continue
        size = output.numel()
        analytic: list[list[list[float]]] = [[] for _ in leaves]
        for j in range(size):
            seed = _C.zeros_like(output)
            seed.reshape(-1)[j] = 1
            grads = _C._grad([output], leaves, [seed], True, False)
            for k, g in enumerate(grads):
                analytic[k].append([0.0] * leaves[k].numel() if g is None else g.reshape(-1).tolist())
        for k, leaf in enumerate(leaves):
            data = leaf.data
            flat_values = data.reshape(-1).tolist()
            for i, value in enumerate(flat_values):
                columns = []
                for sign in (1.0, -1.0):
                    _set(data, i, value + sign * eps)
                    columns.append(_outputs(func, args)[number].detach().reshape(-1).tolist())
                _set(data, i, value)
                for j in range(size):
                    numeric = (columns[0][j] - columns[1][j]) / (2 * eps)
                    exact = analytic[k][j][i]
                    if not abs(numeric - exact) <= atol + rtol * abs(numeric):
                        if raise_exception:
                            raise _C.GradientError(
                                f"[gradcheck] input {k} element {i}, output {number} element {j}: "
                                f"expected {numeric:.8g} from finite differences, got {exact:.8g} from backward"
                            )
                        return False
    return True


def _set(data: Tensor, position: int, value: float) -> None:
    index = []
    for size in reversed(tuple(data.shape)):
        index.append(position % size)
        position //= size
    data[tuple(reversed(index))] = value


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
) -> bool:
    """``gradcheck`` of the gradient itself, with random cotangents when none are given."""
    args = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    outputs = _outputs(func, args)
    if grad_outputs is None:
        cotangents = [_C.randn(tuple(o.shape), dtype=o.dtype, device=o.device).requires_grad_(True) for o in outputs]
    else:
        cotangents = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    count = len(args)

    def first(*everything: Any) -> tuple[Tensor, ...]:
        original, seeds = everything[:count], everything[count:]
        leaves = [a for a in original if isinstance(a, Tensor) and a.requires_grad]
        grads = _C._grad(_outputs(func, original), leaves, list(seeds), True, True)
        return tuple(g for g in grads if g is not None)

    return gradcheck(first, (*args, *cotangents), eps=eps, atol=atol, rtol=rtol, raise_exception=raise_exception)
