"""All parameters as one vector."""

from __future__ import annotations

from collections.abc import Iterable

from ..._C import Tensor, cat

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The parameters, flattened and joined; gradients flow back to them."""
    return cat([param.reshape(-1) for param in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Writes the slices of ``vec`` into the parameters, in order.

    Raises:
        TypeError: ``vec`` is not a tensor.
        ValueError: the sizes do not add up.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"[vector_to_parameters] vec: expected Tensor, got {type(vec).__name__}")
    params = list(parameters)
    total = sum(param.numel() for param in params)
    if vec.numel() < total:
        raise ValueError(f"[vector_to_parameters] vec: expected {total} elements, got {vec.numel()}")
    start = 0
    for param in params:
        param.data = vec[start : start + param.numel()].view_as(param).data
        start += param.numel()
