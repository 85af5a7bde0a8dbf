"""Tensors that a Module recognises when they are assigned to it: Parameter and Buffer."""

from __future__ import annotations

from typing import Any

from .._C import Tensor, empty

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter"]


class Parameter(Tensor):
    """A tensor that a :class:`~pydlx.nn.Module` lists among its parameters when it is set as an attribute.

    Args:
        data: values; the storage is shared, the autograd history is not. Default: an empty tensor.
        requires_grad: whether gradients are wanted. Default: ``True``.

    Raises:
        TypeError: ``data`` is not a tensor.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            data = empty(0)
        elif not isinstance(data, Tensor):
            raise TypeError(
                f"[{cls.__name__}] data: expected Tensor, got {type(data).__name__}; convert it with pydlx.tensor(data)"
            )
        return Tensor._make_subclass(cls, data.detach(), requires_grad)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]  # type: ignore[no-any-return]


class Buffer(Tensor):
    """A tensor that a Module registers as a buffer (part of its state, not trained) when it is set as an attribute.

    Args:
        data: values; the storage is shared.
        persistent: whether ``state_dict`` includes it. Default: ``True``.
    """

    persistent: bool

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        if data is None:
            data = empty(0)
        buffer = Tensor._make_subclass(cls, data.detach(), data.requires_grad)
        buffer.persistent = persistent
        return buffer  # type: ignore[no-any-return]


class UninitializedParameter(Parameter):
    """A parameter whose shape is not known yet; see ``nn.LazyLinear``."""

    def __new__(cls, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> UninitializedParameter:
        return super().__new__(cls, empty(0, device=device, dtype=dtype), requires_grad)  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.requires_grad, self.device, self.dtype)
        return memo[id(self)]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedBuffer(Tensor):
    """A buffer whose shape is not known yet."""

    def __new__(cls, requires_grad: bool = False, device: Any = None, dtype: Any = None) -> UninitializedBuffer:
        return Tensor._make_subclass(cls, empty(0, device=device, dtype=dtype), requires_grad)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
