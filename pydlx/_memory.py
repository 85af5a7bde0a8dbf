"""Tensors as plain bytes and back, sharing memory: what files and worker processes are written with."""

from __future__ import annotations

from typing import Any

from . import Tensor, empty, from_numpy, uint8
from . import dtype as DType

__all__ = ["bytes_of", "tensor_over"]


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor of any dtype, as a flat memoryview on its memory."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    return memoryview(tensor.detach().reshape(-1).view(uint8).numpy())


def tensor_over(buffer: Any, dtype: DType, shape: tuple[int, ...]) -> Tensor:
    """A tensor on the memory of a buffer, which it keeps alive.

    Args:
        buffer: writable, contiguous, aligned to the element size, exactly as long as the tensor.
    """
    view = memoryview(buffer)
    if view.nbytes == 0:
        return empty(shape, dtype=dtype, device="cpu")
    import numpy  # takes as long to import as the rest of the package

    return from_numpy(numpy.frombuffer(view, dtype=numpy.uint8)).view(dtype).reshape(shape)
