"""Products over named or numbered axes: ``einsum``, ``tensordot``, ``chain_matmul``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import _C
from ._C import Tensor

__all__ = ["chain_matmul", "einsum", "tensordot"]


def einsum(*args: Any) -> Tensor:
    """Einstein summation: ``einsum("bij,bjk->bik", a, b)``.

    Letters name axes; ``...`` stands for broadcast axes; a letter repeated in one operand takes its diagonal; letters
    missing from the output are summed. Without ``->`` the output has the ellipsis first and then the letters used once,
    in alphabetical order. Sizes of 1 broadcast. Operands are contracted from left to right, each pair as one (batched)
    matrix product.

    The list form ``einsum(a, [0, 1], b, [1, 2], [0, 2])`` is understood too; its numbers 0 to 51 stand for A-Z and a-z.

    Raises ``ValueError`` for a malformed equation and ``ShapeError`` for sizes that do not agree.
    """
    if not args:
        raise ValueError("[einsum] equation: expected an equation and tensors, got nothing")
    if isinstance(args[0], str):
        operands = args[1:]
        if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
            operands = tuple(operands[0])
        return _C._einsum(args[0], list(operands))
    tensors, terms = [], []
    for i in range(0, len(args) - 1, 2):
        tensors.append(args[i])
        terms.append(_term(args[i + 1]))
    equation = ",".join(terms)
    if len(args) % 2:
        equation += "->" + _term(args[-1])
    return _C._einsum(equation, tensors)


def _term(axes: Sequence[Any]) -> str:
    out = ""
    for axis in axes:
        if axis is Ellipsis:
            out += "..."
        elif isinstance(axis, int) and 0 <= axis < 52:
            out += chr(ord("A") + axis) if axis < 26 else chr(ord("a") + axis - 26)
        else:
            raise ValueError(f"[einsum] sublist: expected integers from 0 to 51 or Ellipsis, got {axis!r}")
    return out


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, out: Tensor | None = None) -> Tensor:
    """Sum of products over ``dims``: an int n pairs the last n axes of ``a`` with the first n of ``b``; a pair of lists
    pairs ``dims[0][i]`` of ``a`` with ``dims[1][i]`` of ``b``. The result has the other axes of ``a``, then those of ``b``.
    """
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, (list, tuple)):
        if len(dims) != 2:
            raise ValueError(f"[tensordot] dims: expected an int or a pair of lists, got {dims!r}")
        first, second = ([d] if isinstance(d, int) else list(d) for d in dims)
    else:
        if dims < 0 or dims > min(a.ndim, b.ndim):
            raise ValueError(f"[tensordot] dims: expected 0 to {min(a.ndim, b.ndim)}, got {dims}")
        first, second = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    result = _C._tensordot(a, b, first, second)
    return result if out is None else out.copy_(result)


def chain_matmul(*matrices: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of two or more matrices, multiplied in the order that needs the fewest operations."""
    result = matrices[0].clone() if len(matrices) == 1 else _C._multi_dot(list(matrices))
    return result if out is None else out.copy_(result)
