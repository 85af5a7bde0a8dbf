"""The bilinear map."""

from __future__ import annotations

from ..._C import Tensor
from ...functional import einsum

__all__ = ["bilinear"]


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``y[..., k] = x1 @ weight[k] @ x2 + bias[k]``.

    Args:
        input1: shape ``(..., in1)``. input2: shape ``(..., in2)``, with the same leading axes.
        weight: shape ``(out, in1, in2)``. bias: shape ``(out,)``.
    """
    out = einsum("...i,kij,...j->...k", input1, weight, input2)
    return out if bias is None else out + bias
