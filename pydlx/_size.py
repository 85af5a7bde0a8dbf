"""The class of ``tensor.shape``."""

from __future__ import annotations

from typing import Any


class Size(tuple):  # type: ignore[type-arg]
    """A tuple of sizes that prints like PyTorch's and knows its number of elements."""

    __slots__ = ()

    def numel(self) -> int:
        """Product of the sizes."""
        n = 1
        for s in self:
            n *= s
        return n

    def __repr__(self) -> str:
        return f"pydlx.Size({list(self)})"

    def __getitem__(self, index: Any) -> Any:
        item = tuple.__getitem__(self, index)
        return Size(item) if isinstance(index, slice) else item

    def __add__(self, other: Any) -> Size:
        return Size(tuple.__add__(self, tuple(other)))

    def __reduce__(self) -> Any:
        return Size, (tuple(self),)
